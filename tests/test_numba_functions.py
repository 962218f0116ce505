"""fastconv.numba: the kernels from somebody's own njit code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastconv as fc

numba = pytest.importorskip("numba", reason="numba is not installed")
if fc.backends().count("numba") == 0:
    pytest.skip("the numba backend cannot be used here", allow_module_level=True)
fcn = pytest.importorskip("fastconv.numba", reason="numba is not installed")


def normal(seed: int, *shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@numba.njit
def all_three(forward, backward_input, backward_weight, x, w, bias, grad):
    """Of any plans: Numba compiles it anew for each combination of types."""
    return (
        fcn.forward(forward, x, w, bias),
        fcn.backward_input(backward_input, grad, w),
        fcn.backward_weight(backward_weight, grad, x),
    )


def check_all_three(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, **options: Any) -> None:
    axes = w.ndim - 2
    conv, backward = (fc.conv1d, fc.conv1d_backward) if axes == 1 else (fc.conv2d, fc.conv2d_backward)
    expected = conv(x, w, bias, **options, backend="reference")
    grad = normal(7, *expected.shape, dtype=x.dtype)
    plans = [fcn.plan(operation, x.shape, w.shape, **options, dtype=x.dtype) for operation in fcn.OPERATIONS]
    y, grad_x, grad_w = all_three(*plans, x, w, bias, grad)
    expected_x, expected_w, _ = backward(grad, x, w, **options, backend="reference")
    limit = 1e-4 if x.dtype == np.float32 else 1e-12
    for found, right in ((y, expected), (grad_x, expected_x), (grad_w, expected_w)):
        assert found.shape == right.shape
        assert found.dtype == right.dtype
        np.testing.assert_allclose(found, right, rtol=limit, atol=limit)


def test_two_dimensions():
    bias = normal(3, 6)
    check_all_three(normal(1, 3, 4, 9, 11), normal(2, 6, 2, 3, 2), bias, stride=(2, 1), padding=1, groups=2)
    # the same compiled code, and an input that is not contiguous
    check_all_three(normal(1, 1, 4, 19, 33)[:, :, ::2, ::3].copy(), normal(2, 6, 4, 5, 3), bias, dilation=2)


def test_one_dimension_without_a_batch_in_float64():
    check_all_three(normal(1, 2, 40, dtype="f8"), normal(2, 3, 2, 5, dtype="f8"), None, padding=((0, 3),))


def test_conv2d_plans_for_itself():
    @numba.njit
    def layer(x, w, bias):
        return fcn.conv2d(x, w, bias, (2, 1), 1, 1, 2)

    x, w, bias = normal(1, 3, 4, 9, 11), normal(2, 6, 2, 3, 2), normal(3, 6)
    np.testing.assert_allclose(layer(x, w, bias), fc.conv2d(x, w, bias, (2, 1), 1, 1, 2), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="groups=2"):
        layer(x, w[:, :1], bias)


def test_wrong_arguments_are_errors():
    x, w, bias = normal(1, 3, 4, 9, 11), normal(2, 6, 2, 3, 2), normal(3, 6)
    plan = fcn.plan("forward", x.shape, w.shape, (2, 1), 1, 1, 2)
    with pytest.raises(ValueError, match="shape that the plan was made for"):
        fcn.forward(plan, x[:2], w, bias)
    with pytest.raises(ValueError, match="one value for each output channel"):
        fcn.forward(plan, x, w, bias[:5])
    other = fcn.plan("backward_input", x.shape, w.shape, (2, 1), 1, 1, 2)
    with pytest.raises(ValueError, match="another operation"):
        fcn.forward(other, x, w, bias)
    with pytest.raises(numba.TypingError, match="all float64"):
        fcn.forward(plan, x.astype("f8"), w, None)
    with pytest.raises(ValueError, match="dtype that the plan"):
        fcn.forward(plan, x.astype("f8"), w.astype("f8"), None)
    with pytest.raises(ValueError, match="operation must be"):
        fcn.plan("backwards", x.shape, w.shape)
    with pytest.raises(TypeError, match="float16"):
        fcn.plan("forward", x.shape, w.shape, dtype="f2")
    with pytest.raises(ValueError, match="nothing to compute"):
        fcn.plan("forward", (0, 4, 9, 11), (6, 4, 3, 2))
