"""All shape arithmetic of the library, and nothing else.

A convolution is one bilinear map seen from three sides, so one :class:`Geometry` serves all three operations:

==================  ==========  ================
operation           reads       writes
==================  ==========  ================
``forward``         x, w        y (the output)
``backward_input``  y, w        x (its gradient)
``backward_weight`` x, y        w (its gradient)
==================  ==========  ================

with ``x`` of shape (N, C, H, W), ``w`` (K, C/groups, R, S) and ``y`` (N, K, P, Q). A 1-D convolution has H = R = P = 1.
The map itself, the only definition that the backends share::

    y[n, k, p, q] = sum over c, r, s of  w[k, c, r, s] * x[n, c, p*stride_h + r*dilation_h - pad_h,
                                                                q*stride_w + s*dilation_w - pad_w]

with x taken as 0 outside of its H x W plane. P and Q are given, not derived: whatever padding lies below and to the
right follows from them, which is how asymmetric padding and ``output_padding`` need no words of their own.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

OPERATIONS = ("forward", "backward_input", "backward_weight")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]  # ((top, bottom), (left, right))

_AXES = {1: "(N, C, L)", 2: "(N, C, H, W)"}


class Geometry(NamedTuple):
    """The finished numbers of one convolution, as the backends receive them (the letters are those of csrc)."""

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    P: int
    Q: int
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)  # rows above, columns to the left
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return (self.N, self.C, self.H, self.W)

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        return (self.K, self.C // self.groups, self.R, self.S)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return (self.N, self.K, self.P, self.Q)

    @property
    def flops(self) -> int:
        """Floating-point operations of direct summation; the same for all three operations."""
        return 2 * self.N * self.K * self.P * self.Q * (self.C // self.groups) * self.R * self.S

    @property
    def elements(self) -> int:
        """Elements of x, w and y together: the least that an operation has to move."""
        return (
            self.N * self.C * self.H * self.W
            + self.K * (self.C // self.groups) * self.R * self.S
            + self.N * self.K * self.P * self.Q
        )


def folded(g: Geometry) -> Geometry:
    """The same sums with fewer axes: rows and columns that the kernel covers whole are computed as channels.

    A kernel as high as an image without padding has one output row: channels and rows of x, and those of w, can be read
    as C*H channels of one row each, as they lie in memory. If the kernel is as wide as the image too, a matrix product
    is left. Depthwise layers stay as they are: they have kernels for one channel a filter, and none for a few.
    """
    if g.C == g.groups > 1 or not _covered(g.P, g.R, g.H, g.pad[0], g.dilation[0]):
        return g
    g = g._replace(C=g.C * g.H, H=1, R=1, stride=(1, g.stride[1]))
    if _covered(g.Q, g.S, g.W, g.pad[1], g.dilation[1]):
        g = g._replace(C=g.C * g.W, W=1, S=1, stride=(1, 1))
    return g


def _covered(outputs: int, taps: int, size: int, pad: int, dilation: int) -> bool:
    return outputs == 1 and taps == size and pad == 0 and (dilation == 1 or taps == 1)


# No single size, stride or pad beyond this reaches the kernels ...
LARGEST = 2**43
# ... and no padded image of more elements, over its channels. The kernels lay parts of it out in their workspace, which
# they count in bytes, for every thread, in 64 bits: this leaves room for 1,024 threads, 8 bytes, and rounding up.
LARGEST_IMAGE = 2**48

# ---- arguments -> numbers


def _index(value: Any) -> int:
    if isinstance(value, (bool, np.bool_)):  # torch refuses them as well: a flag in the wrong place
        raise TypeError
    return operator.index(value)


def positive_ints(name: str, value: Any, axes: int, *, minimum: int = 1) -> tuple[int, ...]:
    """``value`` as one int an axis: an int, or a sequence of one or `axes` ints, each at least `minimum`."""
    numbers: tuple[int, ...]
    wanted = "an int" if axes == 1 else f"an int or a sequence of 1 or {axes} ints"
    try:
        numbers = (_index(value),)
    except TypeError:
        try:
            if isinstance(value, (bytes, bytearray, dict, set, frozenset)):  # iterable, but no sequences of ints
                raise TypeError from None
            numbers = tuple(_index(v) for v in value)
        except TypeError:
            raise TypeError(f"{name} must be {wanted}, got {value!r}") from None
    if len(numbers) == 1:
        numbers *= axes
    if len(numbers) != axes:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    if min(numbers) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return numbers


def pad_pairs(value: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> tuple[Pair, ...]:
    """``padding`` of any form as one (before, after) pair an axis."""
    axes = len(kernel)
    if isinstance(value, np.ndarray):  # as np.pad takes it
        value = value.tolist()
    if isinstance(value, str):
        if value == "valid":
            return ((0, 0),) * axes
        if value == "same":
            if any(step != 1 for step in stride):
                raise ValueError(f"padding='same' needs stride 1, got stride {tuple(stride)}")
            reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
            return tuple((total // 2, total - total // 2) for total in reach)  # an even kernel pads one more after
        raise ValueError(f"padding must be int(s), (before, after) pairs, 'valid' or 'same', got {value!r}")
    if isinstance(value, (list, tuple)) and value and all(hasattr(v, "__len__") for v in value):
        if len(value) not in (1, axes):
            raise ValueError(f"padding must hold {'1' if axes == 1 else f'1 or {axes}'} pair(s), got {value!r}")
        pairs = []
        for pair in value:
            if len(pair) != 2:
                raise ValueError(f"padding: each axis takes one (before, after) pair, got {value!r}")
            before, after = positive_ints("padding", pair, 2, minimum=0)
            pairs.append((before, after))
        return tuple(pairs if len(pairs) == axes else pairs * axes)  # one pair stands for every axis
    if axes == 1 and isinstance(value, (list, tuple)) and len(value) == 2:
        raise ValueError(f"padding={value!r} is ambiguous in 1-D: give an int, or ((before, after),)")
    return tuple((pad, pad) for pad in positive_ints("padding", value, axes, minimum=0))


def shape(name: str, value: Any) -> tuple[int, ...]:
    """``value``, any sequence of ints, as a shape. TypeError or ValueError that names it where it is none."""
    try:
        return positive_ints(name, value, len(value), minimum=0) if len(value) else ()
    except TypeError:
        raise TypeError(f"{name} must be a sequence of ints, got {value!r}") from None


def _plane(sizes: Sequence[int]) -> Pair:
    """Spatial sizes as (height, width); a 1-D one is a single row."""
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def _pads(pairs: Sequence[Pair]) -> Pads:
    return ((0, 0), pairs[0]) if len(pairs) == 1 else (pairs[0], pairs[1])


def _check_ranks(axes: int, x_name: str, x_shape: Sequence[int], w_shape: Sequence[int]) -> None:
    if len(x_shape) != axes + 2:
        raise ValueError(
            f"conv{axes}d: {x_name} must be {_AXES[axes]} or without its first axis, got shape {tuple(x_shape)}"
        )
    if len(w_shape) != axes + 2:
        raise ValueError(
            f"conv{axes}d: weight must have {axes + 2} axes, (C_out, C_in/groups, kernel...), got {tuple(w_shape)}"
        )
    if min(x_shape) < 0 or min(w_shape) < 0:
        raise ValueError(f"conv{axes}d: sizes cannot be negative: {x_name} {tuple(x_shape)}, weight {tuple(w_shape)}")
    if min(x_shape[2:]) < 1 and 0 not in x_shape[:2]:  # as torch: nothing is computed where N or C is 0 as well
        raise ValueError(f"conv{axes}d: {x_name} {tuple(x_shape)} has an axis of length 0; only N and C may be 0")
    if min(w_shape[2:]) < 1:
        raise ValueError(f"conv{axes}d: the kernel must have at least one element an axis, weight is {tuple(w_shape)}")


def _finished(
    N: int, C: int, K: int, planes: tuple[Pair, Pair, Pair], steps: tuple[Pair, Pair], pad: Pair, groups: int, what: str
) -> Geometry:
    """The Geometry, with strides and dilations that nothing can be seen of set to 1, and every number within reach."""
    (H, W), (R, S), (P, Q) = planes
    stride, dilation = steps
    stride = (stride[0] if P > 1 else 1, stride[1] if Q > 1 else 1)
    dilation = (dilation[0] if R > 1 else 1, dilation[1] if S > 1 else 1)
    if max(N, C, H, W, K, R, S, P, Q, *stride, *pad, *dilation) > LARGEST:
        raise ValueError(f"{what}: a size, stride, padding or dilation above {LARGEST} cannot be handled")
    rows = max(H + pad[0], (P - 1) * stride[0] + (R - 1) * dilation[0] + 1)
    columns = max(W + pad[1], (Q - 1) * stride[1] + (S - 1) * dilation[1] + 1)
    if max(C, K) * rows * (columns + 64) > LARGEST_IMAGE:  # 64: kernels round rows up to whole vectors
        raise ValueError(
            f"{what}: {max(C, K)} channel(s) of {rows} x {columns} elements, padding included, are more than the "
            f"{LARGEST_IMAGE} that can be handled"
        )
    return Geometry(N, C, H, W, K, R, S, P, Q, stride, pad, dilation, groups)


def conv_geometry(
    axes: int,
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    padding_mode: str = "zeros",
) -> tuple[Geometry, Pads]:
    """The geometry of ``conv{axes}d`` for batched shapes, and the padding it was asked for.

    With a `padding_mode` other than ``"zeros"`` the geometry is that of the input after it has been padded: H and W are
    the padded sizes and ``pad`` is zero. Raises ValueError or TypeError, naming the shapes and the rule that is broken.
    """
    _check_ranks(axes, "input", x_shape, w_shape)
    (groups,) = positive_ints("groups", groups, 1)
    strides = positive_ints("stride", stride, axes)
    dilations = positive_ints("dilation", dilation, axes)
    N, C = x_shape[:2]
    K, C_group = w_shape[:2]
    if K < 1:
        raise ValueError(f"conv{axes}d: weight {tuple(w_shape)} has no output channel")
    if C % groups or K % groups:
        raise ValueError(
            f"conv{axes}d: groups={groups} must divide the {C} input channels of input {tuple(x_shape)} "
            f"and the {K} output channels of weight {tuple(w_shape)}"
        )
    if C_group * groups != C:
        raise ValueError(
            f"conv{axes}d: weight {tuple(w_shape)} with groups={groups} takes {C_group * groups} input channels, "
            f"input {tuple(x_shape)} has {C}"
        )
    if not isinstance(padding_mode, str) or padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
    pairs = pad_pairs(padding, w_shape[2:], strides, dilations)
    out_sizes = []
    for size, kernel, step, spread, (before, after) in zip(
        x_shape[2:], w_shape[2:], strides, dilations, pairs, strict=True
    ):
        longest = max(before, after)
        if padding_mode == "reflect" and longest and longest >= size:
            raise ValueError(
                f"conv{axes}d: reflect padding {pairs} must be shorter than the axis, input is {tuple(x_shape)}"
            )
        if padding_mode == "circular" and longest > size:
            raise ValueError(
                f"conv{axes}d: circular padding {pairs} may be no longer than the axis, input is {tuple(x_shape)}"
            )
        reach = spread * (kernel - 1) + 1
        padded = size + before + after
        if reach > padded:
            raise ValueError(
                f"conv{axes}d: the kernel is larger than the padded input: weight {tuple(w_shape)} with dilation "
                f"{dilations} spans {reach}, input {tuple(x_shape)} with padding {pairs} has {padded}"
            )
        out_sizes.append((padded - reach) // step + 1)
    pads = _pads(pairs)
    H, W = _plane(x_shape[2:])
    pad = (pads[0][0], pads[1][0])
    if padding_mode != "zeros":
        H, W, pad = H + sum(pads[0]), W + sum(pads[1]), (0, 0)
    planes = ((H, W), _plane(w_shape[2:]), _plane(out_sizes))
    return _finished(N, C, K, planes, (_plane(strides), _plane(dilations)), pad, groups, f"conv{axes}d"), pads


def transposed_geometry(
    axes: int,
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
) -> Geometry:
    """The geometry of ``conv_transpose{axes}d``: that of the convolution whose ``backward_input`` it is.

    So the transposed convolution's input is ``y`` here, its output is ``x``, and its weight (C_in, C_out/groups, ...)
    is ``w`` as it stands. Raises as :func:`conv_geometry`.
    """
    _check_ranks(axes, "input", x_shape, w_shape)
    (groups,) = positive_ints("groups", groups, 1)
    strides = positive_ints("stride", stride, axes)
    dilations = positive_ints("dilation", dilation, axes)
    extras = positive_ints("output_padding", output_padding, axes, minimum=0)
    N, C_in = x_shape[:2]
    if w_shape[0] != C_in or C_in % groups:
        raise ValueError(
            f"conv_transpose{axes}d: weight {tuple(w_shape)} must be (C_in, C_out/groups, kernel...) with "
            f"groups={groups} dividing C_in, input {tuple(x_shape)} has {C_in} channels"
        )
    if w_shape[1] < 1:
        raise ValueError(f"conv_transpose{axes}d: weight {tuple(w_shape)} has no output channel")
    pairs = pad_pairs(padding, w_shape[2:], strides, dilations)
    out_sizes = []
    for size, kernel, step, spread, extra, (before, after) in zip(
        x_shape[2:], w_shape[2:], strides, dilations, extras, pairs, strict=True
    ):
        if extra >= max(step, spread):
            raise ValueError(
                f"conv_transpose{axes}d: output_padding {extras} must be smaller than max(stride, dilation), "
                f"stride {strides}, dilation {dilations}"
            )
        out = (size - 1) * step - before - after + spread * (kernel - 1) + extra + 1
        if out < 1:
            raise ValueError(
                f"conv_transpose{axes}d: the output would have size {out} along one axis: input {tuple(x_shape)}, "
                f"weight {tuple(w_shape)}, stride {strides}, padding {pairs}"
            )
        out_sizes.append(out)
    pads = _pads(pairs)
    planes = (_plane(out_sizes), _plane(w_shape[2:]), _plane(x_shape[2:]))
    pad = (pads[0][0], pads[1][0])
    steps = (_plane(strides), _plane(dilations))
    return _finished(N, w_shape[1] * groups, C_in, planes, steps, pad, groups, f"conv_transpose{axes}d")
