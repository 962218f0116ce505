"""Depthwise convolution: one call."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ...geometry import Geometry
from . import direct, workers
from .compiled import kernel
from .cpu import current
from .depthwise_plan import Plan, plan
from .direct import NO_BIAS
from .flags import STRICT


def _plan(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int, packed: bool = False) -> Plan:
    return plan(operation, g, max(1, threads), current().vector_bytes // dtype.itemsize, dtype.itemsize, packed)


def workspace(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that :func:`run` allocates: at most that of its own or of the direct summation."""
    cut = _plan(operation, g, dtype, threads, packed=True)  # what may be packed needs more
    own = cut.words * 8 + cut.weights_bytes
    return max(own, cut.weights_bytes + direct.workspace(operation, g, dtype, threads))


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
    cut = _plan(operation, g, x.dtype, threads)
    if cut.in_place:
        if _run_in_place(cut, operation, g, x, w, y, bias, strict):
            return
        cut = _plan(operation, g, x.dtype, threads, packed=True)
    scratch, flags = np.empty(cut.words, np.int64), STRICT if strict else 0
    if operation == "backward_weight":
        name = "depthwise_row_weights" if g.R == 1 else "depthwise_weights"
        function = kernel(name, x.dtype, current())
        workers.run(functools.partial(function, x, y, w, scratch, cut.record, flags), cut.shares)
        return
    source, target, weights = (x, y, w) if operation == "forward" else (y, x, _turned(w, g))
    if operation == "backward_input" and not np.isfinite(weights).all():
        # the zeros around y times an infinite weight would be NaN where x does not depend on it
        direct.run(operation, g, x, w, y, bias, threads, strict)
        return
    values = NO_BIAS[x.dtype.type] if bias is None or bias.ndim > 1 else bias
    function = kernel("depthwise_rows" if g.R == 1 else "depthwise", x.dtype, current())
    arguments = (source, weights.reshape(-1), target, values, scratch, cut.record, flags)
    workers.run(functools.partial(function, *arguments), cut.shares)
    if bias is not None and bias.ndim > 1:
        y += bias


def _run_in_place(
    cut: Plan,
    operation: str,
    g: Geometry,
    x: np.ndarray,
    w: np.ndarray,
    y: np.ndarray,
    bias: np.ndarray | None,
    strict: bool,
) -> bool:
    """Whether the weights are finite, and the result so done: others must meet the padding, as 0 times inf is NaN."""
    source, target = (x, y) if operation == "forward" else (y, x)
    weights = _turned(w, g) if operation == "backward_input" and cut.in_place != "depthwise_spread" else w
    values = NO_BIAS[x.dtype.type] if bias is None or bias.ndim > 1 else bias
    function = kernel(cut.in_place, x.dtype, current())
    arguments = (
        source,
        weights.reshape(-1),
        target,
        values,
        np.empty(0, np.int64),
        cut.record,
        STRICT if strict else 0,
    )
    if workers.run(functools.partial(function, *arguments), cut.shares):
        return False
    if bias is not None and bias.ndim > 1:
        y += bias
    return True


def _turned(w: np.ndarray, g: Geometry) -> np.ndarray:
    """The weights of backward_input: rows and columns from the last to the first, by phases where it is strided."""
    if g.stride == (1, 1):
        by_source = w.reshape(g.groups, g.K // g.groups, g.R, g.S)[:, :, ::-1, ::-1]
        return np.ascontiguousarray(by_source.transpose(0, 2, 1, 3))
    planes = w.reshape(g.K, g.R, g.S)
    phases = [planes[:, a::2, b::2][:, ::-1, ::-1].reshape(g.K, -1) for a in (0, 1) for b in (0, 1)]
    return np.concatenate(phases, axis=1)
