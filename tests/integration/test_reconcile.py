"""The schedule: what nobody told us is asked for."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from local.simulator import Simulator
from tests.conftest import Cloud, Output, Peer, answers, response
from tests.kopokopo import KOPOKOPO_ID, encode, result

EVENT = {"version": "0", "source": "aws.scheduler", "detail-type": "Scheduled Event", "detail": "{}"}
TOKEN = response("200 OK", body=b'{"access_token":"t","expires_in":36000}')


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(port=0, delay=0) as simulator:
        yield simulator


@pytest.fixture
def cloud(deploy: Callable[..., Cloud], simulator: Simulator) -> Cloud:
    return deployed(deploy, simulator.url)


def deployed(deploy: Callable[..., Cloud], url: str) -> Cloud:
    cloud = deploy(KopoKopoApiUrl=url, KopoKopoAuthUrl=url, KopoKopoTimeout="5", CallbackBaseUrl="http://127.0.0.1:9")
    cloud.seconds_left = 55
    return cloud


def initiate(cloud: Cloud, reference: str) -> None:
    cloud.post("/reversals", {"transaction_reference": reference, "reason": "x"})


def run(cloud: Cloud, after: float = 120) -> dict[str, Any]:
    cloud.clock.advance(after)
    summary: dict[str, Any] = cloud.invoke("reconcile", EVENT)
    return summary


def test_a_lost_result_is_found(cloud: Cloud, simulator: Simulator) -> None:
    initiate(cloud, "LOST1")
    assert run(cloud) == {"looked_at": 1, "changed": 1, "unanswered": 0, "finished": True}
    reversal = cloud.get("/reversals/LOST1").json
    assert (reversal["status"], reversal["amount"], reversal["history"][-1]["source"]) == ("reversed", "400.0", "poll")
    assert run(cloud, after=10**6)["looked_at"] == 0
    posts = [
        entry
        for entry in requests.get(f"{simulator.url}/_journal", timeout=5).json()
        if entry["method"] == "POST" and entry["path"] == "/api/v2/reversals"
    ]
    assert len(posts) == 1


def test_a_lost_cancellation_is_found(deploy: Callable[..., Cloud], peer: Callable[..., Peer]) -> None:
    bulk = {"status": "Cancelled"}
    api = peer(
        answers(TOKEN, response("201 Created", f"Location: /api/v2/reversals/{KOPOKOPO_ID}")),
        answers(response("200 OK", body=encode(result(bulk=bulk)))),
    )
    cloud = deployed(deploy, api.url)
    initiate(cloud, "TQ1")
    assert run(cloud)["changed"] == 1
    assert api.requests[2].startswith(f"GET /api/v2/reversals/{KOPOKOPO_ID} HTTP/1.1\r\n".encode())
    assert cloud.get("/reversals/TQ1").json["failure"]["code"] == "cancelled"


def test_what_is_not_decided_is_asked_about_later(cloud: Cloud) -> None:
    initiate(cloud, "WEBHOOK1")
    before = cloud.get("/reversals/WEBHOOK1").json
    assert run(cloud) == {"looked_at": 1, "changed": 0, "unanswered": 0, "finished": True}
    assert run(cloud, after=239)["looked_at"] == 0
    assert run(cloud, after=1)["looked_at"] == 1
    assert cloud.get("/reversals/WEBHOOK1").json == before


@pytest.mark.parametrize("reference", ["BROKEN1", "NOLOC1"])
def test_what_has_no_id_stays_unknown(cloud: Cloud, reference: str) -> None:
    initiate(cloud, reference)
    assert run(cloud) == {"looked_at": 1, "changed": 0, "unanswered": 0, "finished": True}
    assert cloud.get(f"/reversals/{reference}").json["status"] == "unknown"


def test_a_claim_whose_function_died_becomes_unknown(cloud: Cloud) -> None:
    initiate(cloud, "TQ1")
    item = cloud.item("TQ1") or {}
    for name in ("kopokopo_id", "due_at"):
        del item[name]
    item |= {"status": {"S": "initiating"}, "due_at": {"N": str(int(cloud.clock.now().timestamp()) + 28)}}
    cloud.dynamodb.put_item(TableName=cloud.table, Item=item)
    assert run(cloud, after=29)["changed"] == 1
    assert cloud.get("/reversals/TQ1").json["status"] == "unknown"


ANSWERS = {
    "404": response("404 Not Found"),
    "500": response("500 Internal Server Error", body=b"<html>"),
    "302": response("302 Found", "Location: http://["),
    "HTML": response("200 OK", body=b"<html>"),
    "of another": response("200 OK", body=encode(result(id="another"))),
    "no id": response("200 OK", body=encode(result(id=None))),
}


@pytest.mark.parametrize("answer", [pytest.param(answer, id=name) for name, answer in ANSWERS.items()])
def test_an_answer_that_tells_nothing_fails_nothing(
    deploy: Callable[..., Cloud], peer: Callable[..., Peer], answer: bytes
) -> None:
    api = peer(answers(TOKEN, response("201 Created", f"Location: /api/v2/reversals/{KOPOKOPO_ID}")), answers(answer))
    cloud = deployed(deploy, api.url)
    initiate(cloud, "TQ1")
    assert run(cloud)["changed"] == 0
    assert cloud.get("/reversals/TQ1").json["status"] == "pending"


def test_how_old_the_open_ones_are_is_measured(cloud: Cloud, output: Output) -> None:
    initiate(cloud, "WEBHOOK1")
    run(cloud, after=100)
    assert output.metric("OldestOpen") == 100


def test_nothing_due_is_nothing_asked(cloud: Cloud, output: Output) -> None:
    assert run(cloud) == {"looked_at": 0, "changed": 0, "unanswered": 0, "finished": True}
    assert set(cloud.calls) == {"dynamodb:Query"}
    assert output.metric("OldestOpen") == 0
