"""Every row, operation, backend and installed rival: one group a row and operation, so that tables compare contenders.

    pytest benchmarks                                      # everything: some 20 minutes
    pytest benchmarks -k "thin1d and forward"              # a family and an operation
    pytest benchmarks -k "fir_255 and (cython or torch)"   # a row and contenders
    pytest benchmarks --benchmark-disable                  # each of the smaller rows once: are the results right?

A result is checked against float64 before it is timed; a wrong one fails. ``fastconv bench`` is the better tool for
ratios: there contenders take turns, here each is timed in one go.
"""

from __future__ import annotations

import functools
import itertools
import time
from typing import Any

import numpy as np
import pytest

import fastconv as fc
from fastconv.bench import limits, runner
from fastconv.bench.cases import OPERATIONS, Arrays, Row, exact, relative_error, rows, tolerance
from fastconv.bench.contenders import OURS, Contender, Prepared, Unsupported
from fastconv.bench.peers import PEERS

INSTALLED = [contender for contender in (*OURS, *PEERS) if contender.unavailable() is None]
MISSING = [contender for contender in (*OURS, *PEERS) if contender.unavailable() is not None]


def matches() -> list[Any]:
    return [
        pytest.param(
            *(row, operation, contender),
            id=f"{row.name}-{operation}-{contender.name}",
            marks=getattr(pytest.mark, row.family),
        )
        for row, operation, contender in itertools.product(rows().values(), OPERATIONS, INSTALLED)
    ]


@functools.lru_cache(maxsize=1)  # tests of one row and operation follow one another
def question(row: Row, operation: str) -> tuple[Arrays, np.ndarray]:
    """The row's data, and the exact answer."""
    data = row.arrays()
    return data, exact(row, operation, data)


@functools.cache
def machine_limits(threads: int) -> limits.Limits | None:
    return limits.measure(threads) if limits.unavailable() is None else None


@functools.lru_cache(maxsize=2)
def torch_error(row: Row, operation: str) -> float | None:
    """torch's own error on the same data, None where it is not installed."""
    (torch,) = (contender for contender in PEERS if contender.name == "torch")
    if torch.unavailable():
        return None
    data, answer = question(row, operation)
    prepared = torch.prepare(row, operation, data, 1)
    return relative_error(prepared.result(prepared.run()), answer)


def ready(row: Row, operation: str, contender: Contender, threads: int) -> Prepared:
    """The contender, prepared; skips, with its own reason, what it cannot do."""
    contender.activate(threads)
    try:
        return contender.prepare(row, operation, question(row, operation)[0], threads)
    except Unsupported as reason:
        pytest.skip(f"{contender.name}: {reason}")


@pytest.mark.benchmark(min_rounds=4, max_time=0.2, min_time=1e-4, disable_gc=True, warmup=False)
@pytest.mark.parametrize(("row", "operation", "contender"), matches())
def test_conv(row: Row, operation: str, contender: Contender, benchmark: Any, request: pytest.FixtureRequest) -> None:
    threads = request.config.getoption("--bench-threads")
    benchmark.group = f"{row.name} {operation}"
    with runner.limited(threads), fc.use_backend(contender.name if contender.ours else fc.backends()[0]):
        prepared = ready(row, operation, contender, threads)
        answer = question(row, operation)[1]
        error = relative_error(prepared.result(prepared.run()), answer)
        assert error <= tolerance(row, operation), f"{contender.name} is off by {error:.1e} of the largest value"
        if benchmark.disabled:
            benchmark(prepared.run)
            return
        cpu, wall = time.process_time(), time.perf_counter()
        benchmark(prepared.run)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    best = benchmark.stats.stats.min
    bounds = machine_limits(threads)
    benchmark.extra_info.update(
        contender=contender.name,
        row=row.name,
        family=row.family,
        operation=operation,
        threads=threads,
        isa=fc.show_config("dicts")["ISA in use"],
        gflops=row.geometry.flops / best / 1e9,
        gbytes_per_second=sum(row.bytes_moved(operation)) / best / 1e9,
        fraction_of_limit=max(bounds.seconds(row, operation)) / best if bounds else None,
        error=error,
        torch_error=torch_error(row, operation),
        cpu_over_wall=cpu / wall,
        terms=contender.terms._asdict(),
    )


@pytest.mark.parametrize("contender", MISSING, ids=lambda contender: contender.name)
def test_missing(contender: Contender) -> None:
    """A rival that is not here is listed, not left out."""
    pytest.skip(f"{contender.name}: {contender.unavailable()}")
