"""A small share of `make fuzz`, the same each time; and that it would notice what must not be."""

from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import pytest
from reversals import errors, payloads, rules, signature, web
from reversals.model import Reversal, Source
from reversals.observability import logger

from tests.kopokopo import REFERENCE, encode, result, sign, webhook
from tests.proof import fuzz
from tests.proof.hostile import Post

EXAMPLES = 150


@pytest.mark.parametrize(
    ("door", "answers"),
    [("results", {200, 400, 401}), ("webhooks", {200, 400, 401}), ("reversals", {200, 201, 400})],
)
def test_whatever_comes_in_is_answered_and_leaves_no_trace_without_a_right(door: str, answers: set[int]) -> None:
    tally = Counter[str]()
    fuzz.explore(door, EXAMPLES, None, tally)
    assert tally.total() >= EXAMPLES
    assert {f"answered {status}" for status in answers} <= tally.keys()


HEADERS = {"content-type": "application/json"}


def posted(path: str, document: Any, **headers: str) -> Post:
    parameters = {"transaction_reference": REFERENCE, "attempt": "1"}
    return Post(f"POST {path}", parameters, headers, encode(document).decode(), is_base64=False)


def notified(document: Any, given: str | None = None, path: str = "/kopokopo/webhooks") -> Any:
    return posted(path, document, **{"x-kopokopo-signature": given or sign(encode(document))}), []


def requested(**changes: Any) -> Post:
    document = {"transaction_reference": REFERENCE, "reason": "Paid twice", **changes}
    return posted("/reversals", document, **HEADERS)


# What was found once.
FOUND = {
    "a name without a character": requested(metadata={"": "x"}),
    "characters that no queue takes": requested(reason="\ufffe", metadata={"\uffff": "\uffff\0"}),
    "characters that are six when they are told": requested(metadata={"note": "\u00e9" * 32_000}),
    "half a surrogate pair in a header": replace(requested(), headers={**HEADERS, "idempotency-key": "\ud800"}),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in FOUND.items()])
def test_what_was_found_once_is_not_found_again(case: Post) -> None:
    with fuzz.target(Counter()) as target, redirect_stdout(target.output):
        fuzz.a_request(target, case)


# ------------------------------------------------------------------------------------------------ what would be noticed


def says_it(document: Any) -> Any:
    logger.info(document["event"]["resource"]["sender_phone_number"])
    return REFERENCE, rules.Evidence(rules.Fact.TRANSFERRED, Source.WEBHOOK)


def keeps_another(request: Any, *others: Any) -> Reversal:
    return CLAIM(replace(request, reason="Another"), *others)


RESULTS = "/kopokopo/results/{transaction_reference}/{attempt}"
CLAIM = rules.claim
FORGED = notified(result(), "0" * 64, RESULTS)
Patch = tuple[Any, str, Any]
FAULTS: dict[str, tuple[Callable[..., None], Any, Patch]] = {
    "nobody checks the signature": (fuzz.a_notification, FORGED, (signature, "verify", lambda *_: None)),
    "something unforeseen": (fuzz.a_notification, notified(result()), (payloads, "kind", lambda _: 1 / 0)),
    "a phone number in the log": (fuzz.a_notification, notified(webhook()), (payloads, "reversed_webhook", says_it)),
    "a status that is not described": (
        fuzz.a_notification,
        notified([]),
        (web, "_STATUS", {errors.InvalidRequestError: HTTPStatus.IM_A_TEAPOT}),
    ),
    "a body that is too large": (
        fuzz.a_request,
        requested(metadata={"a": "x" * 70_000}),
        (web.Request, "content", lambda request, _: request._body.encode()),
    ),
    "a request that nobody checks": (fuzz.a_request, requested(reason=""), (payloads, "_field_errors", lambda *_: [])),
    "a reason that is not kept": (fuzz.a_request, requested(), (rules, "claim", keeps_another)),
    "a reversal that is shown wrong": (fuzz.a_request, requested(), (Reversal, "as_json", lambda *_, **__: {"a": 1})),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_would_be_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, case, patch = FAULTS[fault]
    with fuzz.target(Counter()) as target, redirect_stdout(target.output):
        check(target, case)
        target.clear()
        monkeypatch.setattr(*patch)
        with pytest.raises(AssertionError):
            check(target, case)
