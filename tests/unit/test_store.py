"""The table: one item per transaction, every change of it one conditional write, whoever else is writing."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from reversals.errors import ReversalConflictError, ReversalNotFoundError, StorageError, UnboundResultError
from reversals.model import Reversal, ReversalRequest, Source, Status
from reversals.rules import Evidence, Fact
from reversals.schedule import SHARDS, Schedule, shard
from reversals.store import DueReversal, Store, TokenLease, from_item, from_stream

from tests.conftest import START, Cloud, FakeClock, Meddled, after, lost, refused, twice, unreachable

AT = "2026-05-01T07:00:00.000Z"
SCHEDULE = Schedule(timedelta(seconds=28), timedelta(minutes=2), timedelta(hours=6))
REQUEST = ReversalRequest("TQ2L262026", "Paid twice", {"ticket": "T-1"}, "key-1")
OTHER_KEY = replace(REQUEST, idempotency_key="key-2")

ACCEPTED = Evidence(Fact.ACCEPTED, Source.API, attempt=1, kopokopo_id="id-1")
AMBIGUOUS = Evidence(Fact.AMBIGUOUS, Source.API, attempt=1, message="No answer")
REJECTED = Evidence(Fact.REJECTED, Source.API, attempt=1, message="Too old")
TRANSFERRED = Evidence(
    Fact.TRANSFERRED, Source.CALLBACK, 1, kopokopo_id="id-1", amount=Decimal("400.0"), reversal_reference="RVTEST01"
)
CANCELLED = Evidence(Fact.CANCELLED, Source.CALLBACK, attempt=1, kopokopo_id="id-1")
WEBHOOK = Evidence(Fact.TRANSFERRED, Source.WEBHOOK, amount=Decimal("400.0"))
RESOLVED = Evidence(Fact.RESOLVED_FAILED, Source.OPERATOR, by="arn:aws:iam::1:user/o", note="Seen")


@pytest.fixture
def client(cloud: Cloud) -> Meddled:
    return Meddled(cloud.dynamodb)


@pytest.fixture
def store(cloud: Cloud, client: Meddled, clock: FakeClock) -> Store:
    return Store(client, cloud.table, SCHEDULE, clock)  # type: ignore[arg-type]


@pytest.fixture
def somebody_else(cloud: Cloud, clock: FakeClock) -> Store:
    """Another function's store, with which nobody meddles."""
    return Store(cloud.dynamodb, cloud.table, SCHEDULE, clock)


def statuses(reversal: Reversal) -> list[str]:
    return [entry["status"] for entry in reversal.history]


# ------------------------------------------------------------------------------------------------ what is stored


def test_a_claim_as_it_is_stored(store: Store, cloud: Cloud) -> None:
    claimed, ours = store.claim(REQUEST)
    assert ours
    assert claimed.attempt_id
    assert cloud.item() == {
        "transaction_reference": {"S": "TQ2L262026"},
        "status": {"S": "initiating"},
        "attempt": {"N": "1"},
        "attempt_id": {"S": claimed.attempt_id},
        "version": {"N": "1"},
        "reason": {"S": "Paid twice"},
        "metadata": {"M": {"ticket": {"S": "T-1"}}},
        "idempotency_key": {"S": "key-1"},
        "conflict": {"BOOL": False},
        "history": {"L": []},
        "created_at": {"S": AT},
        "claimed_at": {"S": AT},
        "updated_at": {"S": AT},
        "due_shard": {"S": shard("TQ2L262026")},
        "due_at": {"N": str(int(START.timestamp()) + 28)},
        "polls": {"N": "0"},
    }


def test_a_final_reversal_as_it_is_stored(store: Store, cloud: Cloud, clock: FakeClock) -> None:
    store.claim(replace(REQUEST, idempotency_key=None))
    store.record("TQ2L262026", ACCEPTED)
    clock.advance(9)
    store.record("TQ2L262026", TRANSFERRED)
    item = cloud.item()
    assert item
    assert item.pop("attempt_id")
    assert item == {
        "transaction_reference": {"S": "TQ2L262026"},
        "status": {"S": "reversed"},
        "attempt": {"N": "1"},
        "version": {"N": "3"},
        "reason": {"S": "Paid twice"},
        "metadata": {"M": {"ticket": {"S": "T-1"}}},
        "kopokopo_id": {"S": "id-1"},
        "amount": {"S": "400.0"},
        "reversal_reference": {"S": "RVTEST01"},
        "conflict": {"BOOL": False},
        "history": {
            "L": [
                {
                    "M": {
                        "at": {"S": AT},
                        "attempt": {"N": "1"},
                        "status": {"S": "pending"},
                        "source": {"S": "api"},
                        "evidence": {"S": "accepted"},
                        "kopokopo_id": {"S": "id-1"},
                    }
                },
                {
                    "M": {
                        "at": {"S": "2026-05-01T07:00:09.000Z"},
                        "attempt": {"N": "1"},
                        "status": {"S": "reversed"},
                        "source": {"S": "callback"},
                        "evidence": {"S": "transferred"},
                        "kopokopo_id": {"S": "id-1"},
                    }
                },
            ]
        },
        "created_at": {"S": AT},
        "claimed_at": {"S": AT},
        "updated_at": {"S": "2026-05-01T07:00:09.000Z"},
        "resolved_at": {"S": "2026-05-01T07:00:09.000Z"},
    }


@pytest.mark.parametrize(
    ("evidence", "due_in"),
    [
        ([], 28),
        ([ACCEPTED], 120),
        ([AMBIGUOUS], 120),
        ([AMBIGUOUS, ACCEPTED], 120),
        ([REJECTED], None),
        ([ACCEPTED, TRANSFERRED], None),
        ([ACCEPTED, CANCELLED], None),
        ([CANCELLED, TRANSFERRED], None),
        ([AMBIGUOUS, RESOLVED], None),
    ],
)
def test_only_what_is_open_is_due(store: Store, cloud: Cloud, evidence: list[Evidence], due_in: int | None) -> None:
    store.claim(REQUEST)
    for each in evidence:
        store.record("TQ2L262026", each)
    item = cloud.item() or {}
    if due_in is None:
        assert not item.keys() & {"due_shard", "due_at", "polls"}
    else:
        assert item["due_shard"] == {"S": shard("TQ2L262026")}
        assert item["due_at"] == {"N": str(int(START.timestamp()) + due_in)}
        assert item["polls"] == {"N": "0"}


@pytest.mark.parametrize(
    ("evidence", "expires"),
    [
        ([], False),
        ([ACCEPTED], False),
        ([AMBIGUOUS], False),
        ([REJECTED], True),
        ([TRANSFERRED], True),
        ([TRANSFERRED, WEBHOOK], True),
        ([CANCELLED, TRANSFERRED], False),
        ([CANCELLED, TRANSFERRED, RESOLVED], True),
    ],
)
def test_only_what_is_final_and_undisputed_expires(
    cloud: Cloud, clock: FakeClock, evidence: list[Evidence], expires: bool
) -> None:
    """And only where the deployment asks for it: a conflict must not be gone before anybody has looked at it."""
    store = Store(cloud.dynamodb, cloud.table, replace(SCHEDULE, retention=timedelta(days=60)), clock)
    store.claim(REQUEST)
    for each in evidence:
        store.record("TQ2L262026", each)
    expected = {"N": str(int((START + timedelta(days=60)).timestamp()))} if expires else None
    assert (cloud.item() or {}).get("expires_at") == expected


def test_the_next_attempt_does_not_expire_with_the_last(cloud: Cloud, clock: FakeClock) -> None:
    store = Store(cloud.dynamodb, cloud.table, replace(SCHEDULE, retention=timedelta(days=60)), clock)
    store.claim(REQUEST)
    store.record("TQ2L262026", REJECTED)
    store.claim(OTHER_KEY)
    assert "expires_at" not in (cloud.item() or {})


def test_a_claim_is_not_due_before_it_is_stale(store: Store, cloud: Cloud, clock: FakeClock) -> None:
    clock.advance(0.9)
    store.claim(REQUEST)
    item = cloud.item() or {}
    assert float(item["due_at"]["N"]) >= clock.now().timestamp() + 28


@pytest.mark.parametrize("text", ["\u00e9\u4e2d\U0001f600", '"\\/<>&', "\x00\n\t", " ", "a" * 255])
def test_any_text_is_kept_as_it_is(store: Store, text: str) -> None:
    store.claim(replace(REQUEST, reason=text, metadata={text: text, "empty": ""}, idempotency_key=text))
    read = store.get("TQ2L262026")
    assert (read.reason, read.metadata, read.idempotency_key) == (text, {text: text, "empty": ""}, text)


@pytest.mark.parametrize("amount", ["400.0", "400", "0.50", "1E+3", "0"])
def test_an_amount_keeps_its_decimals(store: Store, amount: str) -> None:
    store.record("TQ2L262026", replace(WEBHOOK, amount=Decimal(amount)))
    assert store.get("TQ2L262026").as_json()["amount"] == f"{Decimal(amount):f}"


def test_what_is_read_is_what_was_recorded(store: Store) -> None:
    store.claim(REQUEST)
    store.record("TQ2L262026", ACCEPTED)
    recorded, _ = store.record("TQ2L262026", TRANSFERRED)
    assert store.get("TQ2L262026") == recorded


# ------------------------------------------------------------------------------------------------------ claiming


def test_a_claim_is_one_write_and_no_read(store: Store, client: Meddled) -> None:
    store.claim(REQUEST)
    assert client.calls == ["put_item"]


def test_the_same_request_again_is_one_refused_write(store: Store, client: Meddled) -> None:
    first, _ = store.claim(REQUEST)
    client.calls.clear()
    assert store.claim(REQUEST) == (first, False)
    assert client.calls == ["put_item"]


@pytest.mark.parametrize("other", [{"reason": "Other"}, {"metadata": {}}])
def test_another_request_is_told_what_there_is(store: Store, other: dict[str, Any]) -> None:
    first, _ = store.claim(REQUEST)
    with pytest.raises(ReversalConflictError) as raised:
        store.claim(replace(REQUEST, **other))
    assert raised.value.reversal == first


def test_a_failed_one_can_be_claimed_again(store: Store) -> None:
    first, _ = store.claim(REQUEST)
    store.record("TQ2L262026", REJECTED)
    second, ours = store.claim(OTHER_KEY)
    assert ours
    assert (second.status, second.attempt, second.version) == (Status.INITIATING, 2, 3)
    assert second.attempt_id != first.attempt_id
    assert statuses(second) == ["failed", "initiating"]
    assert store.get("TQ2L262026") == second


def test_a_claim_that_nobody_can_be_making_any_more_is_shown_as_unknown(store: Store, clock: FakeClock) -> None:
    store.claim(REQUEST)
    clock.advance(28.001)
    existing, ours = store.claim(REQUEST)
    assert (existing.status, ours) == (Status.UNKNOWN, False)
    with pytest.raises(ReversalConflictError) as raised:
        store.claim(replace(REQUEST, reason="Other"))
    assert raised.value.reversal.status is Status.UNKNOWN


def test_botocore_claimed_it_twice(store: Store, client: Meddled) -> None:
    client.meddle("put_item", twice)
    claimed, ours = store.claim(REQUEST)
    assert (claimed.status, claimed.version, ours) == (Status.INITIATING, 1, True)


def test_botocore_claimed_the_next_attempt_twice(store: Store, client: Meddled) -> None:
    store.claim(REQUEST)
    store.record("TQ2L262026", REJECTED)
    client.meddle("update_item", twice)
    claimed, ours = store.claim(OTHER_KEY)
    assert (claimed.attempt, claimed.version, ours) == (2, 3, True)
    assert statuses(claimed) == ["failed", "initiating"]


def test_a_claim_that_was_overtaken_is_not_sent(store: Store, client: Meddled, somebody_else: Store) -> None:
    """Our claim's answer is lost, and before botocore's second try a webhook says that the money went back."""

    def overtaken(do: Callable[[], Any]) -> Any:
        do()
        somebody_else.record("TQ2L262026", WEBHOOK)
        return do()

    client.meddle("put_item", overtaken)
    existing, ours = store.claim(REQUEST)
    assert (existing.status, ours) == (Status.REVERSED, False)


def test_two_claim_the_next_attempt_and_one_has_it(store: Store, client: Meddled, somebody_else: Store) -> None:
    store.claim(REQUEST)
    store.record("TQ2L262026", REJECTED)
    client.meddle("update_item", after(lambda: somebody_else.claim(OTHER_KEY)))
    existing, ours = store.claim(OTHER_KEY)
    assert (existing.attempt, ours) == (2, False)


def test_a_claim_races_with_a_webhook_that_makes_the_reversal(
    store: Store, client: Meddled, somebody_else: Store
) -> None:
    client.meddle("put_item", after(lambda: somebody_else.record("TQ2L262026", WEBHOOK)))
    with pytest.raises(ReversalConflictError) as raised:
        store.claim(REQUEST)
    assert raised.value.reversal.status is Status.REVERSED


def test_two_hundred_claim_and_one_has_it(cloud: Cloud, client: Meddled, clock: FakeClock) -> None:
    table = cloud.table

    def claim(number: int) -> bool:
        own = Store(client, table, SCHEDULE, clock)  # type: ignore[arg-type]
        return own.claim(replace(REQUEST, idempotency_key=f"key-{number}"))[1]

    with ThreadPoolExecutor(50) as threads:
        assert sum(threads.map(claim, range(200))) == 1


def test_two_hundred_claim_the_next_attempt_and_one_has_it(cloud: Cloud, client: Meddled, store: Store) -> None:
    store.claim(REQUEST)
    store.record("TQ2L262026", REJECTED)
    with ThreadPoolExecutor(50) as threads:
        claimed = list(threads.map(lambda _: store.claim(OTHER_KEY)[1], range(200)))
    assert sum(claimed) == 1
    assert store.get("TQ2L262026").attempt == 2


@pytest.mark.parametrize("trouble", [unreachable, lost, refused("ProvisionedThroughputExceededException")])
def test_a_claim_that_cannot_be_written_is_an_error(store: Store, client: Meddled, trouble: Any) -> None:
    client.meddle("put_item", trouble)
    with pytest.raises(StorageError):
        store.claim(REQUEST)


# ------------------------------------------------------------------------------------------------------ recording


def test_the_expected_is_one_write_and_no_read(store: Store, client: Meddled) -> None:
    store.claim(REQUEST)
    client.calls.clear()
    for evidence in (ACCEPTED, TRANSFERRED):
        recorded, changed = store.record("TQ2L262026", evidence)
        assert changed
    assert client.calls == ["update_item"] * 2
    assert (recorded.status, recorded.version) == (Status.REVERSED, 3)


def test_what_is_known_already_is_one_refused_write(store: Store, client: Meddled) -> None:
    store.claim(REQUEST)
    recorded, _ = store.record("TQ2L262026", TRANSFERRED)
    client.calls.clear()
    assert store.record("TQ2L262026", TRANSFERRED) == (recorded, False)
    assert client.calls == ["update_item"]


@pytest.mark.parametrize("evidence", [WEBHOOK, TRANSFERRED, CANCELLED, replace(ACCEPTED, source=Source.CALLBACK)])
def test_an_unknown_transaction_is_created(store: Store, evidence: Evidence) -> None:
    created, changed = store.record("TQ2L262026", evidence)
    assert changed
    assert store.get("TQ2L262026") == created
    assert store.record("TQ2L262026", evidence) == (created, False)


def test_botocore_created_it_twice(store: Store, client: Meddled) -> None:
    client.meddle("put_item", twice)
    created, _ = store.record("TQ2L262026", WEBHOOK)
    assert (created.status, created.version, statuses(created)) == (Status.REVERSED, 1, ["reversed"])


@pytest.mark.parametrize("evidence", [ACCEPTED, AMBIGUOUS, REJECTED, TRANSFERRED, CANCELLED, WEBHOOK])
def test_botocore_recorded_it_twice(store: Store, client: Meddled, evidence: Evidence) -> None:
    store.claim(REQUEST)
    client.meddle("update_item", twice)
    recorded, _ = store.record("TQ2L262026", evidence)
    assert (recorded.version, len(recorded.history)) == (2, 1)


def test_botocore_recorded_a_conflict_twice(store: Store, client: Meddled) -> None:
    store.claim(REQUEST)
    store.record("TQ2L262026", CANCELLED)
    client.meddle("update_item", lambda do: do(), twice)
    recorded, _ = store.record("TQ2L262026", TRANSFERRED)
    assert (recorded.conflict, recorded.version, statuses(recorded)) == (True, 3, ["failed", "reversed"])


def test_botocore_recorded_a_resolution_twice(store: Store, client: Meddled) -> None:
    store.claim(REQUEST)
    store.record("TQ2L262026", AMBIGUOUS)
    client.meddle("update_item", twice)
    recorded, _ = store.record("TQ2L262026", RESOLVED)
    assert (recorded.status, recorded.version) == (Status.FAILED, 3)


def test_evidence_that_was_lost_after_it_was_written_can_be_sent_again(store: Store, client: Meddled) -> None:
    store.claim(REQUEST)
    client.meddle("update_item", lost)
    with pytest.raises(StorageError):
        store.record("TQ2L262026", TRANSFERRED)
    recorded, changed = store.record("TQ2L262026", TRANSFERRED)
    assert (recorded.status, recorded.version, changed) == (Status.REVERSED, 2, False)


@pytest.mark.parametrize(
    ("first", "second", "status", "conflict"),
    [
        (TRANSFERRED, ACCEPTED, Status.REVERSED, False),
        (TRANSFERRED, AMBIGUOUS, Status.REVERSED, False),
        (CANCELLED, ACCEPTED, Status.FAILED, False),
        (CANCELLED, AMBIGUOUS, Status.FAILED, False),
        (WEBHOOK, TRANSFERRED, Status.REVERSED, False),
        (TRANSFERRED, WEBHOOK, Status.REVERSED, False),
        (CANCELLED, WEBHOOK, Status.FAILED, True),
        (TRANSFERRED, CANCELLED, Status.REVERSED, True),
        (ACCEPTED, TRANSFERRED, Status.REVERSED, False),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_whichever_of_two_writers_is_first_the_other_sees_what_it_did(
    store: Store,
    client: Meddled,
    somebody_else: Store,
    first: Evidence,
    second: Evidence,
    status: Status,
    conflict: bool,
    known: bool,
) -> None:
    """The second is about to write when the first does, whether or not there was an item before."""
    if known:
        store.claim(REQUEST)
    meddling = after(lambda: somebody_else.record("TQ2L262026", first))
    client.meddle("update_item" if known else "put_item", meddling)
    recorded, _ = store.record("TQ2L262026", second)
    assert (recorded.status, recorded.conflict) == (status, conflict)


def test_a_change_between_the_decision_and_its_write_is_decided_anew(
    store: Store, client: Meddled, somebody_else: Store
) -> None:
    store.claim(REQUEST)
    store.record("TQ2L262026", ACCEPTED)
    # The webhook knows no attempt and finds another than the first: it has to be decided, and then written.
    store.record("TQ2L262026", CANCELLED)
    store.claim(OTHER_KEY)
    ended = replace(TRANSFERRED, attempt=2, kopokopo_id="id-2")
    client.meddle("update_item", lambda do: do(), after(lambda: somebody_else.record("TQ2L262026", ended)))
    recorded, _ = store.record("TQ2L262026", WEBHOOK)
    assert (recorded.status, recorded.conflict, recorded.kopokopo_id) == (Status.REVERSED, False, "id-2")


def test_another_reversals_result_changes_nothing(store: Store) -> None:
    store.claim(REQUEST)
    before, _ = store.record("TQ2L262026", ACCEPTED)
    with pytest.raises(UnboundResultError):
        store.record("TQ2L262026", replace(TRANSFERRED, kopokopo_id="id-2"))
    assert store.get("TQ2L262026") == before


def test_news_of_an_older_attempt_is_kept_and_money_that_moved_for_it_is_a_conflict(store: Store) -> None:
    store.claim(REQUEST)
    store.record("TQ2L262026", REJECTED)
    store.claim(OTHER_KEY)
    recorded, _ = store.record("TQ2L262026", CANCELLED)
    assert (recorded.status, recorded.conflict, recorded.attempt) == (Status.INITIATING, False, 2)
    recorded, _ = store.record("TQ2L262026", TRANSFERRED)
    assert (recorded.status, recorded.conflict, recorded.attempt) == (Status.INITIATING, True, 2)
    assert [(entry["attempt"], entry["status"]) for entry in recorded.history[-2:]] == [(1, "failed"), (1, "reversed")]


def test_a_claim_that_turned_stale_is_resolvable(store: Store, clock: FakeClock) -> None:
    store.claim(REQUEST)
    with pytest.raises(ReversalConflictError):
        store.record("TQ2L262026", RESOLVED)
    clock.advance(28.001)
    recorded, _ = store.record("TQ2L262026", RESOLVED)
    assert recorded.status is Status.FAILED


@pytest.mark.parametrize("fact", [Fact.TRANSFERRED, Fact.CANCELLED, Fact.ACCEPTED, Fact.STALE])
def test_a_poll_makes_no_reversal_of_what_was_deleted(store: Store, cloud: Cloud, fact: Fact) -> None:
    with pytest.raises(ReversalNotFoundError):
        store.record("TQ2L262026", Evidence(fact, Source.POLL, 1, kopokopo_id="id-1"))
    assert cloud.item() is None


def test_an_operator_cannot_resolve_nothing(store: Store, cloud: Cloud) -> None:
    with pytest.raises(ReversalNotFoundError):
        store.record("TQ2L262026", RESOLVED)
    assert cloud.item() is None


@pytest.mark.parametrize("trouble", [unreachable, lost, refused("InternalServerError")])
def test_evidence_that_cannot_be_written_is_an_error(store: Store, client: Meddled, trouble: Any) -> None:
    store.claim(REQUEST)
    client.meddle("update_item", trouble)
    with pytest.raises(StorageError):
        store.record("TQ2L262026", TRANSFERRED)


def test_hundreds_of_writers_leave_one_history(store: Store, client: Meddled) -> None:
    """Every piece of evidence once, versions without a gap, and the status that follows from any order."""
    store.claim(REQUEST)
    evidence = [ACCEPTED, AMBIGUOUS, TRANSFERRED, WEBHOOK, replace(TRANSFERRED, source=Source.POLL)]
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda number: store.record("TQ2L262026", evidence[number % len(evidence)]), range(200)))
    final = store.get("TQ2L262026")
    assert (final.status, final.conflict) == (Status.REVERSED, False)
    assert final.version == 1 + len(final.history)
    told = [(entry["evidence"], entry.get("kopokopo_id")) for entry in final.history]
    assert len(told) == len(set(told))


# ------------------------------------------------------------------------------------------------------ reading


def test_what_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(ReversalNotFoundError):
        store.get("TQ2L262026")


def test_reading_is_consistent(store: Store, client: Meddled) -> None:
    store.claim(REQUEST)
    store.get("TQ2L262026")
    assert client.arguments[-1]["ConsistentRead"] is True


@pytest.mark.parametrize("trouble", [unreachable, refused("InternalServerError")])
def test_what_cannot_be_read_is_an_error(store: Store, client: Meddled, trouble: Any) -> None:
    client.meddle("get_item", trouble)
    client.meddle("query", trouble, trouble)
    with pytest.raises(StorageError):
        store.get("TQ2L262026")
    with pytest.raises(StorageError):
        store.page(None, 10, None)
    with pytest.raises(StorageError):
        list(store.due("0", START))


def references(pages: list[list[Reversal]]) -> list[list[str]]:
    return [[reversal.transaction_reference for reversal in page] for page in pages]


def listed(store: Store, status: Status | None, limit: int) -> list[str]:
    """All pages of a list, one after the other."""
    return [reference for page in references(paged(store, status, limit)) for reference in page]


def paged(store: Store, status: Status | None, limit: int) -> list[list[Reversal]]:
    """All pages of a list."""
    page, after = store.page(status, limit, None)
    pages = [page]
    while after:
        page, after = store.page(status, limit, after)
        pages.append(page)
    return pages


def test_lists_are_newest_first_over_all_statuses(store: Store, clock: FakeClock) -> None:
    for number, evidence in enumerate([ACCEPTED, AMBIGUOUS, TRANSFERRED, REJECTED, None]):
        store.claim(replace(REQUEST, transaction_reference=f"TQ{number}"))
        if evidence:
            store.record(f"TQ{number}", evidence)
        clock.advance(1)
    assert references(paged(store, None, 2)) == [["TQ4", "TQ3"], ["TQ2", "TQ1"], ["TQ0"]]
    assert references(paged(store, None, 5)) == [["TQ4", "TQ3", "TQ2", "TQ1", "TQ0"]]


def test_a_list_of_one_status(store: Store, clock: FakeClock) -> None:
    for number in range(6):
        store.claim(replace(REQUEST, transaction_reference=f"TQ{number}"))
        if number % 2:
            store.record(f"TQ{number}", ACCEPTED)
        clock.advance(1)
    assert references(paged(store, Status.PENDING, 2)) == [["TQ5", "TQ3"], ["TQ1"]]
    assert references(paged(store, Status.REVERSED, 2)) == [[]]


def test_a_list_goes_on_where_it_was_though_the_reversal_there_has_changed(store: Store, clock: FakeClock) -> None:
    for number in range(4):
        store.claim(replace(REQUEST, transaction_reference=f"TQ{number}"))
        store.record(f"TQ{number}", ACCEPTED)
        clock.advance(1)
    page, after_it = store.page(Status.PENDING, 2, None)
    store.record("TQ2", TRANSFERRED)
    rest, end = store.page(Status.PENDING, 2, after_it)
    assert references([page, rest]) == [["TQ3", "TQ2"], ["TQ1", "TQ0"]]
    assert end is None


@pytest.mark.parametrize("status", [Status.INITIATING, None])
def test_those_of_the_same_moment_are_each_listed_once(store: Store, status: Status | None) -> None:
    for number in range(9):
        store.claim(replace(REQUEST, transaction_reference=f"TQ{number}"))
    assert sorted(listed(store, status, 2)) == [f"TQ{number}" for number in range(9)]


@pytest.mark.parametrize("status", [Status.PENDING, None])
def test_a_list_of_large_reversals_is_whole(store: Store, clock: FakeClock, status: Status | None) -> None:
    """DynamoDB answers a megabyte at a time, and then there is more."""
    for number in range(40):
        store.claim(replace(REQUEST, transaction_reference=f"TQ{number:02}", metadata={"note": "x" * 60_000}))
        store.record(f"TQ{number:02}", ACCEPTED)
        clock.advance(1)
    assert listed(store, status, 50) == [f"TQ{number:02}" for number in reversed(range(40))]


def test_the_lease_is_in_no_list(store: Store, cloud: Cloud) -> None:
    TokenLease(cloud.dynamodb, cloud.table).acquire(START, timedelta(seconds=8))
    assert paged(store, None, 10) == [[]]
    assert [list(store.due(str(number), datetime.max.replace(tzinfo=UTC))) for number in range(SHARDS)] == [[]] * SHARDS


def test_the_oldest_of_a_status(store: Store, clock: FakeClock) -> None:
    for number in range(30):
        store.claim(replace(REQUEST, transaction_reference=f"TQ{number:02}"))
        clock.advance(1)
    oldest = [it.transaction_reference for it in store.oldest(Status.INITIATING)]
    assert oldest[:3] == ["TQ00", "TQ01", "TQ02"]
    assert store.oldest(Status.PENDING) == []


# ------------------------------------------------------------------------------------------------------ what is due


def test_what_is_due_is_what_is_open_and_was_left_alone_long_enough(store: Store, clock: FakeClock) -> None:
    for number, evidence in enumerate([ACCEPTED, AMBIGUOUS, TRANSFERRED, REJECTED, None]):
        store.claim(replace(REQUEST, transaction_reference=f"TQ{number}"))
        if evidence:
            store.record(f"TQ{number}", evidence)

    def due() -> set[str]:
        return {it.transaction_reference for number in range(SHARDS) for it in store.due(str(number), clock.now())}

    assert due() == set()
    clock.advance(29)
    assert due() == {"TQ4"}
    clock.advance(120 - 29)
    assert due() == {"TQ0", "TQ1", "TQ4"}


def one_shard(count: int) -> list[str]:
    """References that all lie in the first shard."""
    return [it for it in (f"TQ{number}" for number in range(100 * count)) if shard(it) == "0"][:count]


def test_what_is_longest_due_is_first_over_all_pages(store: Store, client: Meddled, clock: FakeClock) -> None:
    expected = one_shard(60)
    for reference in expected:
        store.claim(replace(REQUEST, transaction_reference=reference))
        clock.advance(1)
    clock.advance(1000)
    client.calls.clear()
    found = store.due("0", clock.now())
    assert next(found).transaction_reference == expected[0]
    assert client.calls == ["query"]
    assert [it.transaction_reference for it in found] == expected[1:]


def test_a_due_reversal_brings_what_reconcile_needs(store: Store, clock: FakeClock) -> None:
    store.claim(REQUEST)
    store.record("TQ2L262026", ACCEPTED)
    clock.advance(120)
    (due,) = store.due(shard("TQ2L262026"), clock.now())
    assert due == DueReversal("TQ2L262026", Status.PENDING, 1, 2, "id-1", int(clock.now().timestamp()), 0)


def test_postponing_changes_when_it_is_due_and_nothing_else(store: Store, cloud: Cloud, clock: FakeClock) -> None:
    store.claim(REQUEST)
    store.record("TQ2L262026", ACCEPTED)
    before = cloud.item() or {}
    clock.advance(150)
    (due,) = store.due(shard("TQ2L262026"), clock.now())
    store.postpone(due)
    later = {"due_at": {"N": str(int(clock.now().timestamp()) + 240)}, "polls": {"N": "1"}}
    assert cloud.item() == before | later
    assert list(store.due(shard("TQ2L262026"), clock.now())) == []


@pytest.mark.parametrize("meanwhile", [TRANSFERRED, None])
def test_what_somebody_has_changed_is_not_postponed(
    store: Store, somebody_else: Store, cloud: Cloud, clock: FakeClock, meanwhile: Evidence | None
) -> None:
    store.claim(REQUEST)
    store.record("TQ2L262026", ACCEPTED)
    clock.advance(120)
    (due,) = store.due(shard("TQ2L262026"), clock.now())
    if meanwhile:
        somebody_else.record("TQ2L262026", meanwhile)
    else:
        somebody_else.postpone(due)
    before = cloud.item()
    store.postpone(due)
    assert cloud.item() == before


# ------------------------------------------------------------------------------------------------ items and streams


def test_an_item_may_hold_more_than_we_know(store: Store, cloud: Cloud) -> None:
    store.claim(REQUEST)
    item = {**(cloud.item() or {}), "added_by_a_later_version": {"S": "x"}}
    assert from_item(item) == store.get("TQ2L262026")


def test_a_stream_record_is_read(store: Store, cloud: Cloud) -> None:
    store.claim(REQUEST)
    before, old = store.get("TQ2L262026"), cloud.item() or {}
    store.record("TQ2L262026", ACCEPTED)
    record = {"dynamodb": {"SequenceNumber": "7", "OldImage": old, "NewImage": cloud.item()}}
    change = from_stream(record)
    assert (change.sequence_number, change.before, change.after) == ("7", before, store.get("TQ2L262026"))
    del record["dynamodb"]["OldImage"]
    assert from_stream(record).before is None


# ------------------------------------------------------------------------------------------------------ the lease

EIGHT_SECONDS = timedelta(seconds=8)


@pytest.fixture
def lease(cloud: Cloud, client: Meddled) -> TokenLease:
    return TokenLease(client, cloud.table)  # type: ignore[arg-type]


@pytest.fixture
def other_lease(cloud: Cloud) -> TokenLease:
    return TokenLease(cloud.dynamodb, cloud.table)


def test_one_holds_the_lease(lease: TokenLease, other_lease: TokenLease) -> None:
    held = lease.acquire(START, EIGHT_SECONDS)
    assert held
    assert other_lease.acquire(START + timedelta(seconds=7.999), EIGHT_SECONDS) is None
    lease.release(held, None)
    assert other_lease.acquire(START, EIGHT_SECONDS)


def test_a_dead_holders_lease_ends_by_itself(lease: TokenLease, other_lease: TokenLease) -> None:
    held = lease.acquire(START, EIGHT_SECONDS)
    later = other_lease.acquire(START + EIGHT_SECONDS, EIGHT_SECONDS)
    assert held
    assert later
    assert later.fence == held.fence + 1


def test_a_late_holder_can_neither_confirm_nor_release(lease: TokenLease, other_lease: TokenLease) -> None:
    held = lease.acquire(START, EIGHT_SECONDS)
    now = START + timedelta(seconds=9)
    later = other_lease.acquire(now, EIGHT_SECONDS)
    assert held
    assert later
    assert not lease.confirm(held, now, EIGHT_SECONDS)
    lease.release(held, START)
    assert lease.acquire(now, EIGHT_SECONDS) is None
    assert other_lease.confirm(later, now, EIGHT_SECONDS)


def test_confirming_holds_on_to_it(lease: TokenLease, other_lease: TokenLease) -> None:
    held = lease.acquire(START, EIGHT_SECONDS)
    assert held
    assert lease.confirm(held, START + timedelta(seconds=7), EIGHT_SECONDS)
    assert other_lease.acquire(START + timedelta(seconds=14), EIGHT_SECONDS) is None


def test_the_next_holder_is_told_what_the_last_one_wrote(lease: TokenLease, other_lease: TokenLease) -> None:
    held = lease.acquire(START, EIGHT_SECONDS)
    assert held
    assert held.written_at is None
    lease.release(held, START)
    second = other_lease.acquire(START, EIGHT_SECONDS)
    assert second
    assert second.written_at == START
    other_lease.release(second, None)
    third = lease.acquire(START, EIGHT_SECONDS)
    assert third
    assert third.written_at == START


def test_botocore_took_the_lease_twice(lease: TokenLease, client: Meddled) -> None:
    client.meddle("update_item", twice)
    assert lease.acquire(START, EIGHT_SECONDS)


@pytest.mark.parametrize("trouble", [unreachable, lost, refused("InternalServerError")])
def test_a_lease_that_cannot_be_released_ends_by_itself(lease: TokenLease, client: Meddled, trouble: Any) -> None:
    held = lease.acquire(START, EIGHT_SECONDS)
    assert held
    client.meddle("update_item", trouble)
    lease.release(held, START)


@pytest.mark.parametrize("trouble", [unreachable, refused("InternalServerError")])
def test_a_lease_that_cannot_be_had_is_an_error(lease: TokenLease, client: Meddled, trouble: Any) -> None:
    client.meddle("update_item", trouble)
    with pytest.raises(StorageError):
        lease.acquire(START, EIGHT_SECONDS)
