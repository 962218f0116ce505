"""Winograd's algorithm: fewer multiplications. backward_weight: see :mod:`.winograd_weight`.

3x3 and 5x5 kernels and rows of 2 to 7 taps, at stride 2 3x3 kernels and rows of 3 taps; errors in float32 are 1e-6 to
4e-6 of the largest output. Where an output is not finite the whole call is done again by direct summation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ...geometry import Geometry
from . import direct, winograd_weight, workers
from .compiled import kernel
from .cpu import Isa, current
from .flags import SECOND_STAGE, STRICT
from .plan import worth_threads
from .winograd_plan import Plan, is_strided, plan


def _plan(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int, isa: Isa) -> Plan:
    return plan(operation, g, dtype.itemsize, worth_threads(g, threads), isa)


@functools.lru_cache(maxsize=1024)
def _prepare(
    operation: str, g: Geometry, dtype: np.dtype[Any], threads: int, isa: Isa
) -> tuple[Plan, Callable[..., int]]:
    name = "winograd_strided" if is_strided(g) else "winograd"
    return _plan(operation, g, dtype, threads, isa), kernel(name, dtype, isa)


def workspace(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that :func:`run` allocates at a time."""
    if operation == "backward_weight":
        return winograd_weight.workspace(g, dtype, threads)
    own = _plan(operation, g, dtype, threads, current()).scratch_words * 8
    return max(own, direct.workspace(operation, g, dtype, threads))


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
    if operation == "backward_weight":
        winograd_weight.run(g, x, w, y, threads, strict)
        return
    if not _transform(operation, g, x, w, y, bias, threads, strict):
        direct.run(operation, g, x, w, y, bias, threads, strict)


def _transform(
    operation: str,
    g: Geometry,
    x: np.ndarray,
    w: np.ndarray,
    y: np.ndarray,
    bias: np.ndarray | None,
    threads: int,
    strict: bool,
) -> bool:
    """Whether all outputs are finite, and so right."""
    (record, shares, words), function = _prepare(operation, g, x.dtype, threads, current())
    scratch = np.empty(words, np.int64)
    kind, values = direct.bias_of(bias, x.dtype)
    flags = kind | (STRICT if strict else 0)
    source, target = (x, y) if operation == "forward" else (y, x)
    poisoned = 0
    for stage in (0, SECOND_STAGE):
        arguments = (source, w, target, values, scratch, record, flags | stage)
        poisoned = workers.run(functools.partial(function, *arguments), shares)
    return not poisoned
