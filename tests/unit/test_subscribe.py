"""The custom resource that subscribes the stack's own webhook URL: whatever happens, CloudFormation gets an answer."""

from typing import Any

import pytest
from reversals.errors import InvalidRequestError, NotSentError, TokenError, TokenRefusedError
from reversals.subscribe import Subscriptions, answer

from tests.conftest import Output

PROPERTIES = {"BaseUrl": "https://api.example", "Scope": "till", "ScopeReference": "000000"}
RESOURCE_ID = "https://api.example/kopokopo/webhooks|till|000000"


class FakeKopoKopo:
    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, Any], str]] = []
        self.errors: list[Exception] = []

    def subscribe(self, document: dict[str, Any], access_token: str) -> None:
        self.asked.append((document, access_token))
        if self.errors:
            raise self.errors.pop(0)


class FakeTokens:
    error: Exception | None = None

    def get(self) -> str:
        if self.error:
            raise self.error
        return "old"

    def replace(self, refused: str) -> str:
        return "new"


class Setting:
    def __init__(self) -> None:
        self.kopokopo, self.tokens = FakeKopoKopo(), FakeTokens()
        self._subscriptions = Subscriptions(self.kopokopo, self.tokens)  # type: ignore[arg-type]

    def handle(self, request: str = "Create", resource_id: str | None = None, **properties: Any) -> dict[str, Any]:
        event = {
            "RequestType": request,
            "StackId": "stack-1",
            "RequestId": "request-1",
            "LogicalResourceId": "WebhookSubscription",
            "ResourceProperties": {**PROPERTIES, **properties},
        }
        return self._subscriptions.handle(event | ({"PhysicalResourceId": resource_id} if resource_id else {}))


@pytest.fixture
def setting(output: Output) -> Setting:
    return Setting()


def test_both_topics_are_subscribed(setting: Setting) -> None:
    assert setting.handle() == {
        "Status": "SUCCESS",
        "Reason": "",
        "PhysicalResourceId": RESOURCE_ID,
        "StackId": "stack-1",
        "RequestId": "request-1",
        "LogicalResourceId": "WebhookSubscription",
    }
    assert [(document["event_type"], token) for document, token in setting.kopokopo.asked] == [
        ("b2b_transaction_reversed", "old"),
        ("buygoods_transaction_reversed", "old"),
    ]
    assert setting.kopokopo.asked[0][0] == {
        "event_type": "b2b_transaction_reversed",
        "url": "https://api.example/kopokopo/webhooks",
        "scope": "till",
        "scope_reference": "000000",
        "enable_daraja_payload": False,
    }


def test_a_company_has_no_reference(setting: Setting) -> None:
    assert setting.handle(Scope="company", ScopeReference="")["Status"] == "SUCCESS"
    assert "scope_reference" not in setting.kopokopo.asked[0][0]


@pytest.mark.parametrize(
    ("request_", "resource_id", "properties", "asked"),
    [
        ("Update", RESOURCE_ID, {}, 0),
        ("Update", RESOURCE_ID, {"BaseUrl": "https://new.example"}, 2),
        ("Update", RESOURCE_ID, {"ScopeReference": "000001"}, 2),
        ("Delete", RESOURCE_ID, {}, 0),
        ("Delete", None, {"Scope": "nonsense"}, 0),
    ],
)
def test_only_what_is_new_is_subscribed(
    setting: Setting, request_: str, resource_id: str | None, properties: dict[str, str], asked: int
) -> None:
    assert setting.handle(request_, resource_id, **properties)["Status"] == "SUCCESS"
    assert len(setting.kopokopo.asked) == asked


@pytest.mark.parametrize("properties", [{"Scope": ""}, {"Scope": "shop"}, {"BaseUrl": ""}, {"ScopeReference": ""}])
def test_what_makes_no_subscription_fails_the_deployment(setting: Setting, properties: dict[str, str]) -> None:
    answered = setting.handle(**properties)
    assert answered["Status"] == "FAILED"
    assert answered["Reason"]
    assert setting.kopokopo.asked == []


@pytest.mark.parametrize("error", [InvalidRequestError("x" * 5000), NotSentError("Refused"), ZeroDivisionError("?")])
def test_what_goes_wrong_fails_the_deployment_and_leaves_what_there_was(setting: Setting, error: Exception) -> None:
    setting.kopokopo.errors = [error]
    answered = setting.handle("Update", "the-one-before")
    assert (answered["Status"], answered["PhysicalResourceId"]) == ("FAILED", "the-one-before")
    assert 0 < len(answered["Reason"]) <= 1000


def test_a_deployment_without_credentials_fails(setting: Setting) -> None:
    setting.tokens.error = TokenError("The secret has no client_id.")
    assert setting.handle()["Reason"] == "The secret has no client_id."


def test_a_refused_token_is_replaced_once(setting: Setting) -> None:
    setting.kopokopo.errors = [TokenRefusedError("401")]
    assert setting.handle()["Status"] == "SUCCESS"
    assert [token for _, token in setting.kopokopo.asked] == ["old", "new", "old"]
    setting.kopokopo.errors = [TokenRefusedError("401"), TokenRefusedError("401")]
    assert setting.handle()["Status"] == "FAILED"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x.example", "", "/x"])
def test_the_answer_goes_to_a_web_address_alone(url: str) -> None:
    with pytest.raises(InvalidRequestError):
        answer({"ResponseURL": url}, {})
