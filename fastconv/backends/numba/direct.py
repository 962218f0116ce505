"""Direct summation with the two kernels of :mod:`.kernels`; forward and backward_input also by way of panels (gemm)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...geometry import Geometry
from . import workers
from .compiled import kernel
from .cpu import Isa, current
from .kernels import BIAS_PER_CHANNEL, BIAS_PER_POSITION, GUARDED, STRICT
from .plan import BY_TILES, Plan, correlate_plan, gradient_plan

WORTH_THREADS = 2_000_000  # floating-point operations: some 20 us of one thread; handing a share over takes about 10

NO_BIAS = {kind: np.zeros(1, kind) for kind in (np.float32, np.float64)}


def bias_of(bias: np.ndarray | None, dtype: np.dtype[Any]) -> tuple[int, np.ndarray]:
    """As a kernel takes it: its kind, a bit of the flags, and its values side by side."""
    if bias is None:
        return 0, NO_BIAS[dtype.type]
    return BIAS_PER_CHANNEL if bias.ndim == 1 else BIAS_PER_POSITION, bias.reshape(-1)


class _Call(NamedTuple):
    """All of a call that does not depend on its arrays."""

    plan: Plan
    kernel: Callable[..., int]


def _plan(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int, isa: Isa, panels: bool) -> Plan:
    if g.flops < WORTH_THREADS:
        threads = 1
    if operation == "backward_weight":
        return gradient_plan(g, dtype.itemsize, threads, isa)
    return correlate_plan(operation, g, dtype.itemsize, threads, isa, panels)


@functools.lru_cache(maxsize=1024)
def _prepare(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int, isa: Isa, panels: bool) -> _Call:
    name = "gradient" if operation == "backward_weight" else "correlate"
    return _Call(_plan(operation, g, dtype, threads, isa, panels), kernel(name, dtype, isa))


def workspace(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int, panels: bool = False) -> int:
    """Bytes of scratch that :func:`run` allocates."""
    plan = _plan(operation, g, dtype, threads, current(), panels)
    size = plan.scratch_words * 8
    if plan.split == BY_TILES:
        size += (plan.shares - 1) * g.K * (g.C // g.groups) * g.R * g.S * dtype.itemsize
    return size


def run(
    operation: str,
    g: Geometry,
    x: np.ndarray,
    w: np.ndarray,
    y: np.ndarray,
    bias: np.ndarray | None,
    threads: int,
    strict: bool,
    panels: bool = False,
) -> None:
    """Carry out one operation: see :class:`fastconv.backends.Algorithm`; `panels`: see :mod:`.gemm`."""
    plan, function = _prepare(operation, g, x.dtype, threads, current(), panels)
    record, tables, shares, split, words = plan
    scratch = np.empty(words, np.int64)
    flags = STRICT if strict else 0
    if operation == "backward_weight":
        outs = [w] * shares
        if split == BY_TILES:  # the shares sum over different tiles: each into an array of its own
            outs[1:] = [np.empty_like(w) for _ in range(shares - 1)]
        each: list[tuple[np.ndarray, ...]] = [(x, y, out, scratch, record, tables) for out in outs]
    else:
        kind, values = bias_of(bias, x.dtype)
        flags |= kind
        source, target = (x, y) if operation == "forward" else (y, x)
        each = [(source, w, target, values, scratch, record, tables)] * shares
    if workers.run(lambda share: function(*each[share], flags, share), shares):
        workers.run(lambda share: function(*each[share], flags | GUARDED, share), shares)
    if split == BY_TILES:
        for out in outs[1:]:
            w += out
