"""Helpers of the tests of fastconv.nn: gradients by finite differences, comparison with torch, images to learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastconv.nn as nn


def image_like(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`n` images (n, 1, 28, 28) of ten classes, float32 in 0 to 1, mostly black: a blurred stroke or two each, moved
    about and noisy. Something that a small network learns, as it would digits."""
    rng = np.random.default_rng(seed)
    prototypes = np.zeros((10, 28, 28))
    for prototype in prototypes:
        for _ in range(2):
            start, stop = rng.uniform(6, 22, (2, 2))
            for t in np.linspace(0, 1, 30):
                row, column = start + t * (stop - start)
                rows, columns = np.ogrid[:28, :28]
                np.maximum(prototype, np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 2), out=prototype)
    y = rng.integers(0, 10, n)
    shifts = rng.integers(-2, 3, (n, 2))
    x = np.stack([np.roll(prototypes[c], s, (0, 1)) for c, s in zip(y, shifts)])
    x = np.clip(x * rng.uniform(0.7, 1, (n, 1, 1)) + rng.normal(0, 0.1, x.shape) * (x > 0.05), 0, 1)
    return x[:, None].astype(np.float32), y


def numeric_gradient(function: Callable[[], float], array: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """d function / d array by central differences, one element at a time; `function` reads `array` anew."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = function()
        array[index] = kept - step
        below = function()
        array[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient


def check_gradients(module: nn.Module, x: np.ndarray, tolerance: float = 1e-7) -> None:
    """The module's gradients of sum(y * g), for a random g, by finite differences in float64."""
    assert x.dtype == np.float64
    y = module.forward(x)
    g = np.random.default_rng(1).normal(size=y.shape)

    def objective() -> float:
        return float((module.forward(x) * g).sum())

    module.zero_grad()
    module.forward(x)
    grad_input = module.backward(g)
    analytic = {name: p.grad.copy() for name, p in module.named_parameters()}
    assert grad_input.shape == x.shape
    np.testing.assert_allclose(grad_input, numeric_gradient(objective, x), rtol=tolerance, atol=tolerance)
    for name, p in module.named_parameters():
        numeric = numeric_gradient(objective, p.data)
        np.testing.assert_allclose(analytic[name], numeric, rtol=tolerance, atol=tolerance, err_msg=name)


def compare_with_torch(torch: Any, ours: nn.Module, theirs: Any, x: np.ndarray, tolerance: float) -> None:
    """Output, gradient of the input and every gradient of a parameter against a torch module with the same weights."""
    ours.load_state_dict(theirs.state_dict())
    tx = torch.from_numpy(x.copy()).requires_grad_()
    ty = theirs(tx)
    y = ours.forward(x)
    assert y.shape == tuple(ty.shape)
    assert y.dtype == x.dtype
    g = np.random.default_rng(2).normal(size=y.shape).astype(x.dtype)
    theirs.zero_grad()
    ty.backward(torch.from_numpy(g))
    ours.zero_grad()
    grad_input = ours.backward(g)
    close(y, ty.detach().numpy(), tolerance, "output")
    close(grad_input, tx.grad.numpy(), tolerance, "gradient of the input")
    expected = dict(theirs.named_parameters())
    assert [name for name, _ in ours.named_parameters()] == list(expected)
    for name, p in ours.named_parameters():
        close(p.grad, expected[name].grad.numpy(), tolerance, name)


def close(actual: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    """Within `tolerance` of the largest expected value."""
    scale = float(np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(scale, 1e-3), err_msg=what)
