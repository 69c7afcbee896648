"""POST /reversals, against the simulator and against worse."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from local.simulator import Simulator
from tests import kopokopo
from tests.conftest import Cloud, Line, Peer, acknowledges, answers, response
from tests.kopokopo import CANCELLED, result, webhook

LIMIT = 64 * 1024
StartPeer = Callable[..., Peer]
Deploy = Callable[..., Cloud]


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(port=0, delay=0.01) as simulator:
        yield simulator


@pytest.fixture
def merchant(peer: StartPeer) -> Peer:
    """Where the simulator's results arrive."""
    return peer(acknowledges)


@pytest.fixture
def cloud(deploy: Deploy, simulator: Simulator, merchant: Peer) -> Cloud:
    return deployed(deploy, simulator.url, CallbackBaseUrl=merchant.url)


def deployed(deploy: Deploy, url: str, **parameters: str) -> Cloud:
    return deploy(**{"KopoKopoApiUrl": url, "KopoKopoAuthUrl": url, "KopoKopoTimeout": "5"} | parameters)


def body(reference: str = "TQ2L262026", **changes: Any) -> dict[str, Any]:
    return {"transaction_reference": reference, "reason": "Erroneous payment", **changes}


def journal(simulator: Simulator, path: str = "/api/v2/reversals") -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = requests.get(f"{simulator.url}/_journal", timeout=5).json()
    return [entry for entry in entries if entry["path"] == path]


def a_result(merchant: Peer) -> tuple[str, bytes, str]:
    """The path, body and signature of the next result that arrives."""
    head, _, content = merchant.arrived.get(timeout=5).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    return lines[0].split(" ")[1], content, headers["x-kopokopo-signature"]


# ------------------------------------------------------------------------------------------------ the main job


def test_a_reversal_from_its_beginning_to_its_end(cloud: Cloud, simulator: Simulator, merchant: Peer) -> None:
    answer = cloud.post("/reversals", body(metadata={"ticket": "#1283833"}))
    assert answer.status == 201
    assert answer.headers == {"content-type": "application/json", "location": "/reversals/TQ2L262026"}
    (sent,) = journal(simulator)
    assert sent["accepted"] is True
    assert sent["body"] == {
        "transaction_reference": "TQ2L262026",
        "reason": "Erroneous payment",
        "metadata": {"ticket": "#1283833"},
        "_links": {"callback_url": f"{merchant.url}/kopokopo/results/TQ2L262026/1"},
    }
    at = "2026-05-01T07:00:00.000Z"
    history = answer.json.pop("history")
    assert answer.json | {"history": history} == {
        "transaction_reference": "TQ2L262026",
        "status": "pending",
        "attempt": 1,
        "version": 2,
        "reason": "Erroneous payment",
        "metadata": {"ticket": "#1283833"},
        "amount": None,
        "currency": "KES",
        "reversal_reference": None,
        "kopokopo_id": sent["id"],
        "failure": None,
        "conflict": False,
        "created_at": at,
        "updated_at": at,
        "resolved_at": None,
        "history": history,
    }

    path, content, signature = a_result(merchant)
    assert cloud.notify(path, content, signature=signature).status == 200
    reversal = cloud.get("/reversals/TQ2L262026").json
    assert (reversal["status"], reversal["amount"], reversal["version"]) == ("reversed", "400.0", 3)
    assert [(it["status"], it["source"], it["attempt"]) for it in reversal["history"]] == [
        ("pending", "api", 1),
        ("reversed", "callback", 1),
    ]


NEVER_ANSWERED = ("SILENT1", "MUTE1")
BEHAVIOURS: dict[str, tuple[int, str, str | None]] = {
    "TQ2L262026": (201, "pending", None),
    "CANCEL1": (201, "pending", None),
    "LOST1": (201, "pending", None),
    "THRICE1": (201, "pending", None),
    "WEBHOOK1": (201, "pending", None),
    "EARLY1": (201, "pending", None),
    "EXPIRED1": (201, "pending", None),
    "REJECT1": (422, "failed", "rejected"),
    "OLD1": (422, "failed", "rejected"),
    **dict.fromkeys(NEVER_ANSWERED, (202, "unknown", None)),
    "DOWN1": (202, "unknown", None),
    "BROKEN1": (202, "unknown", None),
    "DROP1": (202, "unknown", None),
    "NOLOC1": (202, "unknown", None),
    "MOVED1": (202, "unknown", None),
    "EVIL1": (202, "unknown", None),
}


@pytest.mark.parametrize("reference", BEHAVIOURS)
def test_whatever_kopo_kopo_does_it_is_sent_once(
    deploy: Deploy, simulator: Simulator, merchant: Peer, reference: str
) -> None:
    patience = "0.3" if reference in NEVER_ANSWERED else "5"
    cloud = deployed(deploy, simulator.url, CallbackBaseUrl=merchant.url, KopoKopoTimeout=patience)
    status, stands, code = BEHAVIOURS[reference]
    answer = cloud.post("/reversals", body(reference), headers={"Idempotency-Key": "key-1"})
    assert (answer.status, answer.headers["location"]) == (status, f"/reversals/{reference}")
    item = cloud.item(reference) or {}
    assert item["status"] == {"S": stands}
    assert (item.get("failure", {}).get("M", {}).get("code", {}).get("S")) == code
    assert "kopokopo_id" in item or stands != "pending"

    sent = len(journal(simulator))
    assert sent == (2 if reference == "EXPIRED1" else 1)
    again = cloud.post("/reversals", body(reference), headers={"Idempotency-Key": "key-1"})
    assert again.status == (202 if stands == "unknown" else 200)
    assert again.json["status"] == stands
    assert len(journal(simulator)) == sent
    assert [entry for entry in journal(simulator, "/_trap/api/v2/reversals") if entry["credentials"]] == []


def test_a_refusal_is_told_in_kopo_kopos_words(cloud: Cloud) -> None:
    answer = cloud.post("/reversals", body("OLD1"))
    assert answer.headers["content-type"] == "application/problem+json"
    assert "older than 30 days" in answer.json["detail"]
    assert answer.json["reversal"]["failure"] == {
        "code": "rejected",
        "message": "You cannot reverse a transaction older than 30 days",
    }


def test_somebody_elses_reversal_that_is_running_is_no_refusal(cloud: Cloud, simulator: Simulator) -> None:
    """Reversed by hand a moment ago, say: whether the money moves is not known yet."""
    cloud.post("/reversals", body("LOST1"))
    cloud.dynamodb.delete_item(TableName=cloud.table, Key={"transaction_reference": {"S": "LOST1"}})
    answer = cloud.post("/reversals", body("LOST1"))
    assert (answer.status, answer.json["status"]) == (202, "unknown")


# ------------------------------------------------------------------------------------------------ once more


@pytest.mark.parametrize("changes", [{"reason": "Another"}, {"metadata": {"a": "b"}}])
@pytest.mark.parametrize("reference", ["TQ2L262026", "BROKEN1"])
def test_another_request_for_the_same_transaction_is_a_conflict(
    cloud: Cloud, simulator: Simulator, reference: str, changes: dict[str, Any]
) -> None:
    cloud.post("/reversals", body(reference))
    sent = len(journal(simulator))
    answer = cloud.post("/reversals", body(reference, **changes))
    assert (answer.status, answer.headers["location"]) == (409, f"/reversals/{reference}")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["reversal"]["transaction_reference"] == reference
    assert len(journal(simulator)) == sent


def test_what_was_cancelled_can_be_tried_again_but_not_by_the_same_key(
    cloud: Cloud, simulator: Simulator, merchant: Peer
) -> None:
    cloud.post("/reversals", body("CANCEL1"), headers={"Idempotency-Key": "key-1"})
    path, content, signature = a_result(merchant)
    cloud.notify(path, content, signature=signature)
    again = cloud.post("/reversals", body("CANCEL1"), headers={"idempotency-key": "key-1"})
    assert (again.status, again.json["status"], again.json["attempt"]) == (200, "failed", 1)
    assert len(journal(simulator)) == 1
    other = cloud.post("/reversals", body("CANCEL1"), headers={"Idempotency-Key": "key-2"})
    assert (other.status, other.json["status"], other.json["attempt"]) == (201, "pending", 2)
    assert journal(simulator)[1]["body"]["_links"]["callback_url"].endswith("/kopokopo/results/CANCEL1/2")


def test_what_was_reversed_elsewhere_is_not_reversed_again(cloud: Cloud, simulator: Simulator) -> None:
    cloud.notify("/kopokopo/webhooks", webhook("TQ2L262026"))
    answer = cloud.post("/reversals", body())
    assert (answer.status, answer.json["reversal"]["status"]) == (409, "reversed")
    assert journal(simulator) == []


def test_a_conflict_blocks_further_attempts(cloud: Cloud, simulator: Simulator) -> None:
    cloud.deliver(result(bulk=CANCELLED))
    cloud.deliver(result())
    answer = cloud.post("/reversals", body())
    assert (answer.status, answer.json["reversal"]["conflict"]) == (409, True)
    assert journal(simulator) == []


def test_a_claim_that_nobody_can_be_making_any_more_is_not_sent_again(cloud: Cloud, simulator: Simulator) -> None:
    cloud.post("/reversals", body())
    key = {"transaction_reference": {"S": "TQ2L262026"}}
    values = {":s": {"S": "initiating"}}
    cloud.dynamodb.update_item(
        TableName=cloud.table,
        Key=key,
        UpdateExpression="SET #s = :s",
        ExpressionAttributeNames={"#s": "status"},
        ExpressionAttributeValues=values,
    )
    for seconds, status in ((28, "initiating"), (0.1, "unknown")):
        cloud.clock.advance(seconds)
        answer = cloud.post("/reversals", body())
        assert (answer.status, answer.json["status"]) == (202, status)
    assert len(journal(simulator)) == 1


# ------------------------------------------------------------------------------------------------ not sent


@pytest.mark.parametrize("what", ["nobody listens", "no credentials", "wrong credentials", "no time"])
def test_what_was_not_sent_is_safe_to_try_again(
    cloud: Cloud, deploy: Deploy, simulator: Simulator, closed_port: int, what: str
) -> None:
    if what == "nobody listens":
        cloud = deployed(deploy, f"http://127.0.0.1:{closed_port}")
    if "credentials" in what:
        cloud.put_secret("CredentialsSecret", {"client_id": "x", "client_secret": "y"} if "wrong" in what else {})
    if what == "no time":
        cloud.seconds_left = 6.2
    answer = cloud.post("/reversals", body())
    assert answer.status == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["location"] == "/reversals/TQ2L262026"
    assert answer.json["reversal"]["failure"]["code"] == "not_sent"
    assert journal(simulator) == []

    cloud.put_secret("CredentialsSecret", {"client_id": "local-client-id", "client_secret": "local-client-secret"})
    cloud.seconds_left = 28
    if what != "nobody listens":
        again = cloud.post("/reversals", body())
        assert (again.status, again.json["attempt"]) == (201, 2)


def test_429_is_not_sent_again_by_us(deploy: Deploy, peer: StartPeer) -> None:
    token = response("200 OK", body=b'{"access_token":"t","expires_in":3600}')
    api = peer(answers(token, response("429 Too Many Requests", "Retry-After: 1"), response("201 Created")))
    answer = deployed(deploy, api.url).post("/reversals", body())
    assert (answer.status, answer.json["reversal"]["failure"]["code"]) == (503, "not_sent")
    assert len(api.requests) == 2


def test_a_table_that_is_not_there_sends_nothing(cloud: Cloud, simulator: Simulator) -> None:
    cloud.dynamodb.delete_table(TableName=cloud.table)
    answer = cloud.post("/reversals", body())
    assert (answer.status, answer.headers.get("location")) == (503, None)
    assert int(answer.headers["retry-after"]) > 0
    assert journal(simulator) == []


def test_a_deployment_that_lacks_a_setting_says_so_to_the_log_alone(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.cold_start("initiate")
    monkeypatch.delenv("TOKEN_SECRET")
    answer = cloud.post("/reversals", body())
    assert answer.status == 500
    assert "TOKEN_SECRET" not in answer.body


# ------------------------------------------------------------------------------------------------ the answers to POST

ID = kopokopo.KOPOKOPO_ID
TOKEN = response("200 OK", body=b'{"access_token":"t","expires_in":3600}')
ANSWERED = {
    "201, empty": ("201 Created", ["location: {url}/api/v2/reversals/" + ID], b"", 201),
    "201, JSON": ("201 Created", ["Location: {url}/api/v2/reversals/" + ID], b'{"data":null}', 201),
    "201, relative": ("201 Created", ["Location: /api/v2/reversals/" + ID], b"", 201),
    "200": ("200 OK", ["Location: {url}/api/v2/reversals/" + ID], b"{}", 201),
    "202": ("202 Accepted", ["LOCATION: {url}/api/v2/reversals/" + ID], b"", 201),
    "201, no Location": ("201 Created", [], b'{"id":"' + ID.encode() + b'"}', 202),
    "201, two Locations": ("201 Created", ["Location: /api/v2/reversals/a", "Location: /api/v2/reversals/b"], b"", 202),
    "201, another host": ("201 Created", ["Location: https://evil.example/api/v2/reversals/" + ID], b"", 202),
    "302": ("302 Found", ["Location: {url}/api/v2/reversals/" + ID], b"", 202),
    "307": ("307 Temporary Redirect", ["Location: {url}/elsewhere"], b"", 202),
    "302, nowhere": ("302 Found", ["Location: http://["], b"", 202),
    "400, a string": ("400 Bad Request", [], b'{"error_code":400,"error_message":"No"}', 422),
    "400, a list": ("400 Bad Request", [], b'{"error_code":400,"error_message":["No","Never"]}', 422),
    "400, pending": ("400 Bad Request", [], b'{"error_message":["... in Pending Reversal"]}', 202),
    "400, HTML": ("400 Bad Request", [], b"<html>", 422),
    "403": ("403 Forbidden", [], b"", 422),
    "404": ("404 Not Found", [], b'{"error_message":"Not found"}', 422),
    "405": ("405 Method Not Allowed", [], b"", 202),
    "408": ("408 Request Timeout", [], b"", 202),
    "409": ("409 Conflict", [], b'{"error_message":"Duplicate"}', 202),
    "422": ("422 Unprocessable Entity", [], b'{"error_message":["No"]}', 422),
    "500": ("500 Internal Server Error", [], b"<html>", 202),
    "503": ("503 Service Unavailable", ["Retry-After: 1"], b"<html>", 202),
}


@pytest.mark.parametrize(
    ("status", "headers", "content", "expected"), [pytest.param(*it, id=name) for name, it in ANSWERED.items()]
)
def test_an_answer_to_the_post(
    deploy: Deploy, peer: StartPeer, status: str, headers: list[str], content: bytes, expected: int
) -> None:
    def script(line: Line) -> None:
        given = [header.replace("{url}", line.peer.url) for header in headers]
        answers(TOKEN, response(status, *given, body=content))(line)

    api = peer(script)
    answer = deployed(deploy, api.url).post("/reversals", body())
    assert answer.status == expected
    assert len(api.requests) == 2
    assert (api.connections, answer.headers["location"]) == (1, "/reversals/TQ2L262026")


def test_results_come_back_to_this_apis_own_domain(deploy: Deploy, peer: StartPeer) -> None:
    api = peer(answers(TOKEN, response("201 Created", f"Location: /api/v2/reversals/{ID}")))
    deployed(deploy, api.url).post("/reversals", body())
    sent = json.loads(api.requests[1].partition(b"\r\n\r\n")[2])
    domain = "https://api1234.execute-api.eu-west-1.amazonaws.com"
    assert sent["_links"]["callback_url"] == f"{domain}/kopokopo/results/TQ2L262026/1"


def test_credentials_and_token_go_where_the_deployment_says(deploy: Deploy, peer: StartPeer) -> None:
    oauth = peer(answers(TOKEN))
    api = peer(answers(response("201 Created", f"Location: /api/v2/reversals/{ID}")))
    cloud = deploy(KopoKopoApiUrl=api.url, KopoKopoAuthUrl=oauth.url)
    assert cloud.post("/reversals", body()).status == 201
    assert b"client_secret=local-client-secret" in oauth.requests[0]
    assert b"local-client" not in api.requests[0]
    assert b"Authorization: Bearer t\r\n" in api.requests[0]


# ------------------------------------------------------------------------------------------------ the token, the cost


def test_a_token_is_shared_by_every_container(cloud: Cloud, simulator: Simulator) -> None:
    for number in range(3):
        cloud.cold_start("initiate")
        assert cloud.post("/reversals", body(f"TQ{number}")).status == 201
    assert len(journal(simulator, "/oauth/token")) == 1


def test_a_reversal_costs_two_writes_and_a_duplicate_one(cloud: Cloud) -> None:
    cloud.post("/reversals", body("TQ1"))
    cloud.calls.clear()
    cloud.post("/reversals", body("TQ2"))
    assert cloud.calls == ["dynamodb:PutItem", "dynamodb:UpdateItem"]
    cloud.calls.clear()
    cloud.post("/reversals", body("TQ2"))
    assert cloud.calls == ["dynamodb:PutItem"]


# ------------------------------------------------------------------------------------------------ bad input

BAD: dict[str, tuple[Any, dict[str, Any]]] = {
    "no body": (None, {}),
    "empty": ("", {}),
    "no JSON": ("reverse it", {}),
    "a list": ([], {}),
    "no reference": ({"reason": "x"}, {}),
    "an odd reference": (body("TQ 1"), {}),
    "a reference that is too long": (body("T" * 65), {}),
    "no reason": ({"transaction_reference": "TQ1"}, {}),
    "a reason that is too long": (body(reason="x" * 256), {}),
    "six pairs": (body(metadata={str(n): "x" for n in range(6)}), {}),
    "a number in the metadata": (body(metadata={"a": 1}), {}),
    "an unknown field": (body(amount="400"), {}),
    "a name twice": ('{"transaction_reference":"A","transaction_reference":"B","reason":"x"}', {}),
    "half a surrogate pair": ('{"transaction_reference":"A","reason":"\\ud800"}', {}),
    "nested without end": ("[" * 50_000, {}),
    "an empty key": (body(), {"Idempotency-Key": ""}),
    "a key that is too long": (body(), {"Idempotency-Key": "k" * 256}),
    "a form": ("transaction_reference=TQ1", {"Content-Type": "application/x-www-form-urlencoded"}),
    "no content type": (body(), {"Content-Type": None}),
}


@pytest.mark.parametrize(("content", "headers"), [pytest.param(*it, id=name) for name, it in BAD.items()])
@pytest.mark.parametrize("as_base64", [False, True], ids=["text", "base64"])
def test_bad_input_is_told_apart_and_leaves_nothing(
    cloud: Cloud, content: Any, headers: dict[str, Any], as_base64: bool
) -> None:
    answer = cloud.post("/reversals", content, headers=headers, as_base64=as_base64)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["detail"]
    assert cloud.items() == []


@pytest.mark.parametrize("content", [b"\xff\xfe", '{"a":"\u00e9"}'.encode("utf-16"), b"\xef\xbb\xbf{}"])
def test_bytes_that_are_no_utf_8_are_bad_input(cloud: Cloud, content: bytes) -> None:
    assert cloud.post("/reversals", content, as_base64=True).status == 400


def test_every_field_is_named(cloud: Cloud) -> None:
    answer = cloud.post("/reversals", {"transaction_reference": "", "amount": 1})
    assert {error["field"] for error in answer.json["errors"]} == {"transaction_reference", "reason", "amount"}


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 201), (LIMIT + 1, 413)])
def test_a_body_has_a_limit(cloud: Cloud, size: int, status: int) -> None:
    content = json.dumps(body(metadata={"note": ""}))
    content = content.replace('"note": ""', '"note": "' + "x" * (size - len(content)) + '"')
    answer = cloud.post("/reversals", content)
    assert answer.status == status
    assert len(cloud.items()) == (1 if status == 201 else 0)


def test_a_body_in_base64_is_taken(cloud: Cloud) -> None:
    answer = cloud.post("/reversals", body(reason="\u00e9\U0001f600"), as_base64=True)
    assert (answer.status, answer.json["reason"]) == (201, "\u00e9\U0001f600")
