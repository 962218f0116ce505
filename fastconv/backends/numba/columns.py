"""backward_input to few channels as one product, its results added to x: one call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ...geometry import Geometry
from . import workers
from .columns_plan import Plan, plan
from .compiled import kernel
from .cpu import Isa, current
from .flags import STRICT
from .plan import worth_threads


@functools.lru_cache(maxsize=1024)
def _prepare(g: Geometry, dtype: np.dtype[Any], threads: int, isa: Isa) -> tuple[Plan, Callable[..., int]]:
    return plan(g, dtype.itemsize, worth_threads(g, threads), isa), kernel("columns", dtype, isa)


def workspace(g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that a call allocates."""
    return plan(g, dtype.itemsize, worth_threads(g, threads), current()).elements * dtype.itemsize


def prepare(g: Geometry, dtype: np.dtype[Any], threads: int, strict: bool) -> Callable[..., None]:
    """backward_input as a function of (x, w, y, None): see :mod:`fastconv.repeated`."""
    (record, shares, elements), function = _prepare(g, dtype, threads, current())
    flags = STRICT if strict else 0

    def backward_input(x: np.ndarray, w: np.ndarray, y: np.ndarray, bias: None) -> None:
        arguments = x.reshape(-1), w.reshape(-1), y.reshape(-1), np.empty(elements, dtype), record, flags
        workers.run(functools.partial(function, *arguments), shares)

    return backward_input
