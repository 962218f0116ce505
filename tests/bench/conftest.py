"""What the tests of the benchmarks share: contenders and clocks that do as they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastconv as fc
from fastconv import settings
from fastconv.bench.cases import Arrays, Row, exact
from fastconv.bench.contenders import Contender, Prepared, Terms


class FakeClock:
    """Time passes only when a call says so: `wall` seconds, during which the process computes for `cpu` seconds."""

    def __init__(self) -> None:
        self.now = self.used = 0.0

    def wall(self) -> float:
        return self.now

    def cpu(self) -> float:
        return self.used

    def spend(self, wall: float, cpu: float | None = None) -> None:
        self.now += wall
        self.used += wall if cpu is None else cpu


@pytest.fixture(autouse=True)
def settings_as_before() -> Iterator[None]:
    """A benchmark sets backend and threads for the whole process: other tests must not see that."""
    before = settings.process_wide()
    yield
    fc.use_backend(before.backend)
    fc.set_num_threads(before.threads)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def contender(clock: FakeClock) -> Callable[..., Contender]:
    """Makes a contender that gives the right answer (plus `off`) in the time that ``costs(number of call)`` says."""

    def make(
        name: str, costs: Callable[[int], tuple[float, float]], *, off: float = 0.0, log: list[str] | None = None
    ) -> Contender:
        calls = 0

        def prepare(row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
            answer = exact(row, operation, data)

            def run() -> np.ndarray:
                nonlocal calls
                clock.spend(*costs(calls))
                calls += 1
                if log is not None:
                    log.append(name)
                return answer * (1 + off)

            return Prepared(run, np.asarray)

        return Contender(name, "for tests", Terms("any", "any", "any"), prepare, missing=lambda: None)

    return make


def steady(seconds: float) -> Callable[[int], tuple[float, float]]:
    """Every call takes so long, all of it on the CPU."""
    return lambda call: (seconds, seconds)


@pytest.fixture(name="steady")
def _steady() -> Any:
    return steady
