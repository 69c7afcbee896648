"""Logs and metrics. What goes into either holds no token, secret, signature or phone number."""

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import MetricUnit, single_metric

logger = Logger()


def count(name: str, value: float = 1, **dimensions: str) -> None:
    """Add to a metric; what it is by the dimensions is added besides what it is in all."""
    for by in [{}, dimensions] if dimensions else [{}]:
        with single_metric(name=name, unit=MetricUnit.Count, value=value) as metric:
            for dimension, of in by.items():
                metric.add_dimension(name=dimension, value=of)


def measure_seconds(name: str, value: float) -> None:
    with single_metric(name=name, unit=MetricUnit.Seconds, value=value):
        pass
