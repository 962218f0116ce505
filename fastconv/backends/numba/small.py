"""A handful of numbers: one call of the plain loops of :mod:`.small_kernels`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ...geometry import Geometry
from .compiled import builtin
from .cpu import current


def workspace(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that :func:`run` allocates."""
    return 0


def prepare(
    operation: str, g: Geometry, dtype: np.dtype[Any], bias_shape: tuple[int, ...] | None, threads: int, strict: bool
) -> Callable[..., Any]:
    """The operation as a function of (x, w, y, bias): see :mod:`fastconv.repeated`."""
    biases = 0 if bias_shape is None else 1 if len(bias_shape) == 1 else 2
    sizes = (g.N, g.groups, g.C // g.groups, g.K // g.groups, g.H, g.W, g.R, g.S, g.P, g.Q)
    plan = np.array([*sizes, *g.stride, *g.pad, *g.dilation, biases, strict], np.int64)
    return functools.partial(builtin(f"small_{operation}", dtype, current()), plan)


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
    prepare(operation, g, x.dtype, None if bias is None else bias.shape, threads, strict)(x, w, y, bias)
