"""A custom resource: subscribes this stack's webhook URL at Kopo Kopo when the stack is deployed."""

from typing import Any

from reversals import assembly
from reversals.observability import logger
from reversals.subscribe import answer


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: Any) -> None:
    answer(event, assembly.subscriptions().handle(event))
