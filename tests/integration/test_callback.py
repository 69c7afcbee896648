"""What Kopo Kopo sends, from the two open routes to the table; and from the queue."""

from typing import Any

import pytest

from tests import kopokopo
from tests.conftest import Cloud, Output
from tests.kopokopo import CANCELLED, REFERENCE, result, webhook

PATH = f"/kopokopo/results/{REFERENCE}/1"
WEBHOOKS = "/kopokopo/webhooks"


def drained(cloud: Cloud) -> dict[str, Any]:
    """What waits in the queue, as Lambda hands it over."""
    queue = cloud.ref("EvidenceQueue")
    records = []
    while messages := cloud.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
        records += [{"messageId": it["MessageId"], "body": it["Body"], "eventSource": "aws:sqs"} for it in messages]
    return {"Records": records}


# ------------------------------------------------------------------------------------------------ results and webhooks


def test_a_result_ends_a_reversal(cloud: Cloud) -> None:
    cloud.deliver(result(bulk=None))
    answer = cloud.deliver(result())
    assert (answer.status, answer.json) == (200, {"status": "recorded"})
    reversal = cloud.get(f"/reversals/{REFERENCE}").json
    assert (reversal["status"], reversal["amount"], reversal["reversal_reference"]) == ("reversed", "400.0", "RVTEST01")


def test_a_webhook_ends_a_reversal(cloud: Cloud) -> None:
    cloud.deliver(result(bulk=None))
    assert cloud.notify(WEBHOOKS, webhook()).json == {"status": "recorded"}
    reversal = cloud.get(f"/reversals/{REFERENCE}").json
    assert (reversal["status"], reversal["history"][-1]["source"]) == ("reversed", "webhook")


@pytest.mark.parametrize("order", [(PATH, WEBHOOKS), (WEBHOOKS, PATH)])
def test_result_and_webhook_agree_in_either_order(cloud: Cloud, order: tuple[str, str]) -> None:
    for path in order:
        assert cloud.notify(path, result() if path == PATH else webhook()).status == 200
    reversal = cloud.get(f"/reversals/{REFERENCE}").json
    assert (reversal["status"], reversal["conflict"], reversal["reversal_reference"]) == ("reversed", False, "RVTEST01")


def test_a_webhook_against_a_cancellation_is_a_conflict(cloud: Cloud) -> None:
    cloud.deliver(result(bulk=CANCELLED))
    assert cloud.notify(WEBHOOKS, webhook()).json == {"status": "recorded"}
    assert cloud.notify(WEBHOOKS, webhook()).json == {"status": "known"}
    reversal = cloud.get(f"/reversals/{REFERENCE}").json
    assert (reversal["status"], reversal["conflict"], len(reversal["history"])) == ("failed", True, 2)


def test_a_reversal_that_nobody_asked_us_for_is_kept(cloud: Cloud) -> None:
    """Made in Kopo Kopo's own dashboard, say."""
    assert cloud.notify(WEBHOOKS, webhook("QX91TEST07")).json == {"status": "recorded"}
    reversal = cloud.get("/reversals/QX91TEST07").json
    assert (reversal["status"], reversal["reason"], reversal["metadata"]) == ("reversed", None, {})


def test_neither_a_phone_number_nor_a_name_is_stored(cloud: Cloud) -> None:
    cloud.notify(WEBHOOKS, webhook(sender_last_name="Wanjiku"))
    cloud.deliver(result("TQ2", bulk=CANCELLED, errors=["+254700000000 has no money"]), "TQ2")
    stored = str(cloud.items())
    assert "254700" not in stored
    assert "Wanjiku" not in stored


def test_a_result_costs_one_write(cloud: Cloud) -> None:
    cloud.deliver(result(bulk=None))
    cloud.calls.clear()
    cloud.deliver(result())
    assert cloud.calls == ["dynamodb:UpdateItem"]


# ------------------------------------------------------------------------------------------------ refusals


def test_what_is_refused_is_counted(cloud: Cloud, output: Output) -> None:
    assert cloud.notify(PATH, result(), signature="0" * 64).status == 401
    assert cloud.notify("/kopokopo/results/ANOTHER/1", result()).status == 400
    assert cloud.notify(WEBHOOKS, webhook(topic="customer_created")).json == {"status": "ignored"}
    counted = {name: output.metric(name) for name in ("SignatureFailures", "UnboundResults", "IgnoredNotifications")}
    assert counted == {"SignatureFailures": 1, "UnboundResults": 1, "IgnoredNotifications": 1}
    assert cloud.items() == []


@pytest.mark.parametrize(
    "path", [PATH, WEBHOOKS, "/kopokopo/results/odd_reference/1", f"/kopokopo/results/{REFERENCE}/x"]
)
def test_the_signature_comes_first(cloud: Cloud, path: str) -> None:
    for document in (result(), b"no JSON", b""):
        assert cloud.notify(path, document, key="somebody else's key").status == 401


def test_a_body_that_is_no_base64_is_refused(cloud: Cloud) -> None:
    cloud.cold_start("callback")
    event = {
        "routeKey": "POST /kopokopo/webhooks",
        "rawPath": WEBHOOKS,
        "headers": {},
        "requestContext": {},
        "body": "!",
        "isBase64Encoded": True,
    }
    assert cloud.invoke("callback", event)["statusCode"] == 400


@pytest.mark.parametrize("value", [{}, {"api_key": ""}, []])
def test_a_deployment_without_a_key_says_so_to_the_log_alone(cloud: Cloud, output: Output, value: Any) -> None:
    cloud.put_secret("SignatureSecret", value)
    answer = cloud.deliver(result())
    assert answer.status == 500
    assert "SignatureSecret" not in answer.body
    assert "SignatureSecret" in output.text


def test_a_key_that_is_rotated_loses_no_result(cloud: Cloud) -> None:
    assert cloud.deliver(result("TQ1"), "TQ1").status == 200
    cloud.put_secret("SignatureSecret", {"api_key": "new-key"})
    cloud.clock.advance(10)
    for reference, key in (("TQ2", "new-key"), ("TQ3", kopokopo.API_KEY)):
        answer = cloud.notify(f"/kopokopo/results/{reference}/1", result(reference), key=key)
        assert answer.json == {"status": "recorded"}


# ------------------------------------------------------------------------------------------------ the table is down


def test_what_the_table_does_not_take_waits_and_is_written_later(cloud: Cloud, output: Output) -> None:
    definition = {"TableName": cloud.table}
    table = cloud.dynamodb.describe_table(**definition)["Table"]
    cloud.dynamodb.delete_table(**definition)
    assert cloud.deliver(result()).json == {"status": "queued"}
    assert cloud.notify(WEBHOOKS, webhook("TQ2")).json == {"status": "queued"}
    assert output.metric("Queued") == 2

    cloud.dynamodb.create_table(
        **definition,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=table["KeySchema"],
        AttributeDefinitions=[
            it for it in table["AttributeDefinitions"] if it["AttributeName"] == "transaction_reference"
        ],
    )
    assert cloud.invoke("callback", drained(cloud)) == {"batchItemFailures": []}
    assert {item["transaction_reference"]["S"]: item["status"]["S"] for item in cloud.items()} == {
        REFERENCE: "reversed",
        "TQ2": "reversed",
    }


def test_what_has_to_wait_on_is_named(cloud: Cloud) -> None:
    cloud.dynamodb.delete_table(TableName=cloud.table)
    cloud.deliver(result())
    event = drained(cloud)
    (record,) = event["Records"]
    assert cloud.invoke("callback", event) == {"batchItemFailures": [{"itemIdentifier": record["messageId"]}]}


def test_what_neither_the_table_nor_the_queue_takes_has_to_be_sent_again(cloud: Cloud) -> None:
    cloud.dynamodb.delete_table(TableName=cloud.table)
    cloud.sqs.delete_queue(QueueUrl=cloud.ref("EvidenceQueue"))
    answer = cloud.deliver(result())
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
