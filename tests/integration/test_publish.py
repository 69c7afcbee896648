"""The table's stream, through the template's filter, to the topic's subscribers."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from reversals import events
from reversals.model import Status

from tests import kopokopo
from tests.conftest import Cloud, Output
from tests.kopokopo import CANCELLED, REFERENCE, result, webhook
from tests.unit.test_model import REVERSAL

Record = dict[str, Any]


@pytest.fixture
def stream(cloud: Cloud) -> Callable[[], list[Record]]:
    """What the table's stream holds, as Lambda hands it over."""

    def read() -> list[Record]:
        arn = cloud.stack.attributes("ReversalsTable")["StreamArn"]
        (shard,) = cloud.streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
        iterator = cloud.streams.get_shard_iterator(
            StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        records = cloud.streams.get_records(ShardIterator=iterator)["Records"]
        return [json.loads(json.dumps(record, default=str)) for record in records]

    return read


def patterns(cloud: Cloud) -> list[Any]:
    (mapping,) = [
        it["Properties"]
        for it in cloud._resources.values()
        if it["Type"] == "AWS::Lambda::EventSourceMapping" and "FilterCriteria" in it["Properties"]
    ]
    return [json.loads(it["Pattern"]) for it in mapping["FilterCriteria"]["Filters"]]


def passes(pattern: Any, value: Any) -> bool:
    """Whether a filter pattern of Lambda's matches, as far as the template's go."""
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(passes(part, value.get(name)) for name, part in pattern.items())
    return any(value is not None if choice == {"exists": True} else value == choice for choice in pattern)


def published(cloud: Cloud, records: list[Record]) -> list[dict[str, Any]]:
    """The events that the function makes of what the filter lets through."""
    let_through = [it for it in records if any(passes(pattern, it) for pattern in patterns(cloud))]
    assert cloud.invoke("publish", {"Records": let_through}) == {"batchItemFailures": []}
    return [json.loads(message["Message"]) for message in cloud.told()]


def test_every_change_that_counts_is_told_once(cloud: Cloud, stream: Callable[[], list[Record]]) -> None:
    cloud.post("/reversals", {"transaction_reference": "TQ1", "reason": "x"})  # not sent: nobody listens
    cloud.deliver(result(bulk=None))
    cloud.deliver(result(bulk=CANCELLED))
    cloud.deliver(result())
    cloud.post(f"/reversals/{REFERENCE}/resolution", {"status": "reversed", "note": "Seen"})
    cloud.notify("/kopokopo/webhooks", webhook("TQ2"))
    told = published(cloud, stream())
    assert [(event["type"], event["id"]) for event in told] == [
        ("reversal.failed", "TQ1:2"),
        ("reversal.pending", f"{REFERENCE}:1"),
        ("reversal.failed", f"{REFERENCE}:2"),
        ("reversal.conflict", f"{REFERENCE}:3"),
        ("reversal.reversed", f"{REFERENCE}:4"),
        ("reversal.reversed", "TQ2:1"),
    ]


def test_an_event_shows_what_is_stored(cloud: Cloud, stream: Callable[[], list[Record]]) -> None:
    cloud.deliver(result())
    (event,) = published(cloud, stream())
    shown = cloud.get(f"/reversals/{REFERENCE}").json
    del shown["history"]
    assert event == {
        "specversion": "1.0",
        "id": f"{REFERENCE}:1",
        "source": "kopokopo-reversals",
        "type": "reversal.reversed",
        "subject": REFERENCE,
        "time": "2026-05-01T07:00:00.000Z",
        "datacontenttype": "application/json",
        "sequence": 1,
        "data": shown,
    }


def test_subscribers_can_filter(cloud: Cloud, stream: Callable[[], list[Record]]) -> None:
    cloud.deliver(result())
    cloud.invoke("publish", {"Records": stream()})
    (message,) = cloud.told()
    assert {name: it["Value"] for name, it in message["MessageAttributes"].items()} == {
        "type": "reversal.reversed",
        "status": "reversed",
    }


def test_neither_the_lease_nor_what_reconcile_notes_is_let_through(
    cloud: Cloud, stream: Callable[[], list[Record]]
) -> None:
    cloud.post("/reversals", {"transaction_reference": "TQ1", "reason": "x"})
    through = [it for it in stream() if any(passes(pattern, it) for pattern in patterns(cloud))]
    assert [it["dynamodb"]["Keys"]["transaction_reference"]["S"] for it in through] == ["TQ1"]


@pytest.mark.parametrize("conflict", [False, True])
@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("before", [None, *Status])
def test_the_filter_lets_through_all_that_is_news(
    cloud: Cloud, before: Status | None, status: Status, conflict: bool
) -> None:
    old = None if before is None else replace(REVERSAL, status=before, conflict=False)
    new = replace(REVERSAL, status=status, conflict=conflict, version=4)
    image = {"status": {"S": str(status)}, "version": {"N": "4"}, "conflict": {"BOOL": conflict}}
    record = {"eventName": "MODIFY" if old else "INSERT", "dynamodb": {"NewImage": image}}
    if events.is_news(old, new):
        assert any(passes(pattern, record) for pattern in patterns(cloud))


def test_what_expires_is_no_news(cloud: Cloud) -> None:
    removed = {"eventName": "REMOVE", "dynamodb": {"OldImage": {"version": {"N": "3"}, "status": {"S": "reversed"}}}}
    assert not any(passes(pattern, removed) for pattern in patterns(cloud))


def test_a_topic_that_is_gone_makes_everything_come_again(cloud: Cloud, stream: Callable[[], list[Record]]) -> None:
    for number in range(3):
        cloud.deliver(result(f"TQ{number}"), f"TQ{number}")
    records = stream()
    cloud.sns.delete_topic(TopicArn=cloud.ref("ReversalsTopic"))
    answer = cloud.invoke("publish", {"Records": records})
    assert answer == {
        "batchItemFailures": [{"itemIdentifier": record["dynamodb"]["SequenceNumber"]} for record in records]
    }


def test_what_can_never_be_published_is_kept_whole(
    cloud: Cloud, stream: Callable[[], list[Record]], output: Output
) -> None:
    cloud.deliver(result())
    (record,) = stream()
    del record["dynamodb"]["NewImage"]["version"]
    assert cloud.invoke("publish", {"Records": [record]}) == {"batchItemFailures": []}
    bucket = cloud.ref("UnpublishedBucket")
    (kept,) = cloud.s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert json.loads(cloud.s3.get_object(Bucket=bucket, Key=kept["Key"])["Body"].read()) == record
    assert output.metric("Unpublishable") == 1


def test_a_batch_costs_one_call_per_ten_events(cloud: Cloud, stream: Callable[[], list[Record]]) -> None:
    for number in range(25):
        cloud.notify("/kopokopo/webhooks", webhook(f"TQ{number}"))
    records = stream()
    cloud.calls.clear()
    cloud.invoke("publish", {"Records": records})
    assert cloud.calls == ["sns:PublishBatch"] * 3


def test_it_tells_again_what_was_lost(cloud: Cloud, stream: Callable[[], list[Record]]) -> None:
    cloud.deliver(result())
    cloud.clock.advance(3600)
    cloud.notify("/kopokopo/webhooks", webhook("TQ2"))
    told = published(cloud, stream())
    since = {"republish": {"updated_since": "2026-05-01T00:00:00Z", "cursor": None}}
    assert cloud.invoke("publish", since) == {"published": 2, "failed": 0, "cursor": None}
    again = [json.loads(message["Message"]) for message in cloud.told()]
    assert {event["id"]: event for event in again} == {event["id"]: event for event in told}
    since = {"republish": {"updated_since": "2026-05-01T07:30:00Z"}}
    assert cloud.invoke("publish", since)["published"] == 1


def test_an_event_holds_no_phone_number(cloud: Cloud, stream: Callable[[], list[Record]]) -> None:
    cloud.notify("/kopokopo/webhooks", webhook())
    cloud.deliver(result("TQ2", bulk=CANCELLED, errors=[f"{kopokopo.PHONE_NUMBER} has no money"]), "TQ2")
    assert "254700" not in json.dumps(published(cloud, stream()))
