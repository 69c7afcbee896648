"""The built stack runs: what would be deployed, on the laptop cloud, from one folder that holds nothing else."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.cloud import LaptopCloud
from tests.build.conftest import ROOT, Artefacts
from tests.e2e.conftest import System


@pytest.fixture
def system(artefacts: Artefacts, tmp_path: Path) -> Iterator[System]:
    folder = shutil.copytree(artefacts.template.parent, tmp_path / "deployed")  # running, it leaves bytecode behind
    with LaptopCloud(folder / "template.yaml", state_dir=tmp_path, environ={}) as cloud:
        yield System(cloud)


def test_a_payment_goes_back(system: System) -> None:
    response = system.post("TQ2L262026")
    assert (response.status_code, response.json()["status"]) == (201, "pending")

    reversal = system.becomes("TQ2L262026", "reversed")

    assert [(entry["status"], entry["source"]) for entry in reversal["history"]][-1] == ("reversed", "callback")
    assert system.told("TQ2L262026", "reversal.reversed")
    assert system.accepted("TQ2L262026") == 1
    for log in system.cloud.logs.glob("*Function.log"):
        assert str(ROOT) not in log.read_text(encoding="utf-8")
