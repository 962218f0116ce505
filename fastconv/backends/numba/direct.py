"""Direct summation with the two kernels of :mod:`.kernels`; forward and backward_input also by way of panels (gemm).

backward_input to few channels is one product, added into place: :mod:`.columns`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ...geometry import Geometry
from . import columns, workers
from .columns_plan import by_columns
from .compiled import kernel
from .cpu import Isa, current
from .flags import BIAS_PER_CHANNEL, BIAS_PER_POSITION, GUARDED, STRICT
from .plan import BY_TILES, Plan, correlate_plan, gradient_plan, worth_threads

NO_BIAS = {kind: np.zeros(1, kind) for kind in (np.float32, np.float64)}


def bias_of(bias: np.ndarray | None, dtype: np.dtype[Any]) -> tuple[int, np.ndarray]:
    """As a kernel takes it: its kind, a bit of the flags, and its values side by side."""
    if bias is None:
        return 0, NO_BIAS[dtype.type]
    return BIAS_PER_CHANNEL if bias.ndim == 1 else BIAS_PER_POSITION, bias.reshape(-1)


def _plan(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int, isa: Isa, panels: bool) -> Plan:
    threads = worth_threads(g, threads)
    if operation == "backward_weight":
        return gradient_plan(g, dtype.itemsize, threads, isa)
    return correlate_plan(operation, g, dtype.itemsize, threads, isa, panels)


def _as_columns(operation: str, g: Geometry, dtype: np.dtype[Any], panels: bool) -> bool:
    return operation == "backward_input" and not panels and by_columns(g, dtype.itemsize, current())


def workspace(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int, panels: bool = False) -> int:
    """Bytes of scratch that :func:`run` allocates."""
    if _as_columns(operation, g, dtype, panels):
        return columns.workspace(g, dtype, threads)
    plan = _plan(operation, g, dtype, threads, current(), panels)
    size = plan.scratch_words * 8
    if plan.split == BY_TILES and plan.shares > 1:
        size += plan.shares * g.K * (g.C // g.groups) * g.R * g.S * dtype.itemsize
    return size


@functools.lru_cache(maxsize=1024)
def _prepare(
    operation: str, g: Geometry, dtype: np.dtype[Any], threads: int, isa: Isa, panels: bool
) -> tuple[Plan, Callable[..., int]]:
    name = "gradient" if operation == "backward_weight" else "correlate"
    return _plan(operation, g, dtype, threads, isa, panels), kernel(name, dtype, isa)


def prepare(
    operation: str,
    g: Geometry,
    dtype: np.dtype[Any],
    biases: int,
    threads: int,
    strict: bool,
    panels: bool = False,
) -> Callable[..., None]:
    """The operation as a function of (x, w, y, bias): see :mod:`fastconv.repeated`; `panels`: see :mod:`.gemm`."""
    if _as_columns(operation, g, dtype, panels):
        return columns.prepare(g, dtype, threads, strict)
    (record, tables, shares, split, words), function = _prepare(operation, g, dtype, threads, current(), panels)
    x_shape, w_shape, y_shape = g.x_shape, g.w_shape, g.y_shape
    flags = (0, BIAS_PER_CHANNEL, BIAS_PER_POSITION)[biases] | (STRICT if strict else 0)
    no_bias = NO_BIAS[dtype.type]
    apart = operation == "backward_weight" and split == BY_TILES and shares > 1

    def correlate(source: np.ndarray, w: np.ndarray, target: np.ndarray, bias: np.ndarray) -> None:
        arguments = source, w, target, bias, np.empty(words, np.int64), record, tables
        if workers.run(functools.partial(function, *arguments, flags), shares):
            workers.run(functools.partial(function, *arguments, flags | GUARDED), shares)

    def forward(x: np.ndarray, w: np.ndarray, y: np.ndarray, bias: np.ndarray | None) -> None:
        values = no_bias if bias is None else bias.reshape(-1)
        correlate(x.reshape(x_shape), w.reshape(w_shape), y.reshape(y_shape), values)

    def backward_input(x: np.ndarray, w: np.ndarray, y: np.ndarray, bias: None) -> None:
        correlate(y.reshape(y_shape), w.reshape(w_shape), x.reshape(x_shape), no_bias)

    def backward_weight(x: np.ndarray, w: np.ndarray, y: np.ndarray, bias: None) -> None:
        x, w, y, scratch = x.reshape(x_shape), w.reshape(w_shape), y.reshape(y_shape), np.empty(words, np.int64)
        # the shares sum over different tiles: each into an array of its own
        out = np.empty((shares, *w_shape), dtype) if apart else w
        arguments = x, y, out.reshape(-1, *w_shape[1:]), scratch, record, tables
        if workers.run(functools.partial(function, *arguments, flags), shares):
            workers.run(functools.partial(function, *arguments, flags | GUARDED), shares)
        if apart:
            np.add(out[0], out[1], w)
            for part in out[2:]:
                w += part

    if operation == "backward_weight":
        return backward_weight
    return forward if operation == "forward" else backward_input


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
    """Carry out one operation, for algorithms that leave some inputs to this one."""
    prepare(operation, g, x.dtype, 0 if bias is None else min(bias.ndim, 2), threads, strict)(x, w, y, bias)
