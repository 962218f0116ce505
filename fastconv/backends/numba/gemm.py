"""Layers with enough channels as matrix products. backward_weight: see :mod:`.gemm_weight`.

forward and backward_input are direct summation by way of panels.

Vectors of positions are copied side by side before the channels pass over them (Goto and van de Geijn 2008,
https://doi.org/10.1145/1356052.1356053), straight from the source where the kernel is 1x1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...geometry import Geometry
from . import direct, gemm_weight
from .plan import flattened


def workspace(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that a call allocates."""
    if operation == "backward_weight":
        return gemm_weight.workspace(g, dtype, threads)
    return direct.workspace(operation, flattened(g), dtype, threads, panels=True)


def prepare(
    operation: str, g: Geometry, dtype: np.dtype[Any], biases: int, threads: int, strict: bool
) -> Callable[..., None]:
    """The operation as a function of (x, w, y, bias): see :mod:`fastconv.repeated`."""
    if operation == "backward_weight":
        return gemm_weight.prepare(g, dtype, threads, strict)
    return direct.prepare(operation, flattened(g), dtype, biases, threads, strict, panels=True)
