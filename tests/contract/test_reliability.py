"""docs/reliability.md says what the proofs are, and where each planted fault is found."""

import re
from pathlib import Path

from tests.proof.faults import FAULTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_every_planted_fault_is_in_the_table_with_the_seed_that_finds_it() -> None:
    section = PAGE.partition("## The harness is itself tested")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+) \| (\w+) \| (\d+) \|$", section, re.MULTILINE)
    assert rows == [(name, fault.what, fault.breaks, str(fault.seed)) for name, fault in FAULTS.items()]


def test_every_command_of_the_page_is_there() -> None:
    commands = set(re.findall(r"`make ([a-z]+)", PAGE))
    assert commands >= {"simulate", "crash", "fuzz", "load", "mutants", "coverage"}
    assert commands <= set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))


def test_every_invariant_that_a_fault_breaks_is_explained() -> None:
    assert {fault.breaks for fault in FAULTS.values()} <= set(re.findall(r"^\| (\w+) \|", PAGE, re.MULTILINE))
