"""Layers with enough channels as matrix products. backward_weight: see :mod:`.gemm_weight`.

forward and backward_input are direct summation by way of panels.

Vectors of positions are copied side by side before the channels pass over them (Goto and van de Geijn 2008,
https://doi.org/10.1145/1356052.1356053), straight from the source where the kernel is 1x1. A strided 1x1 kernel touches
some pixels of x alone: these are copied to planes of their own before (512 to 1,024 channels of 28x28: 1.15 times as
fast, backward_input 1.3 times).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...geometry import Geometry
from . import direct, gemm_weight
from .plan import flattened, sampled, samples


def workspace(operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
    """Bytes of scratch that a call allocates."""
    if sampled(g):
        return workspace(operation, samples(g), dtype, threads) + g.N * g.C * g.P * g.Q * dtype.itemsize
    if operation == "backward_weight":
        return gemm_weight.workspace(g, dtype, threads)
    return direct.workspace(operation, flattened(g), dtype, threads, panels=True)


def prepare(
    operation: str, g: Geometry, dtype: np.dtype[Any], biases: int, threads: int, strict: bool
) -> Callable[..., None]:
    """The operation as a function of (x, w, y, bias): see :mod:`fastconv.repeated`."""
    if sampled(g):
        dense = prepare(operation, samples(g), dtype, biases, threads, strict)
        return _on_samples(dense, operation, g)
    if operation == "backward_weight":
        return gemm_weight.prepare(g, dtype, threads, strict)
    return direct.prepare(operation, flattened(g), dtype, biases, threads, strict, panels=True)


def _on_samples(dense: Callable[..., None], operation: str, g: Geometry) -> Callable[..., None]:
    """The operation from `dense`, the one of :func:`.plan.samples`."""
    x_shape, (down, across), (rows, columns) = g.x_shape, g.stride, (g.P, g.Q)

    def touched(x: np.ndarray) -> np.ndarray:
        return x.reshape(x_shape)[:, :, ::down, ::across][:, :, :rows, :columns]

    def from_samples(x: np.ndarray, w: np.ndarray, y: np.ndarray, bias: np.ndarray | None) -> None:
        dense(np.ascontiguousarray(touched(x)), w, y, bias)

    def to_samples(x: np.ndarray, w: np.ndarray, y: np.ndarray, bias: None) -> None:
        pixels = np.empty((g.N, g.C, rows, columns), x.dtype)
        dense(pixels, w, y, bias)
        x.fill(0)
        touched(x)[...] = pixels

    return to_samples if operation == "backward_input" else from_samples
