"""The store on moto, in any order of operations: it does what the pure rules say, and so does the table in memory.

Three tell the same story: the store on moto, the store on the table of the simulation, and the rules by themselves.
"""

from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from reversals import rules
from reversals.errors import ReversalConflictError, ReversalNotFoundError, ReversalsError, UnboundResultError
from reversals.model import OPEN, Reversal, ReversalRequest, Source, Status
from reversals.rules import Evidence, Fact
from reversals.schedule import SHARDS
from reversals.store import Store

from tests.conftest import Cloud, FakeClock
from tests.proof.aws import Table
from tests.proof.world import system
from tests.unit.test_store import SCHEDULE

REFERENCES = st.sampled_from(["TQ1", "TQ2"])
IDS = st.sampled_from([None, "id-1", "id-2"])
ANSWERS = [Fact.ACCEPTED, Fact.NOT_SENT, Fact.REJECTED, Fact.AMBIGUOUS, Fact.RUNNING]
RESULTS = [Fact.ACCEPTED, Fact.TRANSFERRED, Fact.CANCELLED]
ATTEMPTS = st.integers(1, 3)
REQUESTS = st.builds(
    ReversalRequest,
    REFERENCES,
    st.sampled_from(["Paid twice", "Wrong"]),
    st.sampled_from([{}, {"ticket": "T-1"}]),
    st.sampled_from([None, "key-1", "key-2"]),
)
EVIDENCE = st.one_of(
    st.builds(Evidence, st.sampled_from(ANSWERS), st.just(Source.API), ATTEMPTS, IDS),
    st.builds(
        Evidence,
        st.sampled_from(RESULTS),
        st.sampled_from([Source.CALLBACK, Source.POLL]),
        ATTEMPTS,
        IDS,
        st.sampled_from([None, Decimal("400.0"), Decimal(400)]),
        st.sampled_from([None, "RVTEST01"]),
    ),
    st.builds(Evidence, st.just(Fact.STALE), st.just(Source.POLL), ATTEMPTS),
    st.builds(Evidence, st.just(Fact.TRANSFERRED), st.just(Source.WEBHOOK), amount=st.just(Decimal("400.0"))),
    st.builds(
        Evidence,
        st.sampled_from([Fact.RESOLVED_REVERSED, Fact.RESOLVED_FAILED]),
        st.just(Source.OPERATOR),
        by=st.just("arn:aws:iam::123456789012:user/operator"),
        note=st.sampled_from(["Seen", "Seen in the statement"]),
    ),
)


class Machine(RuleBasedStateMachine):
    def __init__(self, cloud: Cloud) -> None:
        super().__init__()
        self._cloud = cloud
        self._clock = FakeClock()
        self._model: dict[str, Reversal] = {}

    @initialize()
    def begin(self) -> None:
        client, name = self._cloud.dynamodb, self._cloud.table
        for item in client.scan(TableName=name)["Items"]:
            client.delete_item(TableName=name, Key={"transaction_reference": item["transaction_reference"]})
        self._table = Table("transaction_reference", system().indexes, lambda: self._clock.now().timestamp())
        self._stores = [
            Store(client, name, SCHEDULE, self._clock),
            Store(self._table, "", SCHEDULE, self._clock),  # type: ignore[arg-type]
        ]

    @rule(seconds=st.sampled_from([0.001, 5, 60, 3600]))
    def time_passes(self, seconds: float) -> None:
        self._clock.advance(seconds)

    @rule(request=REQUESTS)
    def somebody_asks(self, request: ReversalRequest) -> None:
        expected = _told(lambda: self._claim(request))
        assert [_told(lambda store=store: store.claim(request)) for store in self._stores] == [expected] * 2

    @rule(reference=REFERENCES, evidence=EVIDENCE)
    def evidence_comes(self, reference: str, evidence: Evidence) -> None:
        expected = _told(lambda: self._record(reference, evidence))
        told = [_told(lambda store=store: store.record(reference, evidence)) for store in self._stores]
        assert told == [expected] * 2

    @rule(shard=st.integers(0, SHARDS - 1), late=st.sampled_from([0, 30, 100_000]))
    def reconcile_postpones(self, shard: int, late: int) -> None:
        self._clock.advance(late)
        due = [list(store.due(str(shard), self._clock.now())) for store in self._stores]
        assert due[0] == due[1]
        assert {it.transaction_reference for it in due[0]} <= {
            reference for reference, reversal in self._model.items() if reversal.status in OPEN
        }
        for store, found in zip(self._stores, due, strict=True):
            for each in found:
                store.postpone(each)

    @invariant()
    def all_three_agree(self) -> None:
        if not hasattr(self, "_stores"):
            return
        items = {item["transaction_reference"]["S"]: item for item in self._cloud.items()}
        assert _without_ids(items) == _without_ids(self._table.items)
        for reference, reversal in self._model.items():
            for store in self._stores:
                assert _shown(store.get(reference)) == _shown(self._as_read(reversal))
        listed = [store.page(None, 100, None)[0] for store in self._stores]
        assert {it.transaction_reference for it in listed[0]} == self._model.keys()
        assert [_shown(it) for it in listed[0]] == [_shown(it) for it in listed[1]]

    # The rules by themselves

    def _claim(self, request: ReversalRequest) -> tuple[Reversal, bool]:
        reference, now = request.transaction_reference, self._clock.now()
        if (current := self._model.get(reference)) is None:
            self._model[reference] = rules.claim(request, "", now)
            return self._model[reference], True
        change = rules.claim_again(self._as_read(current), request, "", now)
        if change is None:
            return self._as_read(current), False
        return self._change(current, change), True

    def _record(self, reference: str, evidence: Evidence) -> tuple[Reversal, bool]:
        now, current = self._clock.now(), self._model.get(reference)
        if current is None:
            if evidence.source in (Source.OPERATOR, Source.POLL):
                raise ReversalNotFoundError
            self._model[reference] = rules.create(reference, evidence, now)
            return self._model[reference], True
        # Evidence goes by what is stored; an operator by what there is to be seen, where an old claim is unknown.
        seen = self._as_read(current) if evidence.source is Source.OPERATOR else current
        change = rules.decide(seen, evidence, now)
        if change is None:
            return self._as_read(current), False
        return self._change(current, change), True

    def _change(self, current: Reversal, change: rules.Change) -> Reversal:
        values: dict[str, Any] = {**change.values, "history": (*current.history, change.entry)}
        changed = replace(current, **values, version=current.version + 1)
        self._model[current.transaction_reference] = changed
        return changed

    def _as_read(self, reversal: Reversal) -> Reversal:
        return reversal.as_read(self._clock.now(), SCHEDULE.stale_after)


def _told(operation: Any) -> Any:
    """What an operation returned, or the kind of error that it raised."""
    try:
        reversal, changed = operation()
    except (ReversalConflictError, ReversalNotFoundError, UnboundResultError) as error:
        return type(error)
    except ReversalsError:
        raise
    return _shown(reversal), changed


def _shown(reversal: Reversal) -> Any:
    """Without the random id of the attempt."""
    return replace(reversal, attempt_id=None).as_json() | {"key": reversal.idempotency_key}


def _without_ids(items: dict[str, Any]) -> dict[str, Any]:
    return {
        reference: {name: value for name, value in item.items() if name != "attempt_id"}
        for reference, item in items.items()
        if Status(item["status"]["S"])
    }


def test_the_store_does_what_the_rules_say_whatever_comes_in_whatever_order(cloud: Cloud) -> None:
    run_state_machine_as_test(
        partial(Machine, cloud),  # type: ignore[arg-type]
        settings=settings(
            max_examples=20,
            stateful_step_count=20,
            phases=[Phase.generate],  # a failure is a few steps long as it is; to shorten it takes minutes
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
