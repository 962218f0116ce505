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
from .gemm_weight_kernels import STRICT
from .gemm_weight_plan import Plan, plan


def _plan(g: Geometry, dtype: np.dtype[Any], threads: int, isa: Isa) -> Plan:
    return plan(g, dtype.itemsize, threads if g.flops >= direct.WORTH_THREADS else 1, isa)


@functools.lru_cache(maxsize=1024)
def _prepare(g: Geometry, dtype: np.dtype[Any], threads: int, isa: Isa) -> tuple[Plan, Callable[..., int]]:
    return _plan(g, dtype, threads, isa), kernel("gemm_weight", dtype, isa)


def workspace(g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that :func:`run` allocates."""
    cut = _plan(g, dtype, threads, current())
    return cut.words * 8 + (cut.runs - 1) * g.K * (g.C // g.groups) * g.R * g.S * dtype.itemsize


def run(g: Geometry, x: np.ndarray, w: np.ndarray, y: np.ndarray, threads: int, strict: bool) -> None:
    """w = the gradient of the weights."""
    (record, shares, runs, words), function = _prepare(g, x.dtype, threads, current())
    scratch, flags = np.empty(words, np.int64), STRICT if strict else 0
    more = np.empty((runs - 1) * w.size, w.dtype) if runs > 1 else direct.NO_BIAS[w.dtype.type]
    arguments = (x, y, w, more, scratch, record, flags)
    workers.run(functools.partial(function, *arguments), shares)
    for number in range(runs - 1):
        w += more[number * w.size : (number + 1) * w.size].reshape(w.shape)
