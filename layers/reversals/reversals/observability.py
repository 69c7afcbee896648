"""Logs and metrics. What goes into either holds no token, secret, signature or phone number."""

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import MetricUnit, single_metric

logger = Logger()


def count(name: str, value: float = 1, **dimensions: str) -> None:
    """Add to a metric of the service's namespace; its unit is a count."""
    with single_metric(name=name, unit=MetricUnit.Count, value=value) as metric:
        for dimension, of in dimensions.items():
            metric.add_dimension(name=dimension, value=of)
