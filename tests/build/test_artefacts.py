"""What is deployed: one file for each function, and a layer that is small, for arm64, and holds nothing for nobody."""

import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import boto3
import pytest

from tests.build.conftest import ROOT, Artefacts

FUNCTIONS = sorted(path.parent.name for path in (ROOT / "functions").glob("*/app.py"))
PACKAGE = ROOT / "layers/reversals/reversals"

# Bytes, zipped: a tenth above what it is. Lambda unpacks it at every cold start.
LAYER_LIMIT = 1_500_000

# What boto3 in Lambda's Python brings along; whatever else a function imports has to be in its layer.
RUNTIME = {"boto3", "botocore", "dateutil", "s3transfer", "six"}

AARCH64 = 183  # in the head of an ELF file

# As on Lambda: the function's folder first, then the layer's, then the runtime's own packages; and no others.
IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys
sys.path[:0] = sys.argv[1:]
import app, reversals
for module in pkgutil.iter_modules(reversals.__path__):
    importlib.import_module(f"reversals.{module.name}")
assert callable(app.handler)
print(json.dumps({name: getattr(module, "__file__", None) for name, module in sys.modules.items()}))
"""


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def zipped_size(folder: Path) -> int:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files(folder):
            archive.write(folder / name, name)
    return target.tell()


def test_a_function_is_one_file(artefacts: Artefacts) -> None:
    """Anything else, a __pycache__ say, would make each build another one, and each deployment a new version."""
    assert {name.removesuffix("Function").lower() for name in artefacts.functions} == set(FUNCTIONS)
    for name, folder in artefacts.functions.items():
        assert files(folder) == ["app.py"], name


def test_it_was_built_of_what_is_here(artefacts: Artefacts) -> None:
    built = artefacts.layer / "python/reversals"
    assert files(built) == sorted(path.name for path in PACKAGE.glob("*.py"))
    for path in PACKAGE.glob("*.py"):
        assert (built / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_layer_is_small(artefacts: Artefacts, capsys: pytest.CaptureFixture[str]) -> None:
    size = zipped_size(artefacts.layer)
    with capsys.disabled():
        sys.stdout.write(f"\nThe layer has {size:,} bytes zipped, of {LAYER_LIMIT:,} that it may have.\n")
    assert size < LAYER_LIMIT


def test_the_layer_holds_nothing_that_lambda_has_or_nobody_uses(artefacts: Artefacts) -> None:
    assert [path.name for path in artefacts.layer.iterdir()] == ["python"]
    names = files(artefacts.layer / "python")
    packages = {name.partition("/")[0].partition("-")[0].removesuffix(".py") for name in names}
    assert not packages & (RUNTIME | {"awscrt", "pydantic", "aws_xray_sdk", "pip", "setuptools"})
    assert {"aws_lambda_powertools", "fastjsonschema", "requests", "reversals"} <= packages
    assert [name for name in names if {"__pycache__", "tests", "test", "bin"} & set(name.split("/"))] == []
    assert [name for name in names if name.endswith(".pyc") or "swagger-ui" in name] == []


def test_nothing_of_the_laptop_is_deployed(artefacts: Artefacts) -> None:
    assert not {"local", "functions", "moto", "awslambdaric"} & {path.name for path in artefacts.layer.glob("python/*")}
    ours = [*artefacts.layer.glob("python/reversals/*.py"), *(it / "app.py" for it in artefacts.functions.values())]
    for path in ours:
        assert not re.search(r"^\s*(from|import) (local|tests|moto)\b", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_what_is_machine_code_is_for_lambdas_machine(artefacts: Artefacts) -> None:
    """Lambda's Python is 3.13, on arm64."""
    for path in artefacts.layer.rglob("*.so*"):
        assert path.name.endswith((".cpython-313-aarch64-linux-gnu.so", ".abi3.so")), path
        head = path.read_bytes()[:20]
        assert head[:4] == b"\x7fELF"
        assert int.from_bytes(head[18:20], "little") == AARCH64, path


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what Lambda's Python brings along."""
    folder = tmp_path_factory.mktemp("runtime")
    installed = Path(boto3.__file__).parents[1]
    for name in RUNTIME:
        found = installed / name if (installed / name).is_dir() else installed / f"{name}.py"
        (folder / found.name).symlink_to(found)
    return folder


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_handler_finds_all_that_it_imports(name: str, artefacts: Artefacts, runtime: Path) -> None:
    """On any machine: what of the layer is arm64's is there as plain Python, too."""
    folder = artefacts.functions[f"{name.capitalize()}Function"]
    layer = artefacts.layer / "python"
    done = subprocess.run(
        [sys.executable, "-ISB", "-W", "error", "-c", IMPORT_EVERYTHING, *map(str, (folder, layer, runtime))],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"POWERTOOLS_METRICS_NAMESPACE": "Test"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    modules: dict[str, str | None] = json.loads(done.stdout)
    assert modules["app"] == str(folder / "app.py")
    for package in ("reversals", "requests", "urllib3", "aws_lambda_powertools", "fastjsonschema"):
        assert str(modules[package]).startswith(str(layer)), package
