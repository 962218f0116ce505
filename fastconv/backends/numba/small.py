"""A handful of numbers: one call of the plain loops of :mod:`.small_kernels`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ...geometry import Geometry
from .compiled import kernel
from .cpu import current


def workspace(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that a call allocates."""
    return 0


def prepare(
    operation: str, g: Geometry, dtype: np.dtype[Any], biases: int, threads: int, strict: bool
) -> Callable[..., Any]:
    """The operation as a function of (x, w, y, bias): see :mod:`fastconv.repeated`."""
    sizes = (g.N, g.groups, g.C // g.groups, g.K // g.groups, g.H, g.W, g.R, g.S, g.P, g.Q)
    plan = np.array([*sizes, *g.stride, *g.pad, *g.dilation, biases, strict], np.int64)
    return functools.partial(kernel(f"small_{operation}", dtype, current()), plan)
