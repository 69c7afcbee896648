"""What the table of evidence does not say: details, histories, conflicts, resolutions, and who may claim again."""

from dataclasses import replace
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from reversals import rules
from reversals.errors import ReversalConflictError, UnboundResultError
from reversals.model import OPEN, Reversal, ReversalRequest, Source, Status
from reversals.rules import Change, Evidence, Fact

from tests.conftest import START

AT = "2026-05-01T07:00:00.000Z"
EARLIER = "2026-05-01T06:00:00.000Z"
REQUEST = ReversalRequest("TQ2L262026", "Paid twice", {"ticket": "T-1"}, "key-1")


def reversal(status: Status = Status.PENDING, **values: Any) -> Reversal:
    usual: dict[str, Any] = {
        "transaction_reference": "TQ2L262026",
        "status": status,
        "attempt": 1,
        "version": 2,
        "created_at": EARLIER,
        "claimed_at": EARLIER,
        "updated_at": EARLIER,
        "reason": REQUEST.reason,
        "metadata": REQUEST.metadata,
        "idempotency_key": REQUEST.idempotency_key,
        "resolved_at": None if status in OPEN else EARLIER,
    }
    return Reversal(**(usual | values))


def applied(current: Reversal, change: Change | None) -> Reversal:
    """The reversal after a change was written."""
    assert change is not None
    return replace(
        current, **{**change.values, "version": current.version + 1, "history": (*current.history, change.entry)}
    )


def after(current: Reversal, *evidence: Evidence) -> Reversal:
    """The reversal after each piece of evidence in turn, whether or not it changes anything."""
    for each in evidence:
        change = rules.decide(current, each, START)
        current = applied(current, change) if change else current
    return current


TRANSFERRED = Evidence(
    Fact.TRANSFERRED,
    Source.CALLBACK,
    attempt=1,
    kopokopo_id="id-1",
    amount=Decimal("400.0"),
    reversal_reference="RVTEST01",
)
CANCELLED = Evidence(Fact.CANCELLED, Source.CALLBACK, attempt=1, kopokopo_id="id-1", message="Not enough money")
ACCEPTED = Evidence(Fact.ACCEPTED, Source.API, attempt=1, kopokopo_id="id-1")
AMBIGUOUS = Evidence(Fact.AMBIGUOUS, Source.API, attempt=1, message="No answer")
WEBHOOK = Evidence(Fact.TRANSFERRED, Source.WEBHOOK, amount=Decimal("400.0"))


# ------------------------------------------------------------------------------------------------------ claiming


def test_a_first_claim_is_open_and_carries_the_request() -> None:
    claimed = rules.claim(REQUEST, "attempt-id", START)
    assert claimed == reversal(
        Status.INITIATING,
        version=1,
        attempt_id="attempt-id",
        created_at=AT,
        claimed_at=AT,
        updated_at=AT,
    )


SAME_BODY = {"reason": REQUEST.reason, "metadata": REQUEST.metadata}
OTHER_REASON = {**SAME_BODY, "reason": "Wrong customer"}
OTHER_METADATA = {**SAME_BODY, "metadata": {"ticket": "T-2"}}


@pytest.mark.parametrize(
    ("status", "key", "body", "expected"),
    [
        # An open or reversed one is the same request again if it says the same, whatever its key.
        *[
            (status, key, body, "same" if body is SAME_BODY else "conflict")
            for status, key, body in product(
                [Status.INITIATING, Status.PENDING, Status.UNKNOWN, Status.REVERSED],
                ["key-1", "key-2", None],
                [SAME_BODY, OTHER_REASON, OTHER_METADATA],
            )
        ],
        # A failed one may be tried again, but never by the key that failed.
        (Status.FAILED, "key-1", SAME_BODY, "same"),
        (Status.FAILED, "key-1", OTHER_REASON, "conflict"),
        (Status.FAILED, "key-1", OTHER_METADATA, "conflict"),
        *[
            (Status.FAILED, key, body, "next attempt")
            for key, body in product(["key-2", None], [SAME_BODY, OTHER_REASON, OTHER_METADATA])
        ],
    ],
)
def test_claiming_again(status: Status, key: str | None, body: dict[str, Any], expected: str) -> None:
    existing = reversal(status)
    request = replace(REQUEST, idempotency_key=key, **body)
    if expected == "conflict":
        with pytest.raises(ReversalConflictError) as raised:
            rules.claim_again(existing, request, "attempt-2", START)
        assert raised.value.reversal == existing
        assert str(raised.value) == (
            "This Idempotency-Key was used with another reason or metadata: use a new key."
            if status is Status.FAILED
            else "This transaction is already being or has been reversed, with another reason or metadata."
        )
        return
    change = rules.claim_again(existing, request, "attempt-2", START)
    if expected == "same":
        assert change is None
    else:
        claimed = applied(existing, change)
        assert (claimed.status, claimed.attempt, claimed.attempt_id) == (Status.INITIATING, 2, "attempt-2")
        assert (claimed.reason, claimed.metadata) == (body["reason"], body["metadata"])
        assert claimed.idempotency_key == key
        assert (claimed.created_at, claimed.claimed_at, claimed.updated_at) == (EARLIER, AT, AT)


@pytest.mark.parametrize("key", ["key-1", "key-2", None])
@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("body", [SAME_BODY, OTHER_REASON])
def test_a_conflict_blocks_every_claim(status: Status, key: str | None, body: dict[str, Any]) -> None:
    existing = reversal(status, conflict=True)
    with pytest.raises(ReversalConflictError) as raised:
        rules.claim_again(existing, replace(REQUEST, idempotency_key=key, **body), "attempt-2", START)
    assert raised.value.reversal == existing
    assert str(raised.value) == (
        "The evidence on this reversal disagrees: an operator has to resolve it before anything else."
    )


def test_no_key_is_not_the_same_key() -> None:
    existing = reversal(Status.FAILED, idempotency_key=None)
    change = rules.claim_again(existing, replace(REQUEST, idempotency_key=None), "attempt-2", START)
    assert applied(existing, change).attempt == 2


def test_the_next_attempt_begins_without_what_the_last_one_left() -> None:
    failed = after(reversal(Status.PENDING), replace(CANCELLED, amount=Decimal(400), reversal_reference="RV"))
    assert failed.failure
    claimed = applied(failed, rules.claim_again(failed, replace(REQUEST, idempotency_key="key-2"), "a-2", START))
    left = ("kopokopo_id", "amount", "reversal_reference", "failure", "resolved_at")
    assert {name: getattr(claimed, name) for name in left} == dict.fromkeys(left)
    assert claimed.history[-1] == {"at": AT, "attempt": 2, "status": "initiating", "source": "api"}
    assert claimed.history[:-1] == failed.history


# ------------------------------------------------------------------------------------------------------ what is kept


def test_a_result_brings_its_details() -> None:
    reversed_ = after(reversal(Status.PENDING), TRANSFERRED)
    assert reversed_ == reversal(
        Status.REVERSED,
        version=3,
        updated_at=AT,
        resolved_at=AT,
        kopokopo_id="id-1",
        amount=Decimal("400.0"),
        reversal_reference="RVTEST01",
        history=(
            {
                "at": AT,
                "attempt": 1,
                "status": "reversed",
                "source": "callback",
                "evidence": "transferred",
                "kopokopo_id": "id-1",
            },
        ),
    )


@pytest.mark.parametrize(
    ("evidence", "code", "message"),
    [
        (CANCELLED, "cancelled", "Not enough money"),
        (replace(CANCELLED, message=None), "cancelled", "Kopo Kopo cancelled it: the money did not go back."),
        (Evidence(Fact.REJECTED, Source.API, 1, message="Too old"), "rejected", "Too old"),
        (Evidence(Fact.REJECTED, Source.API, 1), "rejected", "Kopo Kopo refused it."),
        (Evidence(Fact.NOT_SENT, Source.API, 1, message="No token"), "not_sent", "No token"),
        (
            Evidence(Fact.NOT_SENT, Source.API, 1),
            "not_sent",
            "It was not sent to Kopo Kopo. It is safe to try again.",
        ),
    ],
)
def test_a_failure_has_a_code_and_words(evidence: Evidence, code: str, message: str) -> None:
    assert after(reversal(Status.INITIATING), evidence).failure == {"code": code, "message": message}


def test_a_failure_that_came_without_words_has_its_code_for_them() -> None:
    failed = after(reversal(Status.UNKNOWN), Evidence(Fact.RESOLVED_FAILED, Source.OPERATOR))
    assert failed.failure == {"code": "resolved", "message": "resolved"}


def test_a_failed_status_that_is_left_leaves_no_failure() -> None:
    """An operator who finds that the money went back after all."""
    conflict = after(reversal(Status.FAILED, failure={"code": "cancelled", "message": "..."}), TRANSFERRED)
    resolved = after(conflict, Evidence(Fact.RESOLVED_REVERSED, Source.OPERATOR, by="arn", note="seen"))
    assert (resolved.status, resolved.failure, resolved.conflict) == (Status.REVERSED, None, False)


def test_every_change_leaves_one_entry_that_says_who_and_when() -> None:
    history = after(reversal(Status.INITIATING), AMBIGUOUS, ACCEPTED, TRANSFERRED).history
    assert [(entry["status"], entry["source"], entry.get("message")) for entry in history] == [
        ("unknown", "api", "No answer"),
        ("pending", "api", None),
        ("reversed", "callback", None),
    ]
    assert all(entry["at"] == AT and entry["attempt"] == 1 for entry in history)


@pytest.mark.parametrize(
    ("current", "evidence"),
    [
        pytest.param(reversal(Status.PENDING), TRANSFERRED, id="a status"),
        pytest.param(reversal(Status.REVERSED), TRANSFERRED, id="details"),
        pytest.param(reversal(Status.REVERSED), CANCELLED, id="a conflict"),
        pytest.param(reversal(Status.PENDING, attempt=2), CANCELLED, id="an older attempt"),
        pytest.param(reversal(Status.PENDING, attempt=2), TRANSFERRED, id="an older attempt's conflict"),
    ],
)
def test_every_change_says_when_it_was_made(current: Reversal, evidence: Evidence) -> None:
    changed = after(current, evidence)
    assert (changed.updated_at, changed.history[-1]["at"]) == (AT, AT)


@pytest.mark.parametrize("evidence", [ACCEPTED, AMBIGUOUS, TRANSFERRED, CANCELLED, WEBHOOK])
@pytest.mark.parametrize("status", Status)
def test_the_same_evidence_twice_is_once(status: Status, evidence: Evidence) -> None:
    once = after(reversal(status), evidence)
    assert after(once, evidence) == once
    assert after(once, replace(evidence, source=Source.POLL)) == once


@pytest.mark.parametrize("evidence", [ACCEPTED, TRANSFERRED, CANCELLED])
def test_the_same_evidence_of_an_older_attempt_twice_is_once(evidence: Evidence) -> None:
    once = after(reversal(Status.PENDING, attempt=2), evidence)
    assert after(once, evidence) == once
    assert len(once.history) == 1


# ------------------------------------------------------------------------------------------------ order of arrival


@pytest.mark.parametrize("answer", [ACCEPTED, AMBIGUOUS, Evidence(Fact.NOT_SENT, Source.API, 1)])
@pytest.mark.parametrize(("result", "status"), [(TRANSFERRED, Status.REVERSED), (WEBHOOK, Status.REVERSED)])
def test_an_early_result_is_not_undone_by_the_answer(result: Evidence, status: Status, answer: Evidence) -> None:
    final = after(reversal(Status.INITIATING), result, answer)
    assert (final.status, final.conflict, final.failure) == (status, False, None)


@pytest.mark.parametrize("answer", [ACCEPTED, AMBIGUOUS])
def test_an_early_cancellation_is_not_undone_by_the_answer(answer: Evidence) -> None:
    final = after(reversal(Status.INITIATING), CANCELLED, answer)
    assert (final.status, final.conflict) == (Status.FAILED, False)


@pytest.mark.parametrize("order", [(TRANSFERRED, WEBHOOK), (WEBHOOK, TRANSFERRED)])
def test_webhook_and_result_agree_in_either_order(order: tuple[Evidence, ...]) -> None:
    final = after(reversal(Status.PENDING), *order)
    assert (final.status, final.conflict) == (Status.REVERSED, False)
    assert (final.kopokopo_id, final.amount, final.reversal_reference) == ("id-1", Decimal("400.0"), "RVTEST01")


def test_a_later_result_fills_in_what_was_not_known() -> None:
    known = after(reversal(Status.PENDING), WEBHOOK)
    filled = after(known, TRANSFERRED)
    assert filled.version == known.version + 1
    assert filled.resolved_at == known.resolved_at
    assert filled.history[-1]["status"] == "reversed"


def test_a_later_result_overwrites_nothing_that_was_known() -> None:
    known = after(reversal(Status.PENDING), TRANSFERRED)
    assert after(known, replace(WEBHOOK, amount=Decimal(1))).amount == Decimal("400.0")


def test_late_news_that_it_was_accepted_is_no_conflict_with_its_cancellation() -> None:
    final = after(reversal(Status.UNKNOWN), CANCELLED, ACCEPTED)
    assert (final.status, final.conflict) == (Status.FAILED, False)


# ------------------------------------------------------------------------------------------------------ identity


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("fact", [Fact.TRANSFERRED, Fact.CANCELLED, Fact.ACCEPTED])
@pytest.mark.parametrize("source", [Source.CALLBACK, Source.POLL])
def test_a_result_with_another_id_belongs_to_another_reversal(status: Status, fact: Fact, source: Source) -> None:
    with pytest.raises(UnboundResultError, match=r"^The signed result carries the id of another reversal\.$"):
        rules.decide(reversal(status, kopokopo_id="id-1"), Evidence(fact, source, 1, kopokopo_id="id-2"), START)


@pytest.mark.parametrize("attempt", [1, None])
@pytest.mark.parametrize("status", [Status.PENDING, Status.REVERSED, Status.FAILED])
def test_an_answer_with_another_id_than_an_early_result_is_a_conflict_once(status: Status, attempt: int | None) -> None:
    """Kopo Kopo may have two reversals of it."""
    answer = replace(ACCEPTED, attempt=attempt)
    once = after(reversal(status, kopokopo_id="id-2"), answer)
    assert (once.status, once.conflict, once.kopokopo_id) == (status, True, "id-2")
    assert (once.history[-1]["kopokopo_id"], once.history[-1]["attempt"]) == ("id-1", 1)
    assert after(once, answer) == once


def test_an_older_attempt_had_an_id_of_its_own() -> None:
    current = reversal(Status.PENDING, attempt=2, kopokopo_id="id-2")
    assert after(current, CANCELLED).history[-1]["kopokopo_id"] == "id-1"


def test_a_webhook_speaks_of_whatever_attempt_there_is() -> None:
    assert after(reversal(Status.PENDING, attempt=3), WEBHOOK).status is Status.REVERSED


# ------------------------------------------------------------------------------------------------------ conflicts


def test_money_that_moved_for_an_older_attempt_is_a_conflict_that_stays() -> None:
    """Attempt 1 was cancelled, attempt 2 is under way: now the transaction may be reversed twice."""
    current = after(reversal(Status.PENDING, attempt=2), TRANSFERRED)
    assert (current.status, current.conflict) == (Status.PENDING, True)
    final = after(current, replace(TRANSFERRED, attempt=2, kopokopo_id="id-2"))
    assert (final.status, final.conflict) == (Status.REVERSED, True)


def test_a_conflict_tells_of_both_sides() -> None:
    conflict = after(reversal(Status.PENDING), CANCELLED, TRANSFERRED)
    assert (conflict.status, conflict.conflict) == (Status.FAILED, True)
    assert conflict.failure == {"code": "cancelled", "message": "Not enough money"}
    assert [(entry["evidence"], entry.get("conflict", False)) for entry in conflict.history] == [
        ("cancelled", False),
        ("transferred", True),
    ]


# ------------------------------------------------------------------------------------------------------ operators

FOUND_REVERSED = Evidence(Fact.RESOLVED_REVERSED, Source.OPERATOR, by="arn:aws:iam::1:user/o", note="Seen in M-PESA")
FOUND_FAILED = replace(FOUND_REVERSED, fact=Fact.RESOLVED_FAILED)


@pytest.mark.parametrize(("evidence", "status"), [(FOUND_REVERSED, "reversed"), (FOUND_FAILED, "failed")])
@pytest.mark.parametrize("current", [reversal(Status.UNKNOWN), *[reversal(it, conflict=True) for it in Status]])
def test_an_operator_resolves_what_is_unknown_or_in_conflict(
    current: Reversal, evidence: Evidence, status: str
) -> None:
    resolved = after(current, evidence)
    assert (resolved.status, resolved.conflict, resolved.resolved_at) == (status, False, AT)
    entry = resolved.history[-1]
    assert (entry["source"], entry["by"], entry["note"]) == ("operator", evidence.by, evidence.note)


@pytest.mark.parametrize("found", [Status.REVERSED, Status.FAILED])
@pytest.mark.parametrize("status", Status)
def test_what_an_operator_found_counts_where_nothing_else_will_tell(status: Status, found: Status) -> None:
    evidence = replace(FOUND_REVERSED, fact=rules.RESOLUTIONS[found])
    if status is Status.UNKNOWN:
        assert after(reversal(status), evidence).status is found
        return
    with pytest.raises(ReversalConflictError):
        rules.decide(reversal(status), evidence, START)


def test_an_operators_failure_says_so() -> None:
    assert after(reversal(Status.UNKNOWN), FOUND_FAILED).failure == {"code": "resolved", "message": "Seen in M-PESA"}


def test_the_same_resolution_twice_is_once() -> None:
    once = after(reversal(Status.UNKNOWN), FOUND_REVERSED)
    assert after(once, FOUND_REVERSED) == once


@pytest.mark.parametrize(
    "second",
    [FOUND_FAILED, replace(FOUND_REVERSED, note="Something else"), replace(FOUND_REVERSED, by="arn:aws:iam::1:user/p")],
)
def test_another_resolution_of_what_is_resolved_is_refused(second: Evidence) -> None:
    once = after(reversal(Status.UNKNOWN), FOUND_REVERSED)
    with pytest.raises(ReversalConflictError) as raised:
        rules.decide(once, second, START)
    assert raised.value.reversal == once
    assert str(raised.value) == (
        "Only a reversal that is unknown or in conflict can be resolved; this one is reversed."
    )


@pytest.mark.parametrize(("resolution", "against"), [(FOUND_REVERSED, CANCELLED), (FOUND_FAILED, TRANSFERRED)])
def test_evidence_against_a_resolution_is_a_conflict(resolution: Evidence, against: Evidence) -> None:
    resolved = after(reversal(Status.UNKNOWN), resolution)
    conflict = after(resolved, against)
    assert (conflict.status, conflict.conflict) == (resolved.status, True)


@pytest.mark.parametrize(("resolution", "known"), [(FOUND_REVERSED, CANCELLED), (FOUND_FAILED, TRANSFERRED)])
def test_evidence_that_the_operator_has_weighed_is_not_raised_again(resolution: Evidence, known: Evidence) -> None:
    first = TRANSFERRED if known is CANCELLED else CANCELLED
    conflict = after(reversal(Status.PENDING), first, known)
    assert conflict.conflict
    resolved = after(conflict, resolution)
    assert after(resolved, known, replace(known, source=Source.POLL)) == resolved


def test_evidence_that_agrees_with_a_resolution_is_kept() -> None:
    resolved = after(reversal(Status.UNKNOWN), FOUND_REVERSED)
    filled = after(resolved, TRANSFERRED)
    assert (filled.conflict, filled.reversal_reference) == (False, "RVTEST01")


# ------------------------------------------------------------------------------------------------------ creation


@pytest.mark.parametrize(
    ("evidence", "status", "attempt"),
    [
        (WEBHOOK, Status.REVERSED, 1),
        (TRANSFERRED, Status.REVERSED, 1),
        (replace(TRANSFERRED, attempt=3), Status.REVERSED, 3),
        (CANCELLED, Status.FAILED, 1),
        (replace(ACCEPTED, source=Source.CALLBACK), Status.PENDING, 1),
    ],
)
def test_signed_evidence_of_an_unknown_transaction_makes_a_reversal(
    evidence: Evidence, status: Status, attempt: int
) -> None:
    created = rules.create("TQ2L262026", evidence, START)
    assert created.transaction_reference == "TQ2L262026"
    assert (created.status, created.attempt, created.version) == (status, attempt, 1)
    assert (created.created_at, created.claimed_at, created.updated_at) == (AT, AT, AT)
    assert (created.resolved_at is None) == (status in OPEN)
    assert (created.reason, created.metadata, created.attempt_id) == (None, {}, None)
    assert (created.kopokopo_id, created.amount) == (evidence.kopokopo_id, evidence.amount)
    assert [(entry["status"], entry["attempt"]) for entry in created.history] == [(status, attempt)]


def test_what_was_made_of_evidence_is_not_reversed_again() -> None:
    with pytest.raises(ReversalConflictError):
        rules.claim_again(rules.create("TQ2L262026", WEBHOOK, START), REQUEST, "attempt-2", START)


@pytest.mark.parametrize("fact", Fact)
@pytest.mark.parametrize("status", Status)
def test_what_can_be_written_unread_is_what_would_be_decided(status: Status, fact: Fact) -> None:
    """The writer's shortcut and the rules never disagree."""
    source = Source.OPERATOR if fact in rules.RESOLUTIONS.values() else Source.API
    evidence = Evidence(fact, source, attempt=None if source is Source.OPERATOR else 1)
    if status not in rules.TABLE[fact].before or source is Source.OPERATOR:
        return
    assert rules.expected(evidence, 1, START) == rules.decide(reversal(status), evidence, START)
