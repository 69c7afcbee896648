"""GET: one reversal, lists, and what no other route takes."""

import json
from typing import Any

import pytest

from tests import kopokopo
from tests.conftest import Cloud
from tests.kopokopo import CANCELLED, REFERENCE, result, webhook


def test_a_reversal_with_its_history(cloud: Cloud) -> None:
    cloud.deliver(result(bulk=None))
    cloud.clock.advance(5)
    cloud.deliver(result())
    answer = cloud.get(f"/reversals/{REFERENCE}")
    assert (answer.status, answer.headers) == (200, {"content-type": "application/json"})
    assert answer.json == {
        "transaction_reference": REFERENCE,
        "status": "reversed",
        "attempt": 1,
        "version": 2,
        "reason": None,
        "metadata": {},
        "amount": "400.0",
        "currency": "KES",
        "reversal_reference": "RVTEST01",
        "kopokopo_id": kopokopo.KOPOKOPO_ID,
        "failure": None,
        "conflict": False,
        "created_at": "2026-05-01T07:00:00.000Z",
        "updated_at": "2026-05-01T07:00:05.000Z",
        "resolved_at": "2026-05-01T07:00:05.000Z",
        "history": answer.json["history"],
    }
    assert [it.items() >= {"attempt": 1, "source": "callback"}.items() for it in answer.json["history"]] == [True, True]


@pytest.mark.parametrize("reference", ["UNHEARD-OF", "odd_reference", "A" * 65, "%23token-lease", "#token-lease"])
def test_what_is_not_there_is_not_found(cloud: Cloud, reference: str) -> None:
    answer = cloud.get(f"/reversals/{reference}")
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")


def test_a_table_that_is_not_there(cloud: Cloud) -> None:
    cloud.dynamodb.delete_table(TableName=cloud.table)
    for path in ("/reversals/TQ1", "/reversals"):
        answer = cloud.get(path)
        assert (answer.status, "retry-after" in answer.headers) == (503, True)


# ------------------------------------------------------------------------------------------------------ lists


@pytest.fixture
def listed(cloud: Cloud) -> Cloud:
    """Seven reversals, one a second: 0, 3 and 6 pending, 1 and 4 reversed, 2 and 5 failed."""
    for number in range(7):
        bulk = [None, kopokopo.TRANSFERRED, CANCELLED][number % 3]
        cloud.deliver(result(f"TQ{number}", bulk=bulk, id=f"id-{number}"), f"TQ{number}")
        cloud.clock.advance(1)
    return cloud


def references(answer: Any) -> list[str]:
    return [item["transaction_reference"] for item in answer.json["items"]]


def test_a_list_is_newest_first_and_without_histories(listed: Cloud) -> None:
    answer = listed.get("/reversals")
    assert answer.status == 200
    assert references(answer) == [f"TQ{number}" for number in reversed(range(7))]
    assert answer.json["cursor"] is None
    one = listed.get("/reversals/TQ6").json
    del one["history"]
    assert answer.json["items"][0] == one


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("pending", ["TQ6", "TQ3", "TQ0"]),
        ("reversed", ["TQ4", "TQ1"]),
        ("failed", ["TQ5", "TQ2"]),
        ("unknown", []),
        ("initiating", []),
    ],
)
def test_a_list_of_one_status(listed: Cloud, status: str, expected: list[str]) -> None:
    assert references(listed.get("/reversals", status=status)) == expected


@pytest.mark.parametrize("status", [{}, {"status": "pending"}])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_a_cursor_leads_through_all_of_it(listed: Cloud, status: dict[str, str], limit: int) -> None:
    pages: list[list[str]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = listed.get("/reversals", limit=str(limit), **status, **cursor)
        pages.append(references(answer))
        if answer.json["cursor"] is None:
            break
        cursor = {"cursor": answer.json["cursor"]}
    expected = ["TQ6", "TQ3", "TQ0"] if status else [f"TQ{number}" for number in reversed(range(7))]
    assert [reference for page in pages for reference in page] == expected
    assert all(len(page) == limit for page in pages[:-1])
    assert len(pages) == -(-len(expected) // limit)


def test_fifty_are_listed_unless_otherwise_asked(cloud: Cloud) -> None:
    for number in range(51):
        cloud.notify("/kopokopo/webhooks", webhook(f"TQ{number}"))
    answer = cloud.get("/reversals")
    assert len(answer.json["items"]) == 50
    assert answer.json["cursor"]


@pytest.mark.parametrize("status", [{}, {"status": "reversed"}])
def test_a_page_is_never_larger_than_a_function_can_answer(cloud: Cloud, status: dict[str, str]) -> None:
    """Six megabytes. Each of these reversals is as large as the limit of its request allows."""
    cloud.deliver(result())
    item = {**(cloud.item() or {}), "metadata": {"M": {"note": {"S": "x" * 65_000}}}}
    for number in range(100):
        cloud.dynamodb.put_item(
            TableName=cloud.table,
            Item={**item, "transaction_reference": {"S": f"TQ{number}"}, "created_at": at(number)},
        )
    cursor: dict[str, str] = {}
    found: list[str] = []
    while True:
        answer = cloud.get("/reversals", limit="100", **status, **cursor)
        assert len(json.dumps(answer.body)) < 6 * 1024 * 1024 - 1024
        found += references(answer)
        if answer.json["cursor"] is None:
            break
        cursor = {"cursor": answer.json["cursor"]}
    assert len(found) == len(set(found)) == 101


def at(second: int) -> dict[str, str]:
    return {"S": f"2026-05-01T06:{second // 60:02}:{second % 60:02}.000Z"}


@pytest.mark.parametrize(
    "query",
    [
        {"status": "done"},
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "many"},
        {"cursor": "nonsense"},
        {"colour": "red"},
    ],
)
def test_what_cannot_be_used_is_bad_input(cloud: Cloud, query: dict[str, str]) -> None:
    answer = cloud.get("/reversals", **query)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert [error["field"] for error in answer.json["errors"]] == list(query)


def test_a_cursor_belongs_to_its_list(listed: Cloud) -> None:
    cursor = listed.get("/reversals", status="pending", limit="1").json["cursor"]
    for other in ({"status": "failed"}, {}):
        assert listed.get("/reversals", cursor=cursor, **other).status == 400


# ------------------------------------------------------------------------------------------------------ other paths


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/reversals", "GET, POST"),
        ("DELETE", "/reversals", "GET, POST"),
        ("DELETE", "/reversals/TQ1", "GET"),
        ("POST", "/reversals/TQ1", "GET"),
        ("GET", "/reversals/TQ1/resolution", "POST"),
        ("GET", "/kopokopo/webhooks", "POST"),
        ("GET", "/kopokopo/results/TQ1/1", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(cloud: Cloud, method: str, path: str, allow: str) -> None:
    answer = cloud.request(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allow)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path", ["/", "/reversal", "/reversals/", "/reversals/TQ1/history", "/kopokopo", "/favicon.ico"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_wrong_path_is_not_found(cloud: Cloud, method: str, path: str) -> None:
    answer = cloud.request(method, path)
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")


def test_405_knows_every_route_of_the_template(cloud: Cloud) -> None:
    """A route that is added, and not told to lookup, would answer 404 to a wrong method."""
    (api,) = [it for it in cloud._resources.values() if it["Type"] == "AWS::ApiGatewayV2::Api"]
    for path in api["Properties"]["Body"]["paths"]:
        if path != "$default":
            assert (
                cloud.request("PATCH", path.replace("{attempt}", "1").replace("{transaction_reference}", "TQ1")).status
                == 405
            )
