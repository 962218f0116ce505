"""The definition, in plain NumPy: what every other backend is checked against.

One kernel tap at a time, accumulated in float64 whatever the dtype of the arrays. It reads like the formulas and is
never optimised; it needs float64 copies of x, w and y.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..geometry import Geometry

NAME = "reference"


def unavailable() -> str | None:
    return None


def isa() -> str:
    return "numpy"


def forward(g: Geometry, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """y[n,k,p,q] = bias + sum over c,r,s of w[k,c,r,s] x[n,c,p*stride+r*dilation-pad, ...]."""
    padded = _padded(g, x)
    y = np.zeros(g.y_shape)
    for inputs, outputs in _groups(g):
        for r, s, window in _taps(g):
            y[:, outputs] += np.einsum("kc,ncpq->nkpq", w[outputs, :, r, s], padded[:, inputs][window])
    if bias is not None:
        y += bias[:, None, None] if bias.ndim == 1 else bias
    return y


def backward_input(g: Geometry, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x[n,c,i,j] = sum over k,r,s and the (p,q) that read (i,j) through tap (r,s) of w[k,c,r,s] y[n,k,p,q]."""
    padded = np.zeros(_padded_shape(g))
    for inputs, outputs in _groups(g):
        for r, s, window in _taps(g):
            padded[:, inputs][window] += np.einsum("kc,nkpq->ncpq", w[outputs, :, r, s], y[:, outputs])
    top, left = g.pad
    return padded[:, :, top : top + g.H, left : left + g.W]


def backward_weight(g: Geometry, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """w[k,c,r,s] = sum over n,p,q of y[n,k,p,q] x[n,c,p*stride+r*dilation-pad, ...]."""
    padded = _padded(g, x)
    w = np.zeros(g.w_shape)
    for inputs, outputs in _groups(g):
        for r, s, window in _taps(g):
            w[outputs, :, r, s] = np.einsum("nkpq,ncpq->kc", y[:, outputs], padded[:, inputs][window])
    return w


def _groups(g: Geometry) -> list[tuple[slice, slice]]:
    """The input and output channels of each group."""
    c, k = g.C // g.groups, g.K // g.groups
    return [(slice(i * c, (i + 1) * c), slice(i * k, (i + 1) * k)) for i in range(g.groups)]


def _taps(g: Geometry) -> list[tuple[int, int, tuple[slice, ...]]]:
    """Each kernel tap with the part of the padded plane that it reads, one element an output position."""
    taps: list[tuple[int, int, tuple[slice, ...]]] = []
    for r in range(g.R):
        for s in range(g.S):
            top, left = r * g.dilation[0], s * g.dilation[1]
            rows = slice(top, top + (g.P - 1) * g.stride[0] + 1, g.stride[0])
            columns = slice(left, left + (g.Q - 1) * g.stride[1] + 1, g.stride[1])
            taps.append((r, s, (slice(None), slice(None), rows, columns)))
    return taps


def _padded_shape(g: Geometry) -> tuple[int, int, int, int]:
    """Room for the padding before, the plane, and whatever the last tap of the last output reads beyond it."""
    rows = max(g.pad[0] + g.H, (g.P - 1) * g.stride[0] + (g.R - 1) * g.dilation[0] + 1)
    columns = max(g.pad[1] + g.W, (g.Q - 1) * g.stride[1] + (g.S - 1) * g.dilation[1] + 1)
    return (g.N, g.C, rows, columns)


def _padded(g: Geometry, x: np.ndarray) -> np.ndarray:
    padded = np.zeros(_padded_shape(g))
    top, left = g.pad
    padded[:, :, top : top + g.H, left : left + g.W] = x
    return padded


class Direct:
    """The three functions above behind the interface that all backends share."""

    name = "direct"
    exact = True

    def unsupported(self, operation: str, g: Geometry, dtype: np.dtype[Any]) -> str | None:
        return None

    def unwise(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> str | None:
        return None

    def workspace(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
        N, C, rows, columns = _padded_shape(g)
        products = max(g.N * g.K * g.P * g.Q, g.N * g.C * g.P * g.Q)  # one tap's, before they are added
        return 8 * (N * C * rows * columns + g.elements + 2 * products)

    def run(
        self,
        operation: str,
        g: Geometry,
        x: np.ndarray,
        w: np.ndarray,
        y: np.ndarray,
        bias: np.ndarray | None,
        threads: int,
        strict: bool,
    ) -> None:
        with np.errstate(all="ignore"):  # NaN, inf and overflow to inf are results, not warnings
            if operation == "forward":
                y[...] = forward(g, x, w.astype(np.float64), bias)
            elif operation == "backward_input":
                x[...] = backward_input(g, y.astype(np.float64), w.astype(np.float64))
            else:
                w[...] = backward_weight(g, x, y.astype(np.float64))


ALGORITHMS = (Direct(),)
