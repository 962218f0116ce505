"""backward_weight by Winograd's algorithm: one call.

Errors in float32 are 5e-7 to 4e-6 of the largest weight. Where a weight is not finite the whole call is done again by
gemm.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ...geometry import Geometry
from . import gemm_weight, workers
from .compiled import kernel
from .cpu import Isa, current
from .flags import STRICT
from .plan import worth_threads
from .winograd_plan import WeightPlan, is_strided, weight_plan


def _plan(g: Geometry, dtype: np.dtype[Any], threads: int, isa: Isa) -> WeightPlan:
    return weight_plan(g, dtype.itemsize, worth_threads(g, threads), isa)


@functools.lru_cache(maxsize=1024)
def _prepare(g: Geometry, dtype: np.dtype[Any], threads: int, isa: Isa) -> tuple[WeightPlan, Callable[..., int]]:
    name = "winograd_weight_strided" if is_strided(g) else "winograd_weight"
    return _plan(g, dtype, threads, isa), kernel(name, dtype, isa)


def workspace(g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that :func:`run` allocates at a time."""
    own = _plan(g, dtype, threads, current()).scratch_words * 8
    return max(own, gemm_weight.workspace(g, dtype, threads))


def run(g: Geometry, x: np.ndarray, w: np.ndarray, y: np.ndarray, threads: int, strict: bool) -> None:
    """Carry out backward_weight: see :class:`fastconv.backends.Algorithm`."""
    if not _transform(g, x, w, y, threads, strict):
        gemm_weight.prepare(g, x.dtype, threads, strict)(x, w, y, None)


def _transform(g: Geometry, x: np.ndarray, w: np.ndarray, y: np.ndarray, threads: int, strict: bool) -> bool:
    """Whether all weights are finite, and so right."""
    (records, blocks, shares, words), function = _prepare(g, x.dtype, threads, current())
    arguments = (x, y, w, np.empty(words, np.int64), *records, STRICT if strict else 0)
    poisoned = 0
    for stage in range(2 * blocks) if shares > 1 else (-1,):  # -1: all
        poisoned |= workers.run(functools.partial(function, *arguments, stage), shares)
    return not poisoned
