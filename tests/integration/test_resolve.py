"""POST /reversals/{transaction_reference}/resolution: what an operator found out."""

from typing import Any

import pytest

from tests.conftest import Cloud
from tests.kopokopo import CANCELLED, REFERENCE, result

PATH = f"/reversals/{REFERENCE}/resolution"
OPERATOR = "arn:aws:iam::123456789012:user/operator"


def found(status: str = "reversed", note: str = "Seen in the M-PESA statement") -> dict[str, str]:
    return {"status": status, "note": note}


@pytest.fixture
def unknown(cloud: Cloud) -> Cloud:
    """A reversal that was sent and never answered."""
    cloud.deliver(result(bulk=None))
    cloud.dynamodb.update_item(
        TableName=cloud.table,
        Key={"transaction_reference": {"S": REFERENCE}},
        UpdateExpression="SET #status = :status",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={":status": {"S": "unknown"}},
    )
    return cloud


@pytest.mark.parametrize("status", ["reversed", "failed"])
def test_what_is_unknown_is_resolved(unknown: Cloud, status: str) -> None:
    answer = unknown.post(PATH, found(status))
    assert (answer.status, answer.headers["location"]) == (200, f"/reversals/{REFERENCE}")
    assert (answer.json["status"], answer.json["resolved_at"]) == (status, "2026-05-01T07:00:00.000Z")
    entry = answer.json["history"][-1]
    assert (entry["source"], entry["by"], entry["note"]) == ("operator", OPERATOR, "Seen in the M-PESA statement")
    assert unknown.get(f"/reversals/{REFERENCE}").json == answer.json


@pytest.mark.parametrize("status", ["reversed", "failed"])
def test_a_conflict_is_resolved_and_unblocks(cloud: Cloud, status: str) -> None:
    cloud.deliver(result(bulk=CANCELLED))
    cloud.deliver(result())
    answer = cloud.post(PATH, found(status))
    assert (answer.status, answer.json["status"], answer.json["conflict"]) == (200, status, False)
    assert (answer.json["failure"] is None) == (status == "reversed")


def test_the_same_resolution_twice_is_once(unknown: Cloud) -> None:
    first = unknown.post(PATH, found())
    again = unknown.post(PATH, found())
    assert (again.status, again.json) == (200, first.json)


@pytest.mark.parametrize("document", [result(bulk=None), result(), result(bulk=CANCELLED)])
def test_what_is_neither_unknown_nor_in_conflict_is_not_resolvable(cloud: Cloud, document: Any) -> None:
    cloud.deliver(document)
    before = cloud.item()
    answer = cloud.post(PATH, found())
    assert (answer.status, answer.headers["content-type"]) == (409, "application/problem+json")
    assert answer.json["reversal"]["transaction_reference"] == REFERENCE
    assert cloud.item() == before


@pytest.mark.parametrize("path", [PATH, "/reversals/odd_reference/resolution"])
def test_what_is_not_there_cannot_be_resolved(cloud: Cloud, path: str) -> None:
    assert cloud.post(path, found()).status == 404
    assert cloud.items() == []


@pytest.mark.parametrize(
    "body",
    [None, "", "no JSON", [], {}, {"status": "reversed"}, found("pending"), found(note=""), found() | {"by": "me"}],
)
def test_bad_input_changes_nothing(unknown: Cloud, body: Any) -> None:
    before = unknown.item()
    answer = unknown.post(PATH, body)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert unknown.item() == before


@pytest.mark.parametrize(("length", "status"), [(64 * 1024, 400), (64 * 1024 + 1, 413)])
def test_a_body_has_a_limit(unknown: Cloud, length: int, status: int) -> None:
    assert unknown.post(PATH, '{"note":"' + "x" * (length - 11) + '"}').status == status


def test_who_resolved_it_is_the_caller_and_nobody_else(unknown: Cloud) -> None:
    unknown.caller = "arn:aws:sts::123456789012:assumed-role/Operators/somebody"
    assert unknown.post(PATH, found()).json["history"][-1]["by"] == unknown.caller


def test_a_claim_that_nobody_can_be_making_any_more_is_resolvable(cloud: Cloud) -> None:
    """Its function died; nobody heard of it again."""
    cloud.post("/reversals", {"transaction_reference": REFERENCE, "reason": "x"})
    item = cloud.item() or {}
    item |= {"status": {"S": "initiating"}}
    cloud.dynamodb.put_item(TableName=cloud.table, Item=item)
    assert cloud.post(PATH, found()).status == 409
    cloud.clock.advance(28.1)
    assert cloud.post(PATH, found()).status == 200
