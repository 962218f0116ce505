"""Small planes with an image in each lane: one call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ...geometry import Geometry
from . import direct, workers
from .batch_plan import Plan, plan
from .compiled import kernel
from .cpu import Isa, current


def _plan(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int, biases: int, strict: bool) -> Plan:
    isa = current()
    return plan(operation, g, threads, isa.vector_bytes, isa.registers, dtype.itemsize, biases, strict)


def workspace(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that a call allocates at a time."""
    own = _plan(operation, g, dtype, threads, 0, False).words * 8
    return max(own, direct.workspace(operation, g, dtype, threads)) if operation == "backward_input" else own


@functools.lru_cache(maxsize=1024)
def _call(
    operation: str, g: Geometry, dtype: np.dtype[Any], threads: int, biases: int, strict: bool, isa: Isa
) -> Callable[..., int]:
    """The call of the kernel as a function of (source, w, target, bias); 1 where a weight is not finite."""
    record, tables, shares, words = _plan(operation, g, dtype, threads, biases, strict)
    function = kernel("batch", dtype, isa)

    def call(source: np.ndarray, w: np.ndarray, target: np.ndarray, bias: np.ndarray | None) -> int:
        scratch = np.empty(words, np.int64)
        if shares == 1:
            return function(record, tables, scratch, source, w, target, bias, 0)
        return workers.run(functools.partial(function, record, tables, scratch, source, w, target, bias), shares)

    return call


def prepare(
    operation: str, g: Geometry, dtype: np.dtype[Any], biases: int, threads: int, strict: bool
) -> Callable[..., Any]:
    """The operation as a function of (x, w, y, bias): see :mod:`fastconv.repeated`."""
    call = _call(operation, g, dtype, threads, biases, strict, current())

    def forward(x: np.ndarray, w: np.ndarray, y: np.ndarray, bias: np.ndarray | None) -> None:
        call(x, w, y, bias)

    def backward_input(x: np.ndarray, w: np.ndarray, y: np.ndarray, bias: np.ndarray | None) -> None:
        if call(y, w, x, None):
            arrays = x.reshape(g.x_shape), w.reshape(g.w_shape), y.reshape(g.y_shape)
            direct.run(operation, g, *arrays, None, threads, strict)

    return forward if operation == "forward" else backward_input
