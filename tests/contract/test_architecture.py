"""The house: imports point one way, the rules touch nothing, and each neighbour has one module."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "layers/reversals/reversals"
MODULES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.glob("*.py")}
HANDLERS = {
    path.parent.name: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "functions").glob("*/*.py")
}

# From the edges to the rules: a module imports what stands below it, and nothing beside or above it.
LAYERS = [
    {"assembly", "web"},
    {"initiate", "reconcile", "notifications", "publish", "subscribe"},
    {"tokens", "signing_keys"},
    {"kopokopo", "store", "topic", "evidence_queue", "archive", "secretsmanager"},
    {"transport", "payloads", "events", "listing", "signature", "schedule", "lease", "settings"},
    {"rules"},
    {"errors", "schemas"},
    {"model", "clock", "observability", "__init__"},
]

PURE = {"rules", "model", "payloads", "events", "listing", "signature", "schedule", "schemas", "errors"}
NEIGHBOUR = {
    "dynamodb": "store",
    "sns": "topic",
    "sqs": "evidence_queue",
    "s3": "archive",
    "secretsmanager": "secretsmanager",
}


def imported(tree: ast.AST, *, at_start: bool = False) -> Iterator[str]:
    """What a module imports, ours as `.name`; not what is only for the type checker.

    Args:
        tree: The module.
        at_start: Leave out what functions import when they are called.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if node.level:
                yield from (
                    [f".{node.module}"] if node.module else [f".{it}" if it in MODULES else "." for it in names]
                )
            elif node.module == "reversals":
                yield from (f".{name}" for name in names)
            else:
                yield re.sub(r"^reversals\.", ".", node.module or "")
        elif not (at_start and isinstance(node, ast.FunctionDef)):
            yield from imported(node, at_start=at_start)


def layer(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


def test_every_module_has_its_place() -> None:
    assert sorted(MODULES) == sorted(name for names in LAYERS for name in names)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name: str) -> None:
    own = {it.removeprefix(".") or "__init__" for it in imported(MODULES[name]) if it.startswith(".")}
    assert [it for it in own if layer(it) <= layer(name)] == []


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_rules_and_what_messages_mean_touch_nothing(name: str) -> None:
    others = {it.partition(".")[0] for it in imported(MODULES[name]) if not it.startswith(".")}
    assert not others & {"boto3", "botocore", "requests", "urllib3", "aws_lambda_powertools", "socket", "threading"}
    assert not others & {"os", "time", "random", "uuid", "logging", "subprocess", "io", "pathlib"}
    own = {it.removeprefix(".") for it in imported(MODULES[name]) if it.startswith(".")}
    assert own <= PURE
    called = {ast.unparse(node.func) for node in ast.walk(MODULES[name]) if isinstance(node, ast.Call)}
    assert not {it for it in called if re.search(r"\b(now|utcnow|today|open|print|input)$", it)}


def test_whoever_asks_for_the_time_is_given_a_clock() -> None:
    for name in MODULES.keys() - {"clock", "transport"}:
        text = ast.unparse(MODULES[name])
        assert not re.search(r"datetime\.(now|utcnow)\(|time\.(time|monotonic|sleep)\(", text), name


@pytest.mark.parametrize(("service", "owner"), NEIGHBOUR.items())
def test_each_neighbour_has_one_module(service: str, owner: str) -> None:
    """Known by the type of its client, and by the calls that only it makes."""
    mentions = {name for name in MODULES if f"mypy_boto3_{service}" in (PACKAGE / f"{name}.py").read_text()}
    assert mentions == {owner}


def test_only_the_assembly_makes_clients() -> None:
    assert {name for name in MODULES if "boto3" in set(imported(MODULES[name]))} == {"assembly"}


def test_kopo_kopo_is_spoken_to_through_one_module() -> None:
    assert {name for name in MODULES if "requests" in set(imported(MODULES[name]))} == {"transport"}
    assert {name for name in MODULES if ".transport" in set(imported(MODULES[name]))} == {"kopokopo", "assembly"}


def test_the_environment_is_read_in_one_place() -> None:
    assert {name for name in MODULES if "os" in set(imported(MODULES[name]))} == {"settings"}


@pytest.mark.parametrize("name", [*MODULES, *HANDLERS])
def test_nothing_that_is_deployed_knows_the_laptop(name: str) -> None:
    tree = HANDLERS.get(name) or MODULES[name]
    roots = {it.partition(".")[0] for it in imported(tree)}
    assert not roots & {"local", "tests", "functions", "moto", "pytest"}


@pytest.mark.parametrize("name", HANDLERS)
def test_a_handler_is_thin(name: str) -> None:
    """It parses, calls, answers: of the outside it knows the package alone."""
    others = {it.partition(".")[0] for it in imported(HANDLERS[name]) if not it.startswith(".")}
    assert others <= {"http", "typing", "re", "dataclasses"}
    assert len((ROOT / f"functions/{name}/app.py").read_text().splitlines()) <= 60


def at_cold_start(trees: list[ast.Module]) -> set[str]:
    """Everything that is imported before the first call, through all of our own modules."""
    found: set[str] = set()
    while trees:
        for name in set(imported(trees.pop(), at_start=True)) - found:
            found.add(name)
            if name.removeprefix(".") in MODULES and name.startswith("."):
                trees.append(MODULES[name.removeprefix(".")])
    return found


@pytest.mark.parametrize("name", HANDLERS)
def test_a_cold_start_pays_for_nothing_that_the_function_does_not_need(name: str) -> None:
    found = at_cold_start([HANDLERS[name]])
    assert found >= {".assembly", "boto3"}
    if name not in {"initiate", "reconcile", "subscribe"}:
        assert not found & {"requests", "urllib3", ".transport", ".kopokopo", ".tokens"}
    assert not {it for it in found if "tracing" in it or it.startswith("pydantic")}
