"""backward_weight of layers with enough channels as a matrix product: one call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ...geometry import Geometry
from . import direct, workers
from .compiled import kernel
from .cpu import Isa, current
from .flags import STRICT
from .gemm_weight_plan import Plan, plan
from .plan import worth_threads


def _plan(g: Geometry, dtype: np.dtype[Any], threads: int, isa: Isa) -> Plan:
    return plan(g, dtype.itemsize, worth_threads(g, threads), isa)


@functools.lru_cache(maxsize=1024)
def _prepare(g: Geometry, dtype: np.dtype[Any], threads: int, isa: Isa) -> tuple[Plan, Callable[..., int]]:
    return _plan(g, dtype, threads, isa), kernel("gemm_weight", dtype, isa)


def workspace(g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that a call allocates."""
    cut = _plan(g, dtype, threads, current())
    return cut.words * 8 + (cut.runs - 1) * g.K * (g.C // g.groups) * g.R * g.S * dtype.itemsize


def prepare(g: Geometry, dtype: np.dtype[Any], threads: int, strict: bool) -> Callable[..., None]:
    """backward_weight as a function of (x, w, y, None): see :mod:`fastconv.repeated`."""
    (record, shares, runs, words), function = _prepare(g, dtype, threads, current())
    x_shape, w_shape, y_shape = g.x_shape, g.w_shape, g.y_shape
    flags, no_more = STRICT if strict else 0, direct.NO_BIAS[dtype.type]

    def backward_weight(x: np.ndarray, w: np.ndarray, y: np.ndarray, bias: None) -> None:
        w, scratch = w.reshape(w_shape), np.empty(words, np.int64)
        more = np.empty((runs - 1, *w_shape), dtype) if runs > 1 else no_more
        arguments = (x.reshape(x_shape), y.reshape(y_shape), w, more.reshape(-1), scratch, record, flags)
        workers.run(functools.partial(function, *arguments), shares)
        if runs > 1:
            for part in more:
                w += part

    return backward_weight
