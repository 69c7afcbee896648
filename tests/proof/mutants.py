"""Whether the tests would notice: each small change to the rules, the model or the signature has to make one fail.

The changes are mutmut's, made to the data as well as to the functions, and those below that it does not know. Each is
tried in a process of its own, on the tests that state what the module does. A change that survives has to be one that
nobody could tell from the code as it is: `survivors.toml` says why, one by one. Any other survivor wants a test.
"""

import argparse
import ast
import difflib
import gc
import importlib
import importlib.util
import os
import resource
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import libcst as cst
import libcst.matchers as m
import pytest
from libcst.metadata import MetadataWrapper
from mutmut.mutation.file_mutation import MutationVisitor
from mutmut.mutation.mutators import OPERATORS_TYPE, mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode
from reversals.model import Source, Status
from reversals.rules import TABLE, Fact

from tests.proof.report import Report

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "layers/reversals/reversals"
SURVIVORS = Path(__file__).with_name("survivors.toml")

# What each module has to be held by.
TESTS = {
    "rules": ("tests/unit/test_rules.py", "tests/contract/test_evidence_table.py"),
    "model": ("tests/unit/test_model.py", "tests/unit/test_rules.py", "tests/contract/test_evidence_table.py"),
    "signature": ("tests/unit/test_signature.py",),
}
# This one states the table once more, and would kill every change to it for no other reason.
RESTATED = "tests/contract/test_evidence_table.py::test_the_table_has_exactly_the_stated_rows"
CPU_SECONDS = 60  # a change may make a loop that never ends


# -------------------------------------------------------------------------------------- the changes that mutmut lacks


def conditions(node: cst.If | cst.CompIf) -> Iterator[cst.CSTNode]:
    """Either way, whatever holds."""
    for always in ("True", "False"):
        yield node.with_changes(test=cst.Name(always))


def operands(node: cst.BooleanOperation) -> Iterator[cst.CSTNode]:
    """One side alone."""
    yield from (node.left, node.right)


def elements(node: cst.Dict | cst.Tuple | cst.List) -> Iterator[cst.CSTNode]:
    """All but one."""
    for index in range(len(node.elements) if len(node.elements) > 1 else 0):
        yield node.with_changes(elements=[*node.elements[:index], *node.elements[index + 1 :]])


def statements(node: cst.SimpleStatementLine) -> Iterator[cst.CSTNode]:
    """Nothing is returned or raised."""
    if isinstance(node.body[0], cst.Return | cst.Raise):
        yield node.with_changes(body=[cst.Pass()])


ENUMERATIONS = {"Fact": Fact, "Source": Source, "Status": Status}


def members(node: cst.Attribute) -> Iterator[cst.CSTNode]:
    """Another member of the enumeration."""
    if isinstance(node.value, cst.Name) and node.value.value in ENUMERATIONS:
        for member in ENUMERATIONS[node.value.value]:
            if member.name != node.attr.value:
                yield node.with_changes(attr=cst.Name(member.name))


def sets(node: cst.Call) -> Iterator[cst.CSTNode]:
    """One member of the enumeration more or less."""
    if m.matches(node, m.Call(m.Name("frozenset"), [m.Arg(m.Set([m.AtLeastN(m.Element(m.Attribute()), n=1)]))])):
        first = cst.ensure_type(cst.ensure_type(node.args[0].value, cst.Set).elements[0].value, cst.Attribute)
        yield from toggled(node, code(first.value))


def rows(node: cst.Call) -> Iterator[cst.CSTNode]:
    """A row of the table with one status more or less before it, or with another code of failure."""
    if m.matches(node.func, m.Name("Row")):
        before, after, *failure = node.args
        if isinstance(before.value, cst.Name):
            for statuses in toggled(before.value, "Status"):
                yield node.with_changes(args=[cst.Arg(statuses), after, *failure])
        own = ast.literal_eval(code(failure[0].value)) if failure else None
        for other in sorted({row.failure for row in TABLE.values()} - {own}, key=str):
            yield node.with_changes(args=[before, after, cst.Arg(cst.parse_expression(repr(other)))])


def toggled(members: cst.BaseExpression, enumeration: str) -> Iterator[cst.BaseExpression]:
    for member in ENUMERATIONS[enumeration]:
        yield cst.parse_expression(f"{code(members)} ^ {{{enumeration}.{member.name}}}")


def code(node: cst.CSTNode) -> str:
    return cst.Module([]).code_for_node(node)


OPERATORS: OPERATORS_TYPE = [
    *mutation_operators,
    (cst.If, conditions),
    (cst.CompIf, conditions),
    (cst.BooleanOperation, operands),
    *((kind, elements) for kind in (cst.Dict, cst.Tuple, cst.List)),
    (cst.SimpleStatementLine, statements),
    (cst.Attribute, members),
    (cst.Call, sets),
    (cst.Call, rows),
]


# ------------------------------------------------------------------------------------------------------- the mutants


@dataclass(frozen=True)
class Mutant:
    """A module with one change.

    Attributes:
        module: Its name in the package.
        where: The function, class or name that is changed; with a number if the same change can be made there twice.
        diff: The lines that differ.
        source: The whole module.
    """

    module: str
    where: str
    diff: str
    source: str


def mutants(module: str, text: str) -> Iterator[Mutant]:
    """Every change to a module's text, each once."""
    visitor = MutationVisitor(OPERATORS, IgnoredCode(set(), set(), set()))
    tree = MetadataWrapper(cst.parse_module(text)).visit(visitor)
    parts = [tree.code_for_node(statement) for statement in tree.body]
    place = {id(node): index for index, statement in enumerate(tree.body) for node in within(statement)}
    made, seen = {syntax(part) for part in parts}, Counter[tuple[str, str]]()
    for mutation in visitor.mutations:
        index = place[id(mutation.original_node)]
        statement = tree.body[index]
        changed = tree.code_for_node(statement.deep_replace(mutation.original_node, mutation.mutated_node))
        if syntax(changed) not in made:
            made.add(syntax(changed))
            source = "".join([*parts[:index], changed, *parts[index + 1 :]])
            where, diff = f"{module}.{name(statement)}", difference(parts[index], changed)
            seen[where, diff] += 1
            number = f" ({seen[where, diff]})" if seen[where, diff] > 1 else ""
            yield Mutant(module, where + number, diff, source)


def original(module: str) -> str:
    return (PACKAGE / f"{module}.py").read_text("utf-8")


def syntax(part: str) -> str:
    return ast.dump(ast.parse(part))


def within(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield node
    for child in node.children:
        yield from within(child)


def name(statement: cst.CSTNode) -> str:
    if isinstance(statement, cst.FunctionDef | cst.ClassDef):
        return statement.name.value
    return code(cst.ensure_type(statement, cst.SimpleStatementLine).body[0]).split()[0].rstrip(":")


def difference(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), n=0)
    return "".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


# --------------------------------------------------------------------------------------------------- whether they live


def lives(mutant: Mutant) -> bool:
    """Whether the tests pass with it. For a process of its own."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "reversals"]:
        del sys.modules[loaded]
    package = importlib.import_module("reversals")
    spec = importlib.util.find_spec(f"reversals.{mutant.module}")
    assert spec
    changed = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = changed
    setattr(package, mutant.module, changed)
    exec(compile(mutant.source, str(spec.origin), "exec"), changed.__dict__)  # noqa: S102
    # Of the plugins, only the one that the configuration speaks of: to load them takes longer than the tests.
    options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "--disable-plugin-autoload", "-p", "pytest_timeout"]
    return pytest.main([*options, f"--deselect={RESTATED}", *TESTS[mutant.module]]) == 0


def tried(todo: Iterable[Mutant], jobs: int) -> Iterator[tuple[Mutant, bool]]:
    """Each mutant, and whether it lives; in the order in which they end."""
    running: dict[int, Mutant] = {}
    for mutant in todo:
        if len(running) == jobs:
            yield ended(running)
        running[begun(mutant)] = mutant
    while running:
        yield ended(running)


def begun(mutant: Mutant) -> int:
    process = os.fork()
    if not process:
        alive = False
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.dup2(nowhere, sys.stderr.fileno())
            alive = lives(mutant)
        finally:
            os._exit(0 if alive else 1)
    return process


def ended(running: dict[int, Mutant]) -> tuple[Mutant, bool]:
    process, status = os.wait()
    return running.pop(process), status == 0


# ------------------------------------------------------------------------------------------------------- the command


def explained() -> Mapping[tuple[str, str], str]:
    """Why a survivor is none: by where it is, and its diff."""
    entries = tomllib.loads(SURVIVORS.read_text("utf-8"))["survivor"]
    return {(entry["where"], entry["diff"]): entry["why"] for entry in entries}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proof.mutants", description=__doc__)
    parser.add_argument("where", nargs="?", default="*", help="only there; for instance rules.decide, or 'signature.*'")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    options = parser.parse_args()

    os.chdir(ROOT)
    importlib.import_module("tests.conftest")  # what the tests share, and what that imports, is there once for all
    gc.freeze()
    as_they_are = [Mutant(module, module, "", original(module)) for module in TESTS]
    for mutant, alive in tried(as_they_are, options.jobs):
        if not alive:
            print(f"The tests of {mutant.module} have to pass first: pytest {' '.join(TESTS[mutant.module])}")
            return 2

    def wanted(where: str) -> bool:
        return fnmatchcase(where.partition(" ")[0], options.where)

    todo = [it for module in TESTS for it in mutants(module, original(module)) if wanted(it.where)]
    reasons = {key: why for key, why in explained().items() if wanted(key[0])}
    report = Report("mutants", "mutants", len(todo))
    killed = 0
    for mutant, alive in tried(todo, options.jobs):
        report.add()
        killed += not alive
        if alive and not reasons.pop((mutant.where, mutant.diff), None):
            report.violation(
                f"{mutant.where} survives\n{mutant.diff}"
                "Write the test that fails for it; or, if nobody could tell the difference, say why in survivors.toml.",
                f"make mutants ARGS={mutant.where.partition(' ')[0]}",
            )
    for where, diff in reasons:
        report.violation(f"survivors.toml explains what does not survive, or is no longer there: {where}\n{diff}")
    return report.close({"killed": killed, "survivors": report.tried - killed})


if __name__ == "__main__":
    raise SystemExit(main())
