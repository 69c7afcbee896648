"""Every sample in events/ is what AWS would send, and its function takes it."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.simulator import Simulator
from tests import kopokopo
from tests.conftest import ROOT, Cloud, Peer, acknowledges
from tests.kopokopo import REFERENCE, result

SAMPLES = {path.stem: path for path in sorted((ROOT / "events").glob("*.json"))}

# What each function is to say: a status, or the answer as a whole.
ANSWERS: dict[str, Any] = {
    "initiate-reversal": 201,
    "initiate-without-metadata-in-base64": 201,
    "callback-result-transferred": 200,
    "callback-result-cancelled": 200,
    "callback-result-still-undecided": 200,
    "callback-result-in-base64": 200,
    "callback-webhook-buygoods": 200,
    "callback-webhook-b2b": 200,
    "callback-queued-evidence": {"batchItemFailures": []},
    "lookup-reversal": 200,
    "lookup-list": 200,
    "lookup-wrong-path": 404,
    "resolve-reversed": 200,
    "reconcile-schedule": {"looked_at": 1, "changed": 1, "unanswered": 0, "finished": True},
    "publish-stream": {"batchItemFailures": []},
    "publish-again": {"published": 1, "failed": 0, "cursor": None},
    "subscribe-create": None,
    "subscribe-update": None,
    "subscribe-delete": None,
}

# What the table ends with, where a sample changes it.
STATUS = {
    "initiate-reversal": "pending",
    "initiate-without-metadata-in-base64": "pending",
    "callback-result-transferred": "reversed",
    "callback-result-cancelled": "failed",
    "callback-result-still-undecided": "pending",
    "callback-result-in-base64": "reversed",
    "callback-webhook-buygoods": "reversed",
    "callback-webhook-b2b": "reversed",
    "callback-queued-evidence": "reversed",
    "resolve-reversed": "reversed",
}


def sample(name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(SAMPLES[name].read_text(encoding="utf-8"))
    return event


@pytest.fixture
def cloud(deploy: Callable[..., Cloud]) -> Iterator[Cloud]:
    with Simulator(delay=60) as simulator:
        yield deploy(
            KopoKopoApiUrl=simulator.url,
            KopoKopoAuthUrl=simulator.url,
            CallbackBaseUrl="http://127.0.0.1:9",
            WebhookScope="till",
            WebhookScopeReference="000000",
        )


def prepare(cloud: Cloud, name: str) -> None:
    """What has to be there before."""
    if name in {"lookup-reversal", "publish-again"}:
        cloud.deliver(result())
    if name == "resolve-reversed":
        cloud.deliver(result(bulk=kopokopo.CANCELLED))
        cloud.deliver(result())
    if name == "reconcile-schedule":
        cloud.post("/reversals", {"transaction_reference": REFERENCE, "reason": "x"})
        item = {**(cloud.item() or {}), "status": {"S": "initiating"}}
        cloud.dynamodb.put_item(TableName=cloud.table, Item=item)
        cloud.seconds_left = 55
        cloud.clock.advance(120)


def test_every_sample_is_known_and_every_function_has_one() -> None:
    assert SAMPLES.keys() == ANSWERS.keys()
    functions = {path.parent.name for path in Path(ROOT / "functions").glob("*/app.py")}
    assert {name.partition("-")[0] for name in SAMPLES} == functions


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_taken(cloud: Cloud, peer: Callable[..., Peer], name: str) -> None:
    prepare(cloud, name)
    event, cloudformation = sample(name), peer(acknowledges)
    if "ResponseURL" in event:
        event["ResponseURL"] = cloudformation.url
    answer = cloud.invoke(name.partition("-")[0], event)
    assert (answer["statusCode"] if answer and "statusCode" in answer else answer) == ANSWERS[name]
    if name in STATUS:
        assert (cloud.item() or {})["status"] == {"S": STATUS[name]}
    if "ResponseURL" in event:
        told = json.loads(cloudformation.arrived.get(timeout=5).partition(b"\r\n\r\n")[2])
        assert (told["Status"], told["Reason"]) == ("SUCCESS", "")


API_SAMPLES = [name for name in SAMPLES if "routeKey" in sample(name)]


@pytest.mark.parametrize("name", API_SAMPLES)
def test_a_sample_request_takes_a_route_of_the_template(cloud: Cloud, name: str) -> None:
    event = sample(name)
    http = event["requestContext"]["http"]
    assert (event["version"], event["rawPath"], event["routeKey"]) == (
        "2.0",
        http["path"],
        event["requestContext"]["routeKey"],
    )
    assert cloud._route(http["method"], event["rawPath"]) == (
        event["routeKey"],
        name.partition("-")[0],
        event.get("pathParameters", {}),
    )
    assert ("authorizer" in event["requestContext"]) != event["rawPath"].startswith("/kopokopo/")


@pytest.mark.parametrize("name", [name for name in API_SAMPLES if name.startswith("callback")])
def test_a_sample_of_kopo_kopo_is_signed_with_the_laptops_key(name: str) -> None:
    event = sample(name)
    body = base64.b64decode(event["body"]) if event["isBase64Encoded"] else event["body"].encode()
    assert event["headers"]["x-kopokopo-signature"] == kopokopo.sign(body, "local-api-key")
    assert event["headers"]["content-length"] == str(len(body))


def test_the_sample_stream_tells_what_subscribers_hear(cloud: Cloud) -> None:
    cloud.invoke("publish", sample("publish-stream"))
    told = [json.loads(message["Message"]) for message in cloud.told()]
    assert [(event["type"], event["id"]) for event in told] == [
        ("reversal.pending", f"{REFERENCE}:2"),
        ("reversal.reversed", f"{REFERENCE}:3"),
    ]
