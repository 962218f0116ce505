"""Layers with enough channels as matrix products. backward_weight: see :mod:`.gemm_weight`.

forward and backward_input are direct summation by way of panels.

Vectors of positions are copied side by side before the channels pass over them (Goto and van de Geijn 2008,
https://doi.org/10.1145/1356052.1356053), straight from the source where the kernel is 1x1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...geometry import Geometry
from . import direct, gemm_weight
from .plan import flattened


def workspace(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that :func:`run` allocates."""
    if operation == "backward_weight":
        return gemm_weight.workspace(g, dtype, threads)
    return direct.workspace(operation, flattened(g), dtype, threads, panels=True)


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
        gemm_weight.run(g, x, w, y, threads, strict)
        return
    flat = flattened(g)
    if flat is not g:
        x, y = x.reshape(flat.x_shape), y.reshape(flat.y_shape)
    direct.run(operation, flat, x, w, y, bias, threads, strict, panels=True)
