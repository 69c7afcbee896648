"""On a schedule: ask Kopo Kopo about the open reversals that are due."""

from dataclasses import asdict
from typing import Any

from reversals import assembly
from reversals.observability import count, logger


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    summary = assembly.reconciliation().run(lambda: context.get_remaining_time_in_millis() / 1000)
    count("Reconciled", summary.looked_at)
    logger.info("Reconciled", extra=asdict(summary))
    return asdict(summary)
