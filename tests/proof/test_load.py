"""A small load, and the comparisons at its end, each with what it has to find."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from local.cloud import LaptopCloud
from tests.proof import load
from tests.proof.judge import Books, Document, violations
from tests.proof.load import MIX, PARAMETERS, REASONS, Answer, Load, Request
from tests.proof.report import Report

REVERSALS = 50

POST = {
    **{"sequence": 1, "method": "POST", "path": "/api/v2/reversals", "status": 201, "accepted": True, "id": "k1"},
    **{"transaction_reference": "TQ1", "body": {"_links": {"callback_url": "http://host/kopokopo/results/TQ1/1"}}},
}
TOKEN = {"method": "POST", "path": "/oauth/token", "accepted": False, "transaction_reference": None}
REVERSAL = {
    **{"transaction_reference": "TQ1", "status": "reversed", "attempt": 1, "version": 3, "conflict": False},
    **{"reason": REASONS[0], "currency": "KES", "kopokopo_id": "k1"},
    "history": [
        {"attempt": 1, "status": "pending", "source": "api", "evidence": "accepted"},
        {"attempt": 1, "status": "reversed", "source": "callback", "evidence": "transferred"},
    ],
}
ITEM = {name: value for name, value in REVERSAL.items() if name != "currency"}
TOLD = {name: value for name, value in REVERSAL.items() if name != "history"}


def event(data: Document) -> Document:
    about = {"id": f"TQ1:{data['version']}", "type": f"reversal.{data['status']}", "subject": "TQ1"}
    return {**about, "sequence": data["version"], "data": data}


EVENTS = (event({**TOLD, "status": "pending", "version": 2}), event(TOLD))


def books(reversal: Document = REVERSAL, events: tuple[Document, ...] = EVENTS, tokens: int = 1) -> Books:
    return Books([*[TOKEN] * tokens, POST], load.became, {"TQ1": reversal}, events)


def in_a_hurry(_: str, properties: dict[str, Any]) -> dict[str, Any]:
    """A claim is given up after seconds: a function that was killed is waited for no longer."""
    variables = {**properties["Environment"]["Variables"], "INITIATE_TIMEOUT": "4"}
    return {**properties, "Environment": {"Variables": variables}}


def test_after_a_small_load_everything_is_accounted_for(tmp_path: Path) -> None:
    parameters = {**PARAMETERS, "ReconcileSchedule": "rate(1 second)", "ReconcileFirstDelay": "1"}
    environ = load.environment()
    report = Report("load", "reversals", REVERSALS)
    with LaptopCloud(parameters=parameters, state_dir=tmp_path, environ=environ, adjust=in_a_hurry) as cloud:
        small = Load(cloud, report, clients=6)
        assert list(small.run(seed=1, reversals=REVERSALS, kills_a_second=2.0)) == []
    assert report.tried == REVERSALS
    assert small.figures["requests"] > REVERSALS
    assert small.figures["kills"] > 0
    assert small.figures["events"] > REVERSALS


def test_a_seed_says_what_is_asked() -> None:
    requests = load.plan(random.Random(1), 1000)
    assert requests == load.plan(random.Random(1), 1000)
    assert requests != load.plan(random.Random(2), 1000)
    times = Counter(request.reference for request in requests)
    assert len(times) == 1000
    assert {reference.rstrip("0123456789") for reference in times} == MIX.keys()
    assert 150 < sum(number > 1 for number in times.values()) < 350
    assert sum(request.after_failure for request in requests) > 20


def test_books_in_order() -> None:
    assert list(violations(books())) == []
    assert list(load.disagreements(books(), {"TQ1": ITEM})) == []
    assert list(load.unaccounted({"TQ1"}, {"TQ1": 1})) == []
    assert list(load.too_many_tokens(books(tokens=3), kills=2)) == []
    assert list(load.too_many_errors([Answer(Request("TQ1"), 500)], cut_off=1)) == []


def test_what_is_lost_unasked_or_listed_twice() -> None:
    assert list(load.unaccounted({"TQ1", "TQ2"}, {"TQ2": 2, "TQ3": 1})) == [
        "TQ1: was asked for, and is in no list",
        "TQ3: is listed, and nobody asked for it",
        "TQ2: is listed 2 times",
    ]


@pytest.mark.parametrize(
    ("held", "items", "found"),
    [
        (books(), {}, "in the table or in the API alone"),
        (books(), {"TQ1": {**ITEM, "version": 4}}, "version is 4 in the table, and 3 in the API"),
        (books(), {"TQ1": {**ITEM, "history": []}}, "history is [] in the table"),
        (books(events=EVENTS[:1]), {"TQ1": ITEM}, "events tell {2: ('pending', 1, False)}, and its history {2:"),
        (books(events=(*EVENTS, event({**TOLD, "version": 4}))), {"TQ1": ITEM}, "4: ('reversed', 1, False)}, and"),
        (books(events=(EVENTS[0], event({**TOLD, "reason": ""}))), {"TQ1": ITEM}, "its last event tells"),
        (
            books({**REVERSAL, "kopokopo_id": "k2"}, ()),
            {"TQ1": {**ITEM, "kopokopo_id": "k2"}},
            "has the id k2, and Kopo Kopo gave it ['k1']",
        ),
        (books({**REVERSAL, "conflict": True}, ()), {"TQ1": {**ITEM, "conflict": True}}, "is in conflict"),
    ],
)
def test_what_does_not_agree(held: Books, items: dict[str, Document], found: str) -> None:
    assert any(found in it for it in load.disagreements(held, items))


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (200, REVERSAL),
        (201, REVERSAL),
        (202, {**REVERSAL, "status": "unknown"}),
        (409, {"reversal": {**REVERSAL, "reason": REASONS[1]}}),
        (422, {"reversal": {**REVERSAL, "status": "failed", "attempt": 2}}),
        (500, {"message": "Internal Server Error"}),
        (503, {"reversal": {**REVERSAL, "status": "failed", "attempt": 2}}),
        (503, {"message": "Service Unavailable"}),
    ],
)
def test_answers_that_are_so(status: int, document: Document) -> None:
    assert list(load.untrue_answers([Answer(Request("TQ1"), status, document)], books())) == []


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (0, {}),
        (200, {**REVERSAL, "reason": REASONS[1]}),
        (201, {**REVERSAL, "attempt": 2}),
        (202, REVERSAL),
        (400, {"title": "Bad Request"}),
        (409, {"reversal": REVERSAL}),
        (422, {"reversal": {**REVERSAL, "status": "failed"}}),
        (500, {"title": "Internal Server Error", "status": 500}),
        (503, {"reversal": {**REVERSAL, "status": "failed"}}),
    ],
)
def test_answers_that_are_not_so(status: int, document: Document) -> None:
    assert len(list(load.untrue_answers([Answer(Request("TQ1"), status, document)], books()))) == 1


def test_errors_tokens_and_secrets_that_nothing_explains(tmp_path: Path) -> None:
    assert len(list(load.too_many_errors([Answer(Request("TQ1"), 500)] * 2, cut_off=1))) == 1
    assert len(list(load.too_many_tokens(books(tokens=4), kills=2))) == 1
    (tmp_path / "one.log").write_text("words\nthe token is abc\n")
    (tmp_path / "other.log").write_text("words\n")
    assert list(load.leaks(tmp_path, {"abc": "access_token", "def": "api_key"})) == [
        "E: one.log holds the access_token"
    ]
