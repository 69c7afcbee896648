"""The Kopo Kopo API: what is asked where, and what its answers come to."""

import json
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

import pytest
from reversals.errors import (
    InvalidRequestError,
    NotSentError,
    OutcomeUnknownError,
    ReversalNotFoundError,
    TokenError,
    TokenRefusedError,
)
from reversals.kopokopo import AccessToken, KopoKopo
from reversals.model import ReversalRequest, Source
from reversals.rules import Evidence, Fact
from reversals.transport import Answer

from tests import kopokopo as payloads
from tests.conftest import START
from tests.kopokopo import anything

API, AUTH = "https://api.kopokopo.test", "https://auth.kopokopo.test"
ID = payloads.KOPOKOPO_ID
REQUEST = ReversalRequest("TQ2L262026", 'Paid "twice" \u00e9', {"ticket": "T-1"}, "key-1")
CALLBACK = "https://merchant.example/kopokopo/results/TQ2L262026/1"


class FakeTransport:
    """Gives one answer, or raises it, and remembers what was asked."""

    def __init__(self, answer: Answer | Exception) -> None:
        self.calls: list[dict[str, Any]] = []
        self._answer = answer

    def call(self, method: str, url: str, **options: Any) -> Answer:
        self.calls.append({"method": method, "url": url, **options})
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def answer(status: int, document: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Answer(status, headers or {}, body)


def api(given: Answer | Exception) -> tuple[KopoKopo, FakeTransport]:
    transport = FakeTransport(given)
    return KopoKopo(API, AUTH + "/", 10.0, transport), transport  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ tokens


def request_token(given: Answer | Exception) -> AccessToken:
    return api(given)[0].request_token("id", "secret", START, 5.0)


def test_credentials_go_to_the_oauth_server_as_a_form() -> None:
    kopokopo, transport = api(answer(200, {"access_token": "t", "expires_in": 3600}))
    kopokopo.request_token("an id&", "a=secret+", START, 5.0)
    (call,) = transport.calls
    assert (call["method"], call["url"], call["timeout"]) == ("POST", f"{AUTH}/oauth/token", 5.0)
    assert call["headers"] == {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    assert parse_qs(call["body"].decode()) == {
        "client_id": ["an id&"],
        "client_secret": ["a=secret+"],
        "grant_type": ["client_credentials"],
    }


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [(3600, 3600), (7200, 7200), ("3600", 3600), (3600.5, 3600.5), (1, 1), (0, 0), (10**12, 30 * 24 * 3600)],
)
@pytest.mark.parametrize(
    "more", [{}, {"created_at": 1}, {"created_at": "2026-05-01T10:00:00Z", "token_type": "Bearer"}]
)
def test_a_token_lives_as_long_as_it_is_said_to(expires_in: Any, seconds: float, more: dict[str, Any]) -> None:
    token = request_token(answer(200, {"access_token": "t", "expires_in": expires_in, **more}))
    assert token == AccessToken("t", START, START + timedelta(seconds=seconds))


def test_a_token_does_not_show_itself() -> None:
    assert "very-secret" not in repr(request_token(answer(200, {"access_token": "very-secret", "expires_in": 1})))


@pytest.mark.parametrize(
    "given",
    [
        answer(401, {"error": "invalid_client", "error_description": "..."}),
        answer(400, {}),
        answer(500, b"<html>"),
        answer(302, b"", {"location": "https://evil.example"}),
        answer(201, {"access_token": "t", "expires_in": 3600}),
        Answer(200, {}, None),
        answer(200, b"<html>"),
        *[
            answer(200, document)
            for document in (
                [],
                {},
                {"access_token": "t"},
                {"expires_in": 3600},
                *[
                    {"access_token": value, "expires_in": 3600}
                    for value in anything(None, 1, "", [], "a b\n", "\u00e9", "a\r\nX: y")
                ],
                *[
                    {"access_token": "t", "expires_in": value}
                    for value in anything(None, "soon", -1, [], {}, True, "NaN")
                ],
            )
        ],
        OutcomeUnknownError("No answer"),
    ],
)
def test_what_is_no_token_is_an_error_without_a_secret_in_it(given: Answer | Exception) -> None:
    with pytest.raises(TokenError) as raised:
        request_token(given)
    assert "secret" not in str(raised.value).replace("credentials secret", "")


def test_an_oauth_server_that_is_not_reached() -> None:
    with pytest.raises(NotSentError):
        request_token(NotSentError("Refused"))


# ------------------------------------------------------------------------------------------------------ the POST


def test_a_reversal_is_asked_for_once() -> None:
    kopokopo, transport = api(answer(201, b"", {"location": f"{API}/api/v2/reversals/{ID}"}))
    evidence = kopokopo.reverse(REQUEST, CALLBACK, "token")
    assert evidence == Evidence(Fact.ACCEPTED, Source.API, kopokopo_id=ID)
    (call,) = transport.calls
    assert (call["method"], call["url"], call["timeout"]) == ("POST", f"{API}/api/v2/reversals", 10.0)
    assert call["headers"] == {
        "Authorization": "Bearer token",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    assert json.loads(call["body"].decode("utf-8")) == {
        "transaction_reference": "TQ2L262026",
        "reason": 'Paid "twice" \u00e9',
        "metadata": {"ticket": "T-1"},
        "_links": {"callback_url": CALLBACK},
    }


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        (answer(201, {}, {"location": f"https://evil.example/api/v2/reversals/{ID}"}), Fact.AMBIGUOUS),
        (answer(201, b""), Fact.AMBIGUOUS),
        (answer(302, b"", {"location": f"{API}/api/v2/reversals/{ID}"}), Fact.AMBIGUOUS),
        (answer(400, {"error_message": "Transaction reference invalid"}), Fact.REJECTED),
        (answer(400, {"error_message": ["You cannot reverse a transaction in Pending Reversal"]}), Fact.RUNNING),
        (answer(429, b""), Fact.NOT_SENT),
        (answer(503, b"<html>"), Fact.AMBIGUOUS),
        (OutcomeUnknownError("It broke off"), Fact.AMBIGUOUS),
    ],
)
def test_an_answer_is_evidence(given: Answer | Exception, fact: Fact) -> None:
    evidence = api(given)[0].reverse(REQUEST, CALLBACK, "token")
    assert (evidence.fact, evidence.source) == (fact, Source.API)


def test_a_refused_token_was_not_processed() -> None:
    with pytest.raises(TokenRefusedError):
        api(answer(401, {"error": "ExpiredAccessToken"}))[0].reverse(REQUEST, CALLBACK, "token")


def test_what_did_not_leave_is_no_evidence_yet() -> None:
    with pytest.raises(NotSentError):
        api(NotSentError("Refused"))[0].reverse(REQUEST, CALLBACK, "token")


# ------------------------------------------------------------------------------------------------------ the status


def test_a_status_is_asked_for_at_our_own_url() -> None:
    kopokopo, transport = api(answer(200, payloads.result()))
    evidence = kopokopo.outcome(ID, "token")
    assert evidence == Evidence(
        Fact.TRANSFERRED,
        Source.POLL,
        kopokopo_id=ID,
        amount=Decimal("400.0"),
        reversal_reference=payloads.REVERSAL_REFERENCE,
    )
    (call,) = transport.calls
    assert (call["method"], call["url"]) == ("GET", f"{API}/api/v2/reversals/{ID}")
    assert call["headers"] == {"Authorization": "Bearer token", "Accept": "application/json"}
    assert call.get("body") is None


def test_a_status_that_has_a_name_twice_is_read() -> None:
    body = payloads.encode(payloads.result()).replace(b'"errors":null', b'"errors":null,"errors":null')
    assert api(answer(200, body))[0].outcome(ID, "token").fact is Fact.TRANSFERRED


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (answer(401), TokenRefusedError),
        (answer(404), ReversalNotFoundError),
        (answer(302, b"", {"location": "https://evil.example"}), InvalidRequestError),
        (answer(500, b"<html>"), InvalidRequestError),
        (answer(200, b"<html>"), InvalidRequestError),
        (answer(200, {}), InvalidRequestError),
        (Answer(200, {}, None), InvalidRequestError),
        (NotSentError("Refused"), NotSentError),
        (OutcomeUnknownError("No answer"), OutcomeUnknownError),
    ],
)
def test_a_status_that_tells_nothing(given: Answer | Exception, error: type[Exception]) -> None:
    with pytest.raises(error):
        api(given)[0].outcome(ID, "token")


# ------------------------------------------------------------------------------------------------------ subscriptions


@pytest.mark.parametrize("status", [200, 201, 299])
def test_a_subscription_is_asked_for(status: int) -> None:
    kopokopo, transport = api(answer(status, b"", {"location": f"{API}/api/v2/webhook_subscriptions/1"}))
    kopokopo.subscribe({"event_type": "buygoods_transaction_reversed"}, "token")
    (call,) = transport.calls
    assert (call["method"], call["url"]) == ("POST", f"{API}/api/v2/webhook_subscriptions")
    assert json.loads(call["body"]) == {"event_type": "buygoods_transaction_reversed"}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (answer(401), TokenRefusedError),
        (answer(400, {"error_message": "Url invalid"}), InvalidRequestError),
        *[(answer(status, b"<html>"), InvalidRequestError) for status in (199, 300, 503)],
        (Answer(400, {}, None), InvalidRequestError),
        (NotSentError("Refused"), NotSentError),
        (OutcomeUnknownError("No answer"), OutcomeUnknownError),
    ],
)
def test_a_subscription_that_was_not_taken(given: Answer | Exception, error: type[Exception]) -> None:
    with pytest.raises(error):
        api(given)[0].subscribe({}, "token")
