"""The table's stream: tell the topic what changed. What could not be told comes again."""

from typing import Any

from reversals import assembly, events, store
from reversals.observability import count, logger


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    changes = [store.from_stream(record) for record in event["Records"]]
    news = [change for change in changes if events.is_news(change.before, change.after)]
    told = [events.cloud_event(change.after) for change in news]
    failed = assembly.topic().publish(told)
    for position, cloud_event in enumerate(told):
        count("PublishFailures" if position in failed else "Published", type=cloud_event["type"])
        logger.info("Event", extra={"id": cloud_event["id"], "published": position not in failed})
    return {"batchItemFailures": [{"itemIdentifier": news[position].sequence_number} for position in sorted(failed)]}
