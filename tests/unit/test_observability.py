"""Metrics, as CloudWatch reads them from the log."""

import json

from reversals.observability import count, measure_seconds

from tests.conftest import Output


def test_a_count_is_told_in_all_and_by_its_dimensions(output: Output) -> None:
    count("Failed", 2, reason="cancelled")
    in_all, by_reason = map(json.loads, output.text.splitlines())
    assert (in_all["Failed"], by_reason["Failed"], by_reason["reason"]) == ([2.0], [2.0], "cancelled")
    for line, dimensions in ((in_all, set()), (by_reason, {"reason"})):
        (described,) = line["_aws"]["CloudWatchMetrics"]
        assert described["Metrics"] == [{"Name": "Failed", "Unit": "Count"}]
        assert set(described["Dimensions"][0]) - {"service"} == dimensions


def test_seconds(output: Output) -> None:
    measure_seconds("OldestOpen", 1.5)
    line = json.loads(output.text)
    assert line["OldestOpen"] == [1.5]
    assert line["_aws"]["CloudWatchMetrics"][0]["Metrics"] == [{"Name": "OldestOpen", "Unit": "Seconds"}]
