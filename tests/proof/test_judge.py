"""The judge finds each kind of violation in books that have just one, and none in books that are in order."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.proof.judge import Books, Document, token_requests, violations

REFERENCE = "TQ1"


def post(reversal_id: str | None = "k1", attempt: int = 1, *, sequence: int = 1) -> dict[str, Any]:
    """A line of Kopo Kopo's journal; without an id it was not accepted."""
    url = f"https://api.example.com/kopokopo/results/{REFERENCE}/{attempt}"
    line = {"sequence": sequence, "method": "POST", "path": "/api/v2/reversals", "accepted": reversal_id is not None}
    return {**line, "transaction_reference": REFERENCE, "id": reversal_id, "body": {"_links": {"callback_url": url}}}


def entry(status: str, source: str, evidence: str = "", attempt: int = 1, **more: Any) -> dict[str, Any]:
    return {"status": status, "source": source, "evidence": evidence, "attempt": attempt, **more}


def event(version: int, status: str, attempt: int = 1, *, conflict: bool = False) -> dict[str, Any]:
    about = {"id": f"{REFERENCE}:{version}", "subject": REFERENCE, "sequence": version}
    data = {"status": status, "attempt": attempt, "conflict": conflict}
    return {**about, "type": f"reversal.{'conflict' if conflict else status}", "data": data}


def reversal(status: str, *history: Document, version: int | None = None, **more: Any) -> Mapping[str, Document]:
    """The one reversal of the books: claimed, and then changed once for each entry of its history."""
    known = {"transaction_reference": REFERENCE, "status": status, "attempt": 1, "conflict": False, "kopokopo_id": None}
    return {REFERENCE: {**known, "version": version or len(history) + 1, "history": list(history), **more}}


def books(
    journal: list[Document], outcomes: Mapping[str, str | None], reversals: Mapping[str, Document], *events: Document
) -> Books:
    return Books(journal, lambda reversal_id, _: outcomes[reversal_id], reversals, events)


PENDING = entry("pending", "api", "accepted")
UNKNOWN = entry("unknown", "api", "ambiguous")
REVERSED = entry("reversed", "callback", "transferred")
CANCELLED = entry("failed", "callback", "cancelled")
NOT_SENT = entry("failed", "api", "not_sent")
AGAIN = entry("initiating", "api", attempt=2)
AGAINST = entry("failed", "callback", "cancelled", conflict=True)
RESOLVED = entry("failed", "operator", "resolved_failed")

ORDINARY = books(
    [post()], {"k1": "Transferred"}, reversal("reversed", PENDING, REVERSED), event(2, "pending"), event(3, "reversed")
)
# Kopo Kopo cancelled what it had said to be transferred; the operator found that it was not.
CONFLICT = books(
    [post()],
    {"k1": "Cancelled"},
    reversal("reversed", PENDING, REVERSED, AGAINST, conflict=True),
    event(2, "pending"),
    event(3, "reversed"),
    event(4, "reversed", conflict=True),
)
SECOND_ATTEMPT = books(
    [post(), post("k2", 2, sequence=2)],
    {"k1": "Cancelled", "k2": "Transferred"},
    reversal("reversed", PENDING, CANCELLED, AGAIN, {**PENDING, "attempt": 2}, {**REVERSED, "attempt": 2}, attempt=2),
    event(2, "pending"),
    event(3, "failed"),
    event(5, "pending", 2),
    event(6, "reversed", 2),
)

SOUND = {
    "ordinary": ORDINARY,
    "told twice and out of order": replace(ORDINARY, events=[*ORDINARY.events[::-1], *ORDINARY.events]),
    "a second attempt after a cancellation": SECOND_ATTEMPT,
    "a second attempt after nothing was sent": books(
        [post(attempt=2)],
        {"k1": "Transferred"},
        reversal("reversed", NOT_SENT, AGAIN, {**REVERSED, "attempt": 2}, attempt=2),
        event(2, "failed"),
        event(4, "reversed", 2),
    ),
    "a token refused": replace(ORDINARY, journal=[post(None), post(sequence=2)]),
    "a conflict": CONFLICT,
    "a conflict that an operator resolved": books(
        [post()],
        {"k1": "Cancelled"},
        reversal("failed", PENDING, REVERSED, AGAINST, RESOLVED),
        event(2, "pending"),
        event(3, "reversed"),
        event(4, "reversed", conflict=True),
        event(5, "failed"),
    ),
    "an operator's resolution": books(
        [post(None)], {}, reversal("failed", UNKNOWN, RESOLVED), event(2, "unknown"), event(3, "failed")
    ),
    "made by a webhook": books(
        [post("k0", attempt=0)],
        {"k0": "Transferred"},
        reversal("reversed", entry("reversed", "webhook", "transferred"), version=1),
        event(1, "reversed"),
    ),
    "details that came later": books(
        [post()],
        {"k1": "Transferred"},
        reversal("reversed", entry("reversed", "webhook", "transferred"), REVERSED, PENDING | {"status": "reversed"}),
        event(2, "reversed"),
    ),
    "late news of an older attempt": books(
        [post(), post("k2", 2, sequence=2)],
        {"k1": "Cancelled", "k2": None},
        reversal("pending", CANCELLED, AGAIN, entry("pending", "api", "accepted", 2), PENDING, attempt=2),
        event(2, "failed"),
        event(4, "pending", 2),
    ),
    "not decided": books([post()], {"k1": None}, reversal("pending", PENDING), event(2, "pending")),
    "unknown, with no id to ask by": books([post()], {"k1": "Transferred"}, reversal("unknown", UNKNOWN)),
    "kept for an operator": replace(ORDINARY, events=ORDINARY.events[:1], kept=frozenset({f"{REFERENCE}:3"})),
    "reversed elsewhere": replace(
        books(
            [], {}, reversal("reversed", entry("reversed", "webhook", "transferred"), version=1), event(1, "reversed")
        ),
        elsewhere=frozenset({REFERENCE}),
    ),
}

UNSOUND = {
    "A: TQ1: sent again (journal line 2) after line 1, which is Transferred": replace(
        ORDINARY, journal=[post(), post(None, sequence=2)]
    ),
    "A: TQ1: sent again (journal line 2) after line 1, which is None": books(
        [post(), post("k2", 2, sequence=2)],
        {"k1": None, "k2": "Transferred"},
        reversal("reversed", UNKNOWN, entry("reversed", "callback", "transferred", 2), attempt=2),
        event(2, "unknown"),
        event(3, "reversed", 2),
    ),
    "B: TQ1: no event tells that version 3 was reversal.failed": replace(
        SECOND_ATTEMPT, events=[it for it in SECOND_ATTEMPT.events if it["sequence"] != 3]
    ),
    "B: TQ1: no event tells that version 4 was reversal.conflict": books(
        [post()],
        {"k1": "Cancelled"},
        reversal("failed", PENDING, REVERSED, AGAINST, RESOLVED),
        event(3, "reversed"),
        event(5, "failed"),
    ),
    "B: TQ1: the event of version 3 is reversal.pending, not reversal.reversed": replace(
        ORDINARY, events=[{**event(3, "reversed"), "type": "reversal.pending"}]
    ),
    "B: TQ1: two events have the id TQ1:3, and differ": replace(
        ORDINARY, events=[*ORDINARY.events, {**event(3, "reversed"), "data": {}}]
    ),
    "B: TQ1: events tell of it, and it is not there": books([], {}, {}, event(2, "unknown")),
    "B: TQ1: subscribers take it to be ('pending', 1, False), and it is ('reversed', 1, False)": replace(
        ORDINARY, events=[*ORDINARY.events, event(4, "pending")]
    ),
    "C: TQ1: version 4 made ('reversed', 1, False) of ('failed', 1, False)": books(
        [post()],
        {"k1": "Transferred"},
        reversal("reversed", UNKNOWN, RESOLVED, REVERSED),
        event(3, "failed"),
        event(4, "reversed"),
    ),
    "C: TQ1: version 4 made ('initiating', 2, False) of ('reversed', 1, False)": books(
        [post()],
        {"k1": "Transferred"},
        reversal("reversed", PENDING, REVERSED, AGAIN, {**REVERSED, "attempt": 2}, attempt=2),
        event(3, "reversed"),
        event(5, "reversed", 2),
    ),
    "C: TQ1: version 4 tells that attempt 1 moved money, and raises no conflict": books(
        [post(), post("k2", 2, sequence=2)],
        {"k1": "Cancelled", "k2": None},
        reversal("initiating", CANCELLED, AGAIN, REVERSED, attempt=2, version=4),
        event(2, "failed"),
    ),
    "C: TQ1: its history says ('reversed', 1, False), and it is ('failed', 1, False)": books(
        [post()], {"k1": "Cancelled"}, reversal("failed", REVERSED), event(2, "reversed"), event(3, "failed")
    ),
    "C: TQ1: its history has 2 entries, and it is version 4": books(
        [post()],
        {"k1": "Transferred"},
        reversal("reversed", PENDING, REVERSED, version=4),
        event(4, "reversed"),
    ),
    "D: TQ1: attempt 1 is failed by the evidence ambiguous": books(
        [post(None)], {}, reversal("failed", UNKNOWN | {"status": "failed"}), event(2, "failed")
    ),
    "D: TQ1: attempt 1 is not_sent, and was accepted": books(
        [post()], {"k1": "Cancelled"}, reversal("failed", NOT_SENT), event(2, "failed")
    ),
    "D: TQ1: attempt 1 is rejected, and was accepted": books(
        [post()], {"k1": "Cancelled"}, reversal("failed", NOT_SENT | {"evidence": "rejected"}), event(2, "failed")
    ),
    "D: TQ1: attempt 1 is cancelled, and Kopo Kopo's is None": books(
        [post()], {"k1": None}, reversal("failed", CANCELLED), event(2, "failed")
    ),
    "E: a URL that came from outside was followed: GET /_trap/api/v2/reversals/k1": replace(
        ORDINARY,
        journal=[
            post(),
            {"method": "GET", "path": "/_trap/api/v2/reversals/k1", "accepted": False, "transaction_reference": None},
        ],
    ),
    "truth: TQ1: Kopo Kopo accepted it, and we know nothing of it": books([post()], {"k1": "Transferred"}, {}),
    "truth: TQ1: the money went back, and it is failed": books(
        [post()], {"k1": "Transferred"}, reversal("failed", UNKNOWN, RESOLVED), event(2, "unknown"), event(3, "failed")
    ),
    "truth: TQ1: it is reversed, and no money went back (['Cancelled'])": replace(
        ORDINARY, became=lambda *_: "Cancelled"
    ),
    "truth: TQ1: it is still pending, and Kopo Kopo has nothing more to decide (['Transferred'])": books(
        [post()], {"k1": "Transferred"}, reversal("pending", PENDING), event(2, "pending")
    ),
    "truth: TQ1: it is still initiating, and Kopo Kopo has nothing more to decide ([])": books(
        [], {}, reversal("initiating")
    ),
    "truth: TQ1: it is still unknown, though there is an id to ask by": books(
        [post()], {"k1": "Transferred"}, reversal("unknown", UNKNOWN, kopokopo_id="k1"), event(2, "unknown")
    ),
    "truth: TQ1: it was sent although we knew that it was reversed elsewhere": replace(
        ORDINARY, elsewhere=frozenset({REFERENCE})
    ),
}


@pytest.mark.parametrize("kept", SOUND.values(), ids=SOUND)
def test_books_in_order_have_no_violation(kept: Books) -> None:
    assert list(violations(kept)) == []


@pytest.mark.parametrize(("violation", "kept"), UNSOUND.items(), ids=UNSOUND)
def test_each_violation_is_found_and_nothing_else(violation: str, kept: Books) -> None:
    assert list(violations(kept)) == [violation]


def test_requests_for_tokens_are_counted() -> None:
    assert token_requests([post(), {"path": "/oauth/token"}, {"path": "/oauth/token/info"}]) == 1
