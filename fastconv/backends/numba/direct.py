"""Direct summation with the two kernels: the one algorithm of the Numba backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...geometry import Geometry
from . import isas, workers
from .kernels import BIAS_PER_CHANNEL, BIAS_PER_POSITION, GUARDED, STRICT
from .plan import BY_TILES, Plan, correlate_plan, gradient_plan

WORTH_THREADS = 2_000_000  # floating-point operations: about 25 us of one thread, against 10 us for a hand-over

_NO_BIAS = {np.dtype(kind): np.zeros(1, kind) for kind in (np.float32, np.float64)}


def plan_for(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> Plan:
    """How that call is cut up, for the ISA in use."""
    if g.flops < WORTH_THREADS:
        threads = 1
    if operation == "backward_weight":
        return gradient_plan(g, dtype.itemsize, threads, isas.current())
    return correlate_plan(operation, g, dtype.itemsize, threads, isas.current())


def workspace(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that :func:`run` allocates."""
    plan = plan_for(operation, g, dtype, threads)
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
) -> None:
    """Carry out one operation: see :class:`fastconv.backends.Algorithm`."""
    from .compiled import kernel

    plan = plan_for(operation, g, x.dtype, threads)
    scratch = np.empty(plan.scratch_words, np.int64)
    flags = STRICT if strict else 0
    if operation == "backward_weight":
        outs = [w]
        if plan.split == BY_TILES:  # the shares sum over different tiles: each into an array of its own
            outs += [np.empty_like(w) for _ in range(plan.shares - 1)]
        else:
            outs *= plan.shares
        gradient = kernel("gradient", x.dtype, isas.current())

        def gradient_share(share: int) -> int:
            return gradient(x, y, outs[share], scratch, plan.record, plan.tables, flags, share)

        if _all_shares(gradient_share, plan.shares):
            flags |= GUARDED
            _all_shares(gradient_share, plan.shares)
        if plan.split == BY_TILES:
            for part in outs[1:]:
                w += part
        return

    correlate = kernel("correlate", x.dtype, isas.current())
    source, target = (x, y) if operation == "forward" else (y, x)
    if bias is None:
        values = _NO_BIAS[x.dtype]
    else:
        flags |= BIAS_PER_CHANNEL if bias.ndim == 1 else BIAS_PER_POSITION
        values = bias.reshape(-1)

    def correlate_share(share: int) -> int:
        return correlate(source, w, target, values, scratch, plan.record, plan.tables, flags, share)

    if _all_shares(correlate_share, plan.shares):
        flags |= GUARDED
        _all_shares(correlate_share, plan.shares)


def _all_shares(function: Any, shares: int) -> int:
    return function(0) if shares == 1 else workers.run(function, shares)
