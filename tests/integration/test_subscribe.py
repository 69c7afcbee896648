"""The custom resource, from CloudFormation's request to its answer."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from local.simulator import Simulator
from tests.conftest import Cloud, Peer, acknowledges


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(port=0) as simulator:
        yield simulator


@pytest.fixture
def cloudformation_(peer: Callable[..., Peer]) -> Peer:
    """Where CloudFormation waits for the answer."""
    return peer(acknowledges)


def event(url: str, request: str = "Create", **properties: str) -> dict[str, Any]:
    return {
        "RequestType": request,
        "ResponseURL": f"{url}/answer?signature=x",
        "StackId": "stack-1",
        "RequestId": "request-1",
        "LogicalResourceId": "WebhookSubscription",
        "ResourceType": "AWS::CloudFormation::CustomResource",
        "ResourceProperties": {"BaseUrl": "https://api.example", "Scope": "company", "ScopeReference": ""} | properties,
    }


def answer_of(peer: Peer) -> dict[str, Any]:
    head, _, body = peer.arrived.get(timeout=5).partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /answer?signature=x HTTP/1.1\r\n")
    document: dict[str, Any] = json.loads(body)
    return document


def test_the_stack_subscribes_its_own_url(
    deploy: Callable[..., Cloud], simulator: Simulator, cloudformation_: Peer
) -> None:
    cloud = deploy(KopoKopoApiUrl=simulator.url, KopoKopoAuthUrl=simulator.url, WebhookScope="company")
    cloud.invoke("subscribe", event(cloudformation_.url))
    answered = answer_of(cloudformation_)
    assert (answered["Status"], answered["StackId"], answered["RequestId"]) == ("SUCCESS", "stack-1", "request-1")
    journal = requests.get(f"{simulator.url}/_journal", timeout=5).json()
    subscribed = [entry["body"] for entry in journal if entry["path"] == "/api/v2/webhook_subscriptions"]
    assert {(it["event_type"], it["url"], it["scope"]) for it in subscribed} == {
        ("buygoods_transaction_reversed", "https://api.example/kopokopo/webhooks", "company"),
        ("b2b_transaction_reversed", "https://api.example/kopokopo/webhooks", "company"),
    }


def test_a_deployment_that_cannot_subscribe_is_told_why(
    deploy: Callable[..., Cloud], cloudformation_: Peer, closed_port: int
) -> None:
    url = f"http://127.0.0.1:{closed_port}"
    cloud = deploy(KopoKopoApiUrl=url, KopoKopoAuthUrl=url, WebhookScope="company")
    cloud.invoke("subscribe", event(cloudformation_.url))
    answered = answer_of(cloudformation_)
    assert (answered["Status"], bool(answered["Reason"])) == ("FAILED", True)
    assert "local-client-secret" not in answered["Reason"]


def test_a_deletion_is_answered_though_nothing_works(cloud: Cloud, cloudformation_: Peer) -> None:
    cloud.invoke("subscribe", event(cloudformation_.url, "Delete"))
    assert answer_of(cloudformation_)["Status"] == "SUCCESS"
