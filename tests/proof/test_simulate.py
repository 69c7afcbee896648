"""The simulation: what it plays is the same each time, holds, and would not hold with any of the faults."""

import random

import pytest

from tests.proof import faults
from tests.proof.simulate import play
from tests.proof.world import AWS_TROUBLES, KOPOKOPO_TROUBLES

CHUNK = 250  # seeds


@pytest.fixture(autouse=True)
def _chance_is_given_back() -> object:
    state = random.getstate()
    yield
    random.setstate(state)


@pytest.mark.parametrize("first", range(0, 3000, CHUNK))
def test_every_schedule_holds(first: int) -> None:
    assert {seed: found for seed in range(first, first + CHUNK) if (found := play(seed)[0])} == {}


def test_a_seed_plays_the_same_each_time() -> None:
    for seed in range(20):
        traces: list[list[str]] = [[], []]
        played = [play(seed, trace=trace) for trace in traces]
        assert traces[0] == traces[1]
        assert played[0] == played[1]


def test_every_trouble_and_every_status_comes_about() -> None:
    traces = [list[str]() for _ in range(150)]
    figures = [play(seed, trace=trace)[1] for seed, trace in enumerate(traces)]
    lines = [line for trace in traces for line in trace]
    for trouble in {*AWS_TROUBLES, *KOPOKOPO_TROUBLES}:
        assert any(f"({trouble})" in line for line in lines), trouble
    for word in ("runs out of time", "answers 503", "answers 422", "answers 409", "answers 401", "answers 400"):
        assert any(word in line for line in lines), word
    total = sum(figures[1:], figures[0])
    assert all(total[figure] for figure in ("deaths", "conflicts", "queued", "archived", "reversed", "failed")), total


@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_fault_is_found_and_is_the_faults_alone(name: str) -> None:
    fault = faults.FAULTS[name]
    found, _ = play(fault.seed, name)
    assert [it for it in found if it.startswith(f"{fault.breaks}:")], found
    assert play(fault.seed)[0] == []
