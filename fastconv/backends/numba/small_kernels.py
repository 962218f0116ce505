"""The definition as plain loops, for a handful of numbers: see ``csrc/small.h``. No packing, no scratch.

Covers every geometry. The sum over one kernel row (or one output row, for the weights) is kept apart from the total, so
that the error of long sums stays near that of the blocked kernels. Beyond the edges x is 0, and there is no y: nothing
has to be done again for weights or inputs that are not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types

from .objects import ArrayObject, data, item_bytes, number_at, put, words, zero
from .vector import flush_denormals, restore_mode

FIELDS = 18  # of a plan: see small.plan

Kernel = Callable[[Any, Any, Any, Any, Any], int]


def _forward() -> Kernel:
    def small_forward(plan: Any, x: Any, w: Any, y: Any, bias: Any) -> int:
        """y (N, K, P, Q) = x (N, C, H, W) * w (K, C/groups, R, S) + bias, one output at a time."""
        (N, groups, Cg, Kg, H, W, R, S, P, Q) = words(plan, FIELDS)[:10]
        (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, biases, strict) = words(plan, FIELDS)[10:]
        mode = flush_denormals() if not strict else 0
        item = item_bytes(x)
        to = data(y)
        for n in range(N):
            for group in range(groups):
                planes = data(x) + (n * groups + group) * Cg * H * W * item
                weights = data(w) + group * Kg * Cg * R * S * item
                for k in range(Kg):
                    one_bias = 0
                    if biases > 0:
                        one_bias = data(bias) + (group * Kg + k) * (P * Q if biases == 2 else 1) * item
                    for p in range(P):
                        for q in range(Q):
                            total = zero(x)
                            left = q * stride_w - pad_w
                            for c in range(Cg):
                                for r in range(R):
                                    h = p * stride_h + r * dilation_h - pad_h
                                    row = planes + (c * H + h) * W * item
                                    taps = weights + ((k * Cg + c) * R + r) * S * item
                                    part = zero(x)
                                    for s in range(S):
                                        v = left + s * dilation_w
                                        pixel = number_at(x, row + v * item) if 0 <= h < H and 0 <= v < W else zero(x)
                                        part += number_at(x, taps + s * item) * pixel
                                    total += part
                            if biases > 0:
                                total += number_at(x, one_bias)
                                if biases == 2:
                                    one_bias += item
                            put(x, to, total)
                            to += item
        if not strict:
            restore_mode(mode)
        return 0

    return small_forward


def _backward_input() -> Kernel:
    def small_backward_input(plan: Any, x: Any, w: Any, y: Any, bias: Any) -> int:
        """x (N, C, H, W) = the transpose of forward applied to y (N, K, P, Q): each y goes to the x it came from."""
        (N, groups, Cg, Kg, H, W, R, S, P, Q) = words(plan, FIELDS)[:10]
        (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, _, strict) = words(plan, FIELDS)[10:]
        mode = flush_denormals() if not strict else 0
        item = item_bytes(x)
        for i in range(N * groups * Cg * H * W):
            put(x, data(x) + i * item, zero(x))
        gradient = data(y)
        for n in range(N):
            for group in range(groups):
                planes = data(x) + (n * groups + group) * Cg * H * W * item
                weights = data(w) + group * Kg * Cg * R * S * item
                for k in range(Kg):
                    for p in range(P):
                        for q in range(Q):
                            factor = number_at(x, gradient)
                            gradient += item
                            left = q * stride_w - pad_w
                            for c in range(Cg):
                                for r in range(R):
                                    h = p * stride_h + r * dilation_h - pad_h
                                    if 0 <= h < H:
                                        row = planes + (c * H + h) * W * item
                                        taps = weights + ((k * Cg + c) * R + r) * S * item
                                        for s in range(S):
                                            v = left + s * dilation_w
                                            if 0 <= v < W:
                                                product = factor * number_at(x, taps + s * item)
                                                put(x, row + v * item, number_at(x, row + v * item) + product)
        if not strict:
            restore_mode(mode)
        return 0

    return small_backward_input


def _backward_weight() -> Kernel:
    def small_backward_weight(plan: Any, x: Any, w: Any, y: Any, bias: Any) -> int:
        """w (K, C/groups, R, S) = sum over images and outputs of y (N, K, P, Q) times the x (N, C, H, W) under it."""
        (N, groups, Cg, Kg, H, W, R, S, P, Q) = words(plan, FIELDS)[:10]
        (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, _, strict) = words(plan, FIELDS)[10:]
        mode = flush_denormals() if not strict else 0
        item = item_bytes(x)
        to = data(w)
        for k in range(groups * Kg):
            for c in range(Cg):
                plane = data(x) + (k // Kg * Cg + c) * H * W * item
                for r in range(R):
                    for s in range(S):
                        total = zero(x)
                        for n in range(N):
                            for p in range(P):
                                h = p * stride_h + r * dilation_h - pad_h
                                row = plane + (n * groups * Cg * H + h) * W * item
                                gradients = data(y) + ((n * groups * Kg + k) * P + p) * Q * item
                                part = zero(x)
                                for q in range(Q):
                                    v = q * stride_w + s * dilation_w - pad_w
                                    pixel = number_at(x, row + v * item) if 0 <= h < H and 0 <= v < W else zero(x)
                                    part += number_at(x, gradients + q * item) * pixel
                                total += part
                        put(x, to, total)
                        to += item
        if not strict:
            restore_mode(mode)
        return 0

    return small_backward_weight


def _signature(element: Any) -> Any:
    array = ArrayObject(element)
    return types.int64(ArrayObject(types.int64), array, array, array, array)


BUILDERS = {
    "small_forward": _forward,
    "small_backward_input": _backward_input,
    "small_backward_weight": _backward_weight,
}
SIGNATURES = dict.fromkeys(BUILDERS, _signature)
HELPERS = ()
