"""Every way in which Kopo Kopo may behave, from the merchant's POST to the event on a subscriber's queue.

The transaction reference chooses the behaviour. Of each is checked: the answer, the status in the end and who told it,
the events, and by Kopo Kopo's own journal that no more than one POST was ever accepted.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.e2e.conftest import System


@dataclass(frozen=True)
class Case:
    reference: str
    answers: frozenset[int]
    status: str
    source: str
    events: tuple[tuple[str, ...], ...]
    """The types of its events; more than one way where it depends on which of two comes first."""
    accepted: int = 1
    failure: str | None = None


HEALED = (("reversal.unknown", "reversal.reversed"), ("reversal.reversed",))
ACCEPTED = (("reversal.pending", "reversal.reversed"), ("reversal.reversed",))

CASES = [
    Case("TQ2L262026", frozenset({201}), "reversed", "callback", ACCEPTED),
    Case(
        "CANCEL0001",
        frozenset({201}),
        "failed",
        "callback",
        (("reversal.pending", "reversal.failed"),),
        failure="cancelled",
    ),
    Case("REJECT0001", frozenset({422}), "failed", "api", (("reversal.failed",),), 0, failure="rejected"),
    Case("OLD0001", frozenset({422}), "failed", "api", (("reversal.failed",),), 0, failure="rejected"),
    Case("LOST0001", frozenset({201}), "reversed", "poll", ACCEPTED),
    Case("SILENT0001", frozenset({201, 202}), "reversed", "callback", HEALED),
    Case("MUTE0001", frozenset({202}), "unknown", "api", (("reversal.unknown",),)),
    Case("DOWN0001", frozenset({202}), "unknown", "api", (("reversal.unknown",),), 0),
    Case("BROKEN0001", frozenset({202}), "reversed", "callback", HEALED),
    Case("DROP0001", frozenset({202}), "reversed", "callback", HEALED),
    Case("EARLY0001", frozenset({201}), "reversed", "callback", (("reversal.reversed",),)),
    Case("THRICE0001", frozenset({201}), "reversed", "callback", ACCEPTED),
    Case("EXPIRED0001", frozenset({201}), "reversed", "callback", ACCEPTED),
    Case("WEBHOOK0001", frozenset({201}), "reversed", "webhook", ACCEPTED),
    Case("WEBHOOKB2B01", frozenset({201}), "reversed", "webhook", ACCEPTED),
    Case("NOLOC0001", frozenset({202}), "reversed", "callback", HEALED),
    Case("MOVED0001", frozenset({202}), "unknown", "api", (("reversal.unknown",),), 0),
    Case("EVIL0001", frozenset({202}), "reversed", "callback", HEALED),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reference)
def test_behaviour(system: System, case: Case) -> None:
    response = system.post(case.reference)
    assert response.status_code in case.answers, response.text
    assert response.headers["location"] == f"/reversals/{case.reference}"

    reversal = system.becomes(case.reference, case.status)
    decisive = [entry for entry in reversal["history"] if entry["status"] == case.status]
    assert decisive[0]["source"] == case.source
    assert (reversal["failure"] or {}).get("code") == case.failure
    assert reversal["conflict"] is False

    item = system.item(case.reference)
    assert item["status"]["S"] == case.status
    assert ("due_shard" in item) == (case.status == "unknown"), "only open reversals are in the index of what is due"

    assert tuple(system.told(case.reference, case.events[0][-1])) in case.events
    assert system.accepted(case.reference) == case.accepted


@pytest.mark.parametrize("case", [case for case in CASES if case.status != "failed"], ids=lambda case: case.reference)
def test_the_same_request_again_sends_nothing(system: System, case: Case) -> None:
    reference = f"{case.reference}-AGAIN"
    system.post(reference)
    assert system.post(reference).status_code in (200, 202)
    system.becomes(reference, case.status)
    assert system.post(reference).status_code == (202 if case.status == "unknown" else 200)
    assert system.accepted(reference) == case.accepted


def test_a_reversed_payment_has_its_amount_reference_and_history(system: System) -> None:
    system.post("AMOUNT0001")
    reversal = system.becomes("AMOUNT0001", "reversed")
    assert reversal["amount"] == "400.0"
    assert reversal["currency"] == "KES"
    assert reversal["reversal_reference"].startswith("RV")
    assert [entry["source"] for entry in reversal["history"]][-1] == "callback"
    assert reversal["version"] == 3


def test_an_expired_token_is_replaced_once(system: System) -> None:
    system.post("EXPIRED0002")
    assert [entry["status"] for entry in system.posts("EXPIRED0002")] == [401, 201]


def test_no_url_that_kopo_kopo_sends_is_followed(system: System) -> None:
    for reference in ("MOVED0002", "EVIL0002"):
        system.post(reference)
    system.becomes("EVIL0002", "reversed")
    known = {"/oauth/token", "/api/v2/reversals", "/api/v2/webhook_subscriptions"}
    entries = system.journal()
    strange = [e["path"] for e in entries if e["path"] not in known and not e["path"].startswith("/api/v2/reversals/")]
    assert strange == []


def test_a_failed_reversal_can_be_tried_again(system: System) -> None:
    system.post("CANCEL0002")
    system.becomes("CANCEL0002", "failed")
    assert system.post("CANCEL0002").status_code == 201
    reversal = system.get("CANCEL0002")
    assert reversal["attempt"] == 2
    system.becomes("CANCEL0002", "failed")
    assert system.accepted("CANCEL0002") == 2


def test_the_same_idempotency_key_never_starts_another_attempt(system: System) -> None:
    key = {"Idempotency-Key": "order-17"}
    system.post("CANCEL0003", **key)
    system.becomes("CANCEL0003", "failed")
    again = system.post("CANCEL0003", **key)
    assert (again.status_code, again.json()["attempt"]) == (200, 1)
    assert system.accepted("CANCEL0003") == 1


def test_what_stays_unknown_is_resolved_by_an_operator(system: System) -> None:
    system.post("MUTE0002")
    assert system.resolve("MUTE0002", "failed").status_code == 200
    reversal = system.get("MUTE0002")
    assert reversal["history"][-1]["by"].startswith("arn:")
    assert reversal["history"][-1]["note"] == "Seen in the statement"
    assert system.told("MUTE0002", "reversal.failed") == ["reversal.unknown", "reversal.failed"]
    assert system.resolve("TQNONE", "failed").status_code == 404


def test_one_accepted_post_for_two_hundred_at_once(system: System) -> None:
    with ThreadPoolExecutor(50) as pool:
        same = list(pool.map(lambda _: system.post("CROWD0001").status_code, range(200)))
        different = list(pool.map(lambda n: system.post("CROWD0002", reason=f"No. {n}").status_code, range(200)))
    assert set(same) <= {200, 201, 202}
    assert same.count(201) == 1
    assert set(different) <= {200, 201, 202, 409}
    assert (system.accepted("CROWD0001"), system.accepted("CROWD0002")) == (1, 1)
