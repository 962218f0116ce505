"""Convolutions as courses have them written: steps in a dict, a cache beside the output, channels last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastconv.testing import check_conv


def windows(x: np.ndarray, i: int, j: int, size: tuple[int, int], stride: int, axis: int) -> tuple[slice, ...]:
    place = slice(i * stride, i * stride + size[0]), slice(j * stride, j * stride + size[1])
    return (*[slice(None)] * axis, *place)


# ---- NCHW, conv_param, (out, cache)


def channels_first(x, w, b, conv_param):
    stride, pad = conv_param["stride"], conv_param.get("pad", 0)
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    plane = [(size - k) // stride + 1 for size, k in zip(padded.shape[2:], w.shape[2:])]
    out = np.zeros((len(x), len(w), *plane))
    for i, j in np.ndindex(*plane):
        part = padded[windows(padded, i, j, w.shape[2:], stride, 2)]
        out[:, :, i, j] = np.tensordot(part, w, ((1, 2, 3), (1, 2, 3))) + b
    return out, (x, w, b, conv_param)


def channels_first_backward(dout, cache, *, stride_ignored=False, cropped_late=False):
    x, w, _, conv_param = cache
    stride, pad = conv_param["stride"], conv_param.get("pad", 0)
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    dx, dw = np.zeros_like(padded), np.zeros_like(w)
    for i, j in np.ndindex(*dout.shape[2:]):
        place = windows(padded, i, j, w.shape[2:], 1 if stride_ignored else stride, 2)
        dw += np.tensordot(dout[:, :, i, j], padded[place], (0, 0))
        dx[place] += np.tensordot(dout[:, :, i, j], w, (1, 0))
    first = 2 * pad if cropped_late else pad
    return dx[:, :, first : first + x.shape[2], first : first + x.shape[3]], dw, dout.sum((0, 2, 3))


# ---- NHWC, hparameters, a bias of shape (1, 1, 1, C)


def channels_last(A_prev, W, b, hparameters):
    stride, pad = hparameters["stride"], hparameters["pad"]
    padded = np.pad(A_prev, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    plane = [(size - k) // stride + 1 for size, k in zip(padded.shape[1:3], W.shape[:2])]
    Z = np.zeros((len(A_prev), *plane, W.shape[3]))
    for i, j in np.ndindex(*plane):
        part = padded[windows(padded, i, j, W.shape[:2], stride, 1)]
        for c in range(W.shape[3]):
            Z[:, i, j, c] = np.sum(part * W[..., c], (1, 2, 3)) + float(b[0, 0, 0, c])
    return Z, (A_prev, W, b, hparameters)


def channels_last_backward(dZ, cache, *, bias_set=False):
    A_prev, W, b, hparameters = cache
    stride, pad = hparameters["stride"], hparameters["pad"]
    padded = np.pad(A_prev, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    dA, dW, db = np.zeros_like(padded), np.zeros_like(W), np.zeros_like(b)
    for i, j in np.ndindex(*dZ.shape[1:3]):
        place = windows(padded, i, j, W.shape[:2], stride, 1)
        for c in range(W.shape[3]):
            delta = dZ[:, i, j, c]
            dA[place] += W[..., c] * delta[:, None, None, None]
            dW[..., c] += np.tensordot(delta, padded[place], (0, 0))
            db[..., c] = delta.sum() + (0 if bias_set else db[..., c])
    return dA[:, pad : pad + A_prev.shape[1], pad : pad + A_prev.shape[2]], dW, db


@pytest.mark.parametrize(
    ("forward", "backward", "layout"),
    [
        (channels_first, channels_first_backward, "(N, C, H, W)"),
        (channels_last, channels_last_backward, "(N, H, W, C), the weight (R, S, C, K)"),
    ],
)
def test_right_course_work_is_right(forward: Callable[..., Any], backward: Callable[..., Any], layout: str) -> None:
    report = check_conv(forward, lambda grad, cache: backward(grad, cache))
    assert report.ok, str(report)
    assert report.layout == layout
    assert set(report.cases) == {"forward", "grad_input", "grad_weight", "grad_bias"}
    steps = {name for note in report.notes for name in note.partition(" (")[0].split(", ")}
    assert {"dilation", "groups"} <= steps  # nobody looked these up
    assert not {"stride", "padding"} & steps


def first_problem(*functions: Any) -> str:
    return str(check_conv(*functions).problems[0])


def test_mistakes_in_course_work_are_named() -> None:
    def flipped(x, w, b, conv_param):
        return channels_first(x, w[:, :, ::-1, ::-1], b, conv_param)[0], (x, w, b, conv_param)

    assert first_problem(flipped, lambda dout, cache: channels_first_backward(dout, cache)) == "forward: kernel flipped"
    found = check_conv(
        channels_first, lambda dout, cache: channels_first_backward(dout, cache, stride_ignored=True)
    ).problems
    assert [str(problem) for problem in found] == ["grad_input: stride ignored", "grad_weight: stride ignored"]
    wrong = first_problem(channels_last, lambda dZ, cache: channels_last_backward(dZ, cache, bias_set=True))
    assert wrong.startswith("grad_bias: ")
    late = first_problem(channels_first, lambda dout, cache: channels_first_backward(dout, cache, cropped_late=True))
    assert late.startswith("grad_input: ")
    assert found[0].arguments.keys() == {"x", "w", "b", "grad_output"}


def test_a_cache_that_is_missing_is_a_finding() -> None:
    (problem, *_) = check_conv(
        lambda x, w, b, conv_param: channels_first(x, w, b, conv_param)[0],
        lambda dout, cache: channels_first_backward(dout, cache),
    ).problems
    assert problem.term == "backward"
    assert "returned no (out, cache)" in problem.explanation
    with pytest.raises(ValueError, match="give the forward too"):
        check_conv(None, lambda dout, cache: cache)


def test_one_dimension_channels_last() -> None:
    def convolve(x, kernel, bias, stride=1):
        places = range(0, x.shape[1] - len(kernel) + 1, stride)
        return np.stack([np.tensordot(x[:, i : i + len(kernel)], kernel, 2) for i in places], 1) + bias

    report = check_conv(convolve)
    assert report.ok, str(report)
    assert report.layout == "(N, L, C), the weight (S, C, K)"
    wrong = check_conv(
        lambda x, kernel, bias, stride=1: convolve(x, kernel[::-1], bias, stride), layout="channels_last"
    )
    assert str(wrong.problems[0]) == "forward: kernel flipped"
