"""HTTP as API Gateway hands it over, and every error as RFC 9457 has it."""

import base64
import inspect
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest
from reversals import errors, web
from reversals.errors import InvalidRequestError, PayloadTooLargeError, ReversalNotFoundError

from tests.conftest import Context, Output
from tests.unit.test_model import REVERSAL


def request(body: str | None = None, **event: Any) -> web.Request:
    return web.Request({"headers": {}, "requestContext": {}, "body": body, "isBase64Encoded": False, **event})


# ------------------------------------------------------------------------------------------------------ bodies


@pytest.mark.parametrize(
    ("body", "is_base64", "content"),
    [
        (None, False, b""),
        ("", False, b""),
        ("{}", False, b"{}"),
        ("\u00e9\U0001f600", False, "\u00e9\U0001f600".encode()),
        ("", True, b""),
        (base64.b64encode(b"\x00\xff{}").decode(), True, b"\x00\xff{}"),
    ],
)
def test_a_body_is_the_bytes_that_were_sent(body: str | None, is_base64: bool, content: bytes) -> None:
    assert request(body, isBase64Encoded=is_base64).content(100) == content


@pytest.mark.parametrize("body", ["!", "e30", "e30=\n", "\u00e9\u00e9\u00e9\u00e9"])
def test_a_body_that_is_said_to_be_base64_and_is_not(body: str) -> None:
    with pytest.raises(InvalidRequestError):
        request(body, isBase64Encoded=True).content(100)


def test_half_a_surrogate_pair_is_no_crash() -> None:
    assert request("\ud800").content(100)


@pytest.mark.parametrize(
    ("text", "fits"), [("x" * 1024, True), ("x" * 1025, False), ("\u00e9" * 512, True), ("\u00e9" * 512 + "x", False)]
)
@pytest.mark.parametrize("is_base64", [False, True])
def test_the_limit_is_of_bytes_and_includes_its_last(text: str, fits: bool, is_base64: bool) -> None:
    body = base64.b64encode(text.encode()).decode() if is_base64 else text
    given = request(body, isBase64Encoded=is_base64)
    if fits:
        assert len(given.content(1024)) == 1024
    else:
        with pytest.raises(PayloadTooLargeError, match="1 KB"):
            given.content(1024)


@pytest.mark.parametrize(
    "media_type", ["application/json", "Application/JSON", "application/json; charset=utf-8", " application/json "]
)
@pytest.mark.parametrize("name", ["content-type", "Content-Type"])
def test_json_is_said_to_be_json(name: str, media_type: str) -> None:
    assert request("{}", headers={name: media_type}).json_content(100) == b"{}"


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": ""}, {"content-type": "text/plain"}, {"content-type": "json"}, None]
)
def test_what_is_said_to_be_something_else_is_refused(headers: Any) -> None:
    with pytest.raises(InvalidRequestError, match="application/json"):
        request("{}", headers=headers).json_content(100)


# ------------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize("reference", ["A", "a-Z-0-9", "A" * 64])
def test_a_transaction_reference_in_the_path(reference: str) -> None:
    assert request(pathParameters={"transaction_reference": reference}).transaction_reference() == reference


@pytest.mark.parametrize("reference", ["", "A" * 65, "A B", "A/B", "A\n", "#token-lease", "\u00e9", ".."])
def test_what_can_be_no_reference_cannot_be_found(reference: str) -> None:
    with pytest.raises(ReversalNotFoundError):
        request(pathParameters={"transaction_reference": reference}).transaction_reference()


def test_a_request_without_a_path_parameter() -> None:
    with pytest.raises(ReversalNotFoundError):
        request().transaction_reference()


def test_where_this_api_is() -> None:
    assert request(requestContext={"domainName": "x.example"}).own_url == "https://x.example"


@pytest.mark.parametrize(
    ("context", "caller"),
    [
        ({"authorizer": {"iam": {"userArn": "arn:aws:iam::1:user/o"}}}, "arn:aws:iam::1:user/o"),
        ({"authorizer": {"jwt": {"claims": {"sub": "somebody"}, "scopes": None}}}, "somebody"),
        ({"authorizer": {"iam": None, "jwt": None}}, "unknown"),
        ({"authorizer": None}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_who_calls(context: dict[str, Any], caller: str) -> None:
    assert request(requestContext=context).caller == caller


# ------------------------------------------------------------------------------------------------------ answers

CONTEXT = Context("test", 28.0)

EXAMPLES: dict[str, tuple[errors.ReversalsError, int]] = {
    "InvalidRequestError": (InvalidRequestError("Mend it.", [{"field": "reason", "message": "is required"}]), 400),
    "UnboundResultError": (errors.UnboundResultError("Not yours."), 400),
    "SignatureError": (errors.SignatureError("No."), 401),
    "ReversalNotFoundError": (ReversalNotFoundError("Nothing here."), 404),
    "MethodNotAllowedError": (errors.MethodNotAllowedError("Not so.", ["GET", "POST"]), 405),
    "ReversalConflictError": (errors.ReversalConflictError("It disagrees.", REVERSAL), 409),
    "PayloadTooLargeError": (PayloadTooLargeError("Too large."), 413),
    "RefusedError": (errors.RefusedError("Refused.", REVERSAL), 422),
    "ConfigurationError": (errors.ConfigurationError("The secret x has no api_key."), 500),
    "StorageError": (errors.StorageError("Not kept."), 503),
    "NotSentError": (errors.NotSentError("Not sent.", REVERSAL), 503),
    "TokenError": (errors.TokenError("No token."), 503),
}


def answered(error: Exception) -> dict[str, Any]:
    def handle(request: web.Request, context: Any) -> web.Response:
        raise error

    return web.endpoint(handle)({"headers": {}}, CONTEXT)


@pytest.mark.parametrize(("error", "status"), [pytest.param(*it, id=name) for name, it in EXAMPLES.items()])
def test_an_error_has_a_status_and_a_problem(error: errors.ReversalsError, status: int, output: Output) -> None:
    answer = answered(error)
    assert answer["statusCode"] == status
    assert answer["headers"]["content-type"] == "application/problem+json"
    problem = json.loads(answer["body"])
    assert problem["status"] == status
    assert problem["title"] == HTTPStatus(status).phrase
    assert problem["type"].startswith("urn:kopokopo-reversals:")
    assert problem["detail"] == str(error) or status == 500


def test_every_error_that_can_be_answered_is_above() -> None:
    """The others never leave the package."""
    named = {name for name, it in inspect.getmembers(errors, inspect.isclass) if issubclass(it, errors.ReversalsError)}
    assert named - EXAMPLES.keys() == {"ReversalsError", "TokenRefusedError", "OutcomeUnknownError"}
    assert set(errors.__all__) == named
    assert all(name.endswith("Error") for name in named)


def test_every_type_of_problem_is_its_own(output: Output) -> None:
    types = [json.loads(answered(error)["body"])["type"] for error, _ in EXAMPLES.values()]
    assert len(set(types)) == len(types)
    assert "urn:kopokopo-reversals:reversal-not-found" in types


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_headers_say_what_to_do_next(name: str, output: Output) -> None:
    error, status = EXAMPLES[name]
    headers = answered(error)["headers"]
    assert ("retry-after" in headers) == (status == 503)
    assert headers.get("allow") == ("GET, POST" if status == 405 else None)
    assert headers.get("location") == ("/reversals/TQ2L262026" if getattr(error, "reversal", None) else None)


def test_fields_that_have_to_be_mended_are_listed(output: Output) -> None:
    problem = json.loads(answered(EXAMPLES["InvalidRequestError"][0])["body"])
    assert problem["errors"] == [{"field": "reason", "message": "is required"}]


def test_an_error_about_a_reversal_shows_it(output: Output) -> None:
    problem = json.loads(answered(EXAMPLES["ReversalConflictError"][0])["body"])
    assert problem["reversal"] == REVERSAL.as_json()


@pytest.mark.parametrize("error", [EXAMPLES["ConfigurationError"][0], KeyError("api_key"), RecursionError("deep")])
def test_what_is_wrong_with_us_is_told_to_the_log_alone(error: Exception, output: Output) -> None:
    answer = answered(error)
    assert answer["statusCode"] == 500
    assert answer["headers"]["content-type"] == "application/problem+json"
    assert "api_key" not in answer["body"]
    assert output.lines[-1]["level"] == "ERROR"


def test_an_error_that_nobody_expected_is_counted(output: Output) -> None:
    answered(ZeroDivisionError())
    assert output.metric("UnexpectedErrors") == 1


@pytest.mark.parametrize(
    ("handle", "answer"),
    [
        (
            lambda request, context: web.respond(HTTPStatus.CREATED, {"a": "\u00e9"}, {"location": "/x"}),
            {
                "statusCode": 201,
                "headers": {"content-type": "application/json", "location": "/x"},
                "body": '{"a":"\u00e9"}',
            },
        )
    ],
)
def test_an_answer(handle: Callable[..., web.Response], answer: dict[str, Any], output: Output) -> None:
    assert web.endpoint(handle)({"headers": {}}, CONTEXT) == answer
