"""FFT convolution: one call. Where an output is not finite, the call is made again by direct summation."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ...geometry import Geometry
from . import direct, workers
from .compiled import kernel
from .cpu import current
from .direct import bias_of
from .fft_plan import Plan, plan, roots
from .plan import worth_threads


def _plan(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> Plan:
    lanes = current().vector_bytes // dtype.itemsize
    return plan(operation, g, worth_threads(g, threads), lanes, dtype.itemsize)


def workspace(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that :func:`run` allocates: at most that of the transforms or of the direct summation."""
    return max(_plan(operation, g, dtype, threads).bytes, direct.workspace(operation, g, dtype, threads))


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
    if _transforms(operation, g, x, w, y, bias, threads):
        direct.run(operation, g, x, w, y, bias, threads, strict)


def _transforms(
    operation: str, g: Geometry, x: np.ndarray, w: np.ndarray, y: np.ndarray, bias: np.ndarray | None, threads: int
) -> int:
    """Whether an output is not finite."""
    cut = _plan(operation, g, x.dtype, threads)
    scratch, table = np.empty(cut.words, np.int64), roots(cut.points, x.dtype.itemsize)
    arguments: tuple[Any, ...]
    if operation == "backward_weight":
        function = kernel("fft_weight", x.dtype, current())
        source, other = (y, x) if cut.record["swapped"][0] else (x, y)
        arguments = (source, other, w, table, scratch, cut.record)
    else:
        function = kernel("fft", x.dtype, current())
        flags, values = bias_of(bias, x.dtype)
        source, target = (x, y) if operation == "forward" else (y, x)
        arguments = (source, w, target, values, table, scratch, cut.record, flags)
    poisoned = 0
    for stage, shares in enumerate(cut.stages):
        if shares:
            poisoned |= workers.run(functools.partial(function, *arguments, stage, shares), shares)
    return poisoned
