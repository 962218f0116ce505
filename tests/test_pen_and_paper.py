"""The homework that started this: every number that was once worked out by hand, from every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_sets import Kernels

import fastconv as fc

X, W, TARGET = np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 3]), np.array([2.0, 4])
RATE = 0.01


@pytest.fixture(params=["conv1d", "conv1d unbatched", "conv2d row", "conv2d column"])
def shaped(request: pytest.FixtureRequest, dtype: str) -> Any:
    """The same four numbers as conv1d and conv2d take them: (functions, shape of x, of w, of the output)."""
    form = request.param
    axes = 1 if "1d" in form else 2
    shape = {
        "conv1d": (1, 1, -1), "conv1d unbatched": (1, -1), "conv2d row": (1, 1, 1, -1), "conv2d column": (1, 1, -1, 1)
    }[form]  # fmt: skip
    weight_shape = (1, *shape) if "unbatched" in form else shape
    return getattr(fc, f"conv{axes}d"), getattr(fc, f"conv{axes}d_backward"), shape, weight_shape, dtype


def close(got: Any, right: Any, dtype: str) -> None:
    np.testing.assert_allclose(np.ravel(got), right, rtol=1e-5 if dtype == "float32" else 1e-14)


def test_shared_bias(kernels: Kernels, shaped: Any) -> None:
    conv, backward, shape, weight_shape, dtype = shaped
    x, w, b = X.reshape(shape).astype(dtype), W.reshape(weight_shape).astype(dtype), np.ones(1, dtype)
    prediction = conv(x, w, b)
    close(prediction, [14, 20], dtype)
    gradient = (prediction - TARGET.reshape(prediction.shape)).astype(dtype)
    assert 0.5 * np.square(gradient).sum() == 200
    grad_x, grad_w, grad_b = backward(gradient, x, w, bias_shape=b.shape)
    close(grad_x, [24, 44, 52, 48], dtype)
    close(grad_w, [44, 72, 100], dtype)
    close(grad_b, [28], dtype)
    w, b = (w - RATE * grad_w).astype(dtype), (b - RATE * grad_b).astype(dtype)
    close(w, [1.56, 0.28, 2], dtype)
    close(b, [0.72], dtype)
    prediction = conv(x, w, b)
    close(prediction, [8.84, 12.68], dtype)
    close(0.5 * np.square(np.ravel(prediction) - TARGET).sum(), 61.064, dtype)


def test_untied_bias(kernels: Kernels, shaped: Any) -> None:
    conv, backward, shape, weight_shape, dtype = shaped
    x, w = X.reshape(shape).astype(dtype), W.reshape(weight_shape).astype(dtype)
    plane = tuple(2 if n == -1 else 1 for n in weight_shape[2:])
    b = np.ones((1, *plane), dtype)
    prediction = conv(x, w, b)
    close(prediction, [14, 20], dtype)
    gradient = (prediction - TARGET.reshape(prediction.shape)).astype(dtype)
    grad_x, grad_w, grad_b = backward(gradient, x, w, bias_shape=b.shape)
    assert grad_b.shape == b.shape
    close(grad_x, [24, 44, 52, 48], dtype)
    close(grad_w, [44, 72, 100], dtype)
    close(grad_b, [12, 16], dtype)
    w, b = (w - RATE * grad_w).astype(dtype), (b - RATE * grad_b).astype(dtype)
    close(b, [0.88, 0.84], dtype)
    prediction = conv(x, w, b)
    close(prediction, [9, 12.8], dtype)
    close(0.5 * np.square(np.ravel(prediction) - TARGET).sum(), 63.22, dtype)
