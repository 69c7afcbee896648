"""`python -m local`, or `make start`: the whole system on this machine, until Ctrl-C."""

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING

from local.settings import LaptopCloudError

if TYPE_CHECKING:
    from local.cloud import LaptopCloud

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STATE_DIR = Path(".local")


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Start, serve until SIGINT or SIGTERM, end. Returns the exit status."""
    ended = Event()
    starting = True

    def end(_number: int, _frame: FrameType | None) -> None:
        if starting and not ended.is_set():
            ended.set()
            raise KeyboardInterrupt
        ended.set()

    for number in SIGNALS:
        signal.signal(number, end)
    try:
        with _cloud(environ) as cloud:
            starting = False
            _announce(cloud)
            ended.wait()
    except LaptopCloudError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    finally:
        # Python gives its handlers up before it has ended; a second Ctrl-C in that moment would kill it.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    return 0


def _cloud(environ: Mapping[str, str]) -> "LaptopCloud":
    # Imported only now: it takes a second, in which Ctrl-C is to end quietly too.
    from local.cloud import LaptopCloud
    from local.template import parse_overrides

    template = Path(environ.get("TEMPLATE") or "template.yaml")
    print(f"Starting {template} ...", flush=True)
    return LaptopCloud(
        template,
        api_port=_port(environ, "API_PORT", 3000),
        aws_port=_port(environ, "AWS_PORT", 4566),
        simulator_port=_port(environ, "SIMULATOR_PORT", 3001),
        parameters=parse_overrides(environ.get("PARAMETER_OVERRIDES", "")),
        state_dir=STATE_DIR,
        environ=environ,
    )


def _port(environ: Mapping[str, str], setting: str, default: int) -> int:
    value = environ.get(setting) or str(default)
    if not value.isdecimal():
        raise LaptopCloudError(f"{setting} is {value!r}: it has to be a port number.")
    return int(value)


def _announce(cloud: "LaptopCloud") -> None:
    outputs = STATE_DIR / "outputs.json"
    new = outputs.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(cloud.outputs, indent=2) + "\n", encoding="utf-8")
    new.replace(outputs)
    print(f"  Kopo Kopo   {cloud.outputs['SimulatorUrl'] or 'the one that KOPOKOPO_API_URL names'}")
    print(f"  AWS         {cloud.outputs['AwsEndpointUrl']}")
    print(f"  functions   {', '.join(cloud.functions)}")
    print(f"  logs        {os.path.relpath(cloud.logs)}/*.log")
    print(f"  outputs     {outputs}")
    print(f"ready {cloud.outputs['ApiUrl']}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
