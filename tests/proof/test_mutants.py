"""The changes that `make mutants` tries, and the explanations of those that survive."""

from collections.abc import Iterator
from textwrap import dedent

import pytest

from tests.proof.mutants import TESTS, explained, mutants, original


def changes(text: str) -> Iterator[str]:
    """What each mutant has in place of a line."""
    for mutant in mutants("rules", dedent(text)):
        yield from (line[1:].strip() for line in mutant.diff.splitlines() if line.startswith("+"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = Row(OPEN, Status.FAILED)", "x = Row(OPEN ^ {Status.PENDING}, Status.FAILED)"),
        ("x = Row(OPEN, Status.FAILED)", "x = Row(OPEN ^ {Status.FAILED}, Status.FAILED)"),
        ("x = Row(OPEN, Status.FAILED)", "x = Row(OPEN, Status.REVERSED)"),
        ("x = Row(OPEN, Status.FAILED)", "x = Row(OPEN, Status.FAILED, 'cancelled')"),
        ("x = Row(OPEN, Status.FAILED, 'cancelled')", "x = Row(OPEN, Status.FAILED, None)"),
        ("x = frozenset({Fact.STALE})", "x = frozenset({Fact.STALE}) ^ {Fact.STALE}"),
        ("x = frozenset({Fact.STALE})", "x = frozenset({Fact.STALE}) ^ {Fact.RUNNING}"),
        ("x = {a: Fact.STALE, b: Fact.RUNNING}", "x = {b: Fact.RUNNING}"),
        ("def f(a, b):\n    return a and b", "return a"),
        ("def f(a, b):\n    return a and b", "return a or b"),
        ("def f(a, b):\n    return a and b", "pass"),
        ("def f(a):\n    if a:\n        raise a", "if False:"),
        ("def f(a):\n    if a:\n        raise a", "pass"),
        ("def f(a):\n    return [b for b in a if b]", "return [b for b in a if True]"),
    ],
)
def test_a_change_that_is_tried(text: str, expected: str) -> None:
    assert expected in changes(text)


def test_each_change_is_tried_once_however_it_is_written() -> None:
    sources = [mutant.source for mutant in mutants("rules", "x = Row(OPEN, Status.FAILED, 'cancelled')\n")]
    assert len(sources) == len(set(sources))
    assert not any('"cancelled"' in source for source in sources)


def test_a_mutant_is_known_by_its_function_and_its_lines_whatever_number_they_have() -> None:
    function = "def f(a):\n    return not a\n"
    alone, below = (
        [(mutant.where, mutant.diff) for mutant in mutants("rules", text)]
        for text in (function, "import a\n\nx = None\n\n\n" + function)
    )
    assert ("rules.f", "-    return not a\n+    return a\n") in alone
    assert set(alone) < set(below)


def test_the_same_change_in_two_places_is_told_apart() -> None:
    text = "def f(a):\n    if a:\n        return None\n    else:\n        return None\n"
    found = [(mutant.where, mutant.diff) for mutant in mutants("rules", text)]
    assert len(found) == len(set(found))
    assert ("rules.f (2)", "-        return None\n+        pass\n") in found


def test_every_explanation_is_of_lines_that_are_there() -> None:
    for (where, diff), why in explained().items():
        module = where.partition(".")[0]
        assert module in TESTS
        assert why.endswith(".")
        removed = {line[1:] for line in diff.splitlines() if line.startswith("-")}
        assert removed <= set(original(module).splitlines())
