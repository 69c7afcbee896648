"""Figures, as JSON lines: `make bench`.

A figure is the median of several runs. Where it has a floor, that was measured in the same run: times of one machine on
one day mean little by themselves.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import requests

from local.cloud import LaptopCloud
from local.settings import REGION, ROOT
from local.subscriber import Subscriber
from local.waiting import until

_COLD_STARTS = 15
_REVERSALS = 20
_STARTS = 3

# What no function can do without: a client of DynamoDB, and requests where Kopo Kopo is called.
_FLOOR = "import boto3; boto3.client('dynamodb')"
_FLOOR_HTTP = _FLOOR + "; import requests"
_FUNCTIONS = {
    "initiate": ("initiation", _FLOOR_HTTP),
    "callback": ("notifications", _FLOOR),
    "lookup": ("store", _FLOOR),
    "publish": ("publication", _FLOOR),
    "reconcile": ("reconciliation", _FLOOR_HTTP),
    "resolve": ("store", _FLOOR),
}


def main() -> int:
    for name, (part, floor) in _FUNCTIONS.items():
        code = f"import app; from reversals import assembly; assembly.{part}()"
        ours, least = _alternating(partial(_init, code, name), partial(_init, floor, name), _COLD_STARTS)
        _figure(f"cold start: {name}", ours, "seconds", floor=least)
    _figure("make start: from the command to ready", statistics.median(_start() for _ in range(_STARTS)), "seconds")
    _post_to_event()
    return 0


def _figure(name: str, value: float, unit: str, floor: float | None = None) -> None:
    line: dict[str, Any] = {"figure": name, "median": round(value, 4), "unit": unit}
    if floor is not None:
        line |= {"floor": round(floor, 4), "ratio": round(value / floor, 3)}
    print(json.dumps(line), flush=True)


def _alternating(ours: Callable[[], float], floor: Callable[[], float], runs: int) -> tuple[float, float]:
    """Medians of two measurements taken in turn, so that the machine's moods touch both alike."""
    pairs = [(ours(), floor()) for _ in range(runs)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def _init(code: str, function: str) -> float:
    """Seconds that a fresh Python takes for this code, as a function of the stack would run it."""
    settings = ("TABLE_NAME", "CREDENTIALS_SECRET", "TOKEN_SECRET", "SIGNATURE_SECRET", "TOPIC_ARN")
    addresses = ("KOPOKOPO_API_URL", "KOPOKOPO_AUTH_URL", "EVIDENCE_QUEUE_URL", "UNPUBLISHED_BUCKET")
    seconds = ("INITIATE_TIMEOUT", "RECONCILE_FIRST_DELAY", "RECONCILE_LONGEST_DELAY", "KOPOKOPO_TIMEOUT")
    environment = {
        **dict.fromkeys(settings + addresses, "bench"),
        **dict.fromkeys(seconds, "1"),
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "POWERTOOLS_SERVICE_NAME": "bench",
        "POWERTOOLS_METRICS_NAMESPACE": "bench",
        "PYTHONPATH": f"{ROOT / 'functions' / function}:{ROOT / 'layers' / 'reversals'}",
        "PATH": os.environ.get("PATH", ""),
    }
    timed = f"import time; begun = time.perf_counter()\n{code}\nprint(time.perf_counter() - begun)"
    done = subprocess.run([sys.executable, "-c", timed], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _start() -> float:
    """Seconds from the command to its `ready` line."""
    free = {"API_PORT": "0", "AWS_PORT": "0", "SIMULATOR_PORT": "0"}
    begun = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "local"], cwd=ROOT, env={**os.environ, **free}, stdout=subprocess.PIPE, text=True
    ) as process:
        lines = process.stdout or ()
        took = next(time.perf_counter() - begun for line in lines if line.startswith("ready "))
        process.terminate()
    return took


def _post_to_event() -> None:
    """Warm: from the merchant's POST to the event on the subscriber's queue; the simulator decides after 0.3 s."""
    with tempfile.TemporaryDirectory() as folder, LaptopCloud(state_dir=Path(folder)) as cloud:
        subscriber = Subscriber(cloud)
        answers, events = [], []
        for number in range(_REVERSALS + 1):
            reference = f"BENCH{number}"
            body = {"transaction_reference": reference, "reason": "bench"}
            begun = time.perf_counter()
            requests.post(cloud.outputs["ApiUrl"] + "/reversals", json=body, timeout=30).raise_for_status()
            answers.append(time.perf_counter() - begun)
            until(partial(_is_reversed, subscriber, reference), 30, pause=0.005)
            events.append(time.perf_counter() - begun)
    _figure("POST /reversals: to its answer, warm", statistics.median(answers[1:]), "seconds")
    _figure("POST /reversals: to the event on the queue, warm", statistics.median(events[1:]), "seconds", floor=0.3)


def _is_reversed(subscriber: Subscriber, reference: str) -> bool:
    return any(event["type"] == "reversal.reversed" for event in subscriber.about(reference))


if __name__ == "__main__":
    sys.exit(main())
