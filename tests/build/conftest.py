"""What `sam build` made, in a folder of its own: nothing else of this repository is within its reach."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.template import load

ROOT = Path(__file__).parents[2]
BUILD = ROOT / ".aws-sam/build"


@dataclass(frozen=True)
class Artefacts:
    """What `sam deploy` would zip and upload.

    Attributes:
        template: The built template, which names the folders beside it.
        functions: The folder of each function, by its logical id.
        layer: The folder that Lambda has as /opt.
    """

    template: Path
    functions: dict[str, Path]
    layer: Path


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Artefacts:
    assert (BUILD / "template.yaml").is_file(), "There is no build to test: make build makes one, and runs these tests."
    document = load(BUILD / "template.yaml")
    folder = tmp_path_factory.mktemp("artefacts")
    functions = {}
    for name, resource in document["Resources"].items():
        properties = resource.get("Properties", {})
        for place in {"CodeUri", "ContentUri"} & set(properties):
            shutil.copytree(BUILD / properties[place], folder / name)
            properties[place] = name
            if place == "CodeUri":
                functions[name] = folder / name
    template = folder / "template.yaml"
    template.write_text(json.dumps(document), encoding="utf-8")
    return Artefacts(template, functions, folder / "ReversalsLayer")
