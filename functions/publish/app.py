"""The table's stream: tell the topic what changed. Invoked by hand, it tells again what was lost."""

from dataclasses import asdict
from typing import Any

from reversals import assembly
from reversals.model import parse_time
from reversals.observability import logger
from reversals.publish import republish


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Take a batch of the stream, or `{"republish": {"updated_since": "2026-01-31T00:00:00Z", "cursor": null}}`."""
    if "republish" in event:
        asked = event["republish"]
        result = republish(
            assembly.store(),
            assembly.topic(),
            parse_time(asked["updated_since"]),
            asked.get("cursor"),
            lambda: context.get_remaining_time_in_millis() / 1000,
        )
        return asdict(result)
    again = assembly.publication().publish(event["Records"])
    return {"batchItemFailures": [{"itemIdentifier": sequence_number} for sequence_number in again]}
