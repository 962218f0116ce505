"""Pooling and downsampling layers.

Windows of maximum and average are separable: each layer works through one axis after the other, and along an axis adds
(or compares) one strided view per tap of the window, so the loops here run over taps and never over positions.
"""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import entry
from ..geometry import positive_ints
from .layers import where_not
from .module import Module, as_grad, as_input, float_dtype, no_forward


class _Windows(NamedTuple):
    """The windows along one axis: each tap's positions in the output and in the input, where both exist."""

    outputs: int
    taps: tuple[tuple[slice, slice], ...]
    counts: tuple[int, ...]  # elements in each window, padding not counted
    padded_counts: tuple[int, ...]  # the same, padding counted
    disjoint: bool  # no element is in two windows


@functools.lru_cache(maxsize=1024)
def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> _Windows:
    reach = dilation * (kernel - 1) + 1
    room = size + 2 * padding - reach
    outputs = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (outputs - 1) * stride >= size + padding:
        outputs -= 1  # as torch: the last window starts inside of the input or of the padding before it
    if room < 0 or outputs < 1:
        raise ValueError(
            f"the window (kernel {kernel}, dilation {dilation}) is larger than the padded axis: {size} + 2 * {padding}"
        )
    taps = []
    for k in range(kernel):
        offset = k * dilation - padding
        first = max(0, -(offset // stride))  # the first output whose tap lies inside of the input
        last = min(outputs - 1, (size - 1 - offset) // stride)
        if first <= last:
            start = first * stride + offset
            taps.append((slice(first, last + 1), slice(start, start + (last - first) * stride + 1, stride)))
    starts = [p * stride - padding for p in range(outputs)]
    counts = tuple(sum(0 <= start + k * dilation < size for k in range(kernel)) for start in starts)
    padded = tuple(min(start + kernel, size + padding) - start for start in starts)
    return _Windows(outputs, tuple(taps), counts, padded, stride >= reach)


def _along(axis: int, part: slice) -> tuple[Any, ...]:
    """The index that takes `part` of `axis` (negative, counted from the end)."""
    return (..., part, *(slice(None),) * (-1 - axis))


def _resized(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    sizes = list(shape)
    sizes[axis] = size
    return tuple(sizes)


def _spread(axis: int, values: np.ndarray) -> np.ndarray:
    """A vector along `axis`, to broadcast against arrays."""
    return values.reshape(-1, *(1,) * (-1 - axis))


class _Pool(Module):
    """What the four window layers share: arguments, windows an axis, shapes."""

    axes: ClassVar[int]

    def __init__(self, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool):
        self.kernel_size = positive_ints("kernel_size", kernel_size, self.axes)
        self.stride = self.kernel_size if stride is None else positive_ints("stride", stride, self.axes)
        self.padding = positive_ints("padding", padding, self.axes, minimum=0)
        self.dilation = positive_ints("dilation", dilation, self.axes)
        self.ceil_mode = bool(ceil_mode)
        if any(2 * pad > kernel for pad, kernel in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(f"padding {self.padding} must be at most half of kernel_size {self.kernel_size}")

    def _plan(self, x: Any) -> tuple[np.ndarray, list[tuple[int, _Windows]]]:
        """The input as an array, and for each spatial axis, last first, its number and windows."""
        x = as_input(x, self)
        if x.ndim - self.axes not in (1, 2):
            layout = "(N, C, L) or (C, L)" if self.axes == 1 else "(N, C, H, W) or (C, H, W)"
            raise ValueError(f"{type(self).__name__}: the input must be {layout}, got shape {x.shape}")
        plan = []
        for axis in range(-1, -1 - self.axes, -1):
            numbers = (self.kernel_size[axis], self.stride[axis], self.padding[axis], self.dilation[axis])
            try:
                plan.append((axis, _windows(x.shape[axis], *numbers, self.ceil_mode)))
            except ValueError as error:
                raise ValueError(f"{type(self).__name__}: input {x.shape}: {error}") from None
        return x, plan


class _MaxPool(_Pool):
    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, *, ceil_mode: bool = False
    ):
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        self._stages: list[tuple[int, _Windows, np.ndarray, np.ndarray]] = []  # axis, windows, input, output of each

    def forward(self, x: Any) -> np.ndarray:
        x, plan = self._plan(x)
        self._stages = []
        for axis, windows in plan:
            y = _window_maximum(x, axis, windows)
            self._stages.append((axis, windows, x, y))
            x = y
        return x

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        if not self._stages:
            raise no_forward(self)
        y = self._stages[-1][3]
        grad = as_grad(grad_output, y.shape, y.dtype, self)
        for axis, windows, x, y in reversed(self._stages):
            grad = _window_maximum_backward(grad, x, y, axis, windows)
        return grad

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode})"
        )


def _window_maximum(x: np.ndarray, axis: int, windows: _Windows) -> np.ndarray:
    shape = _resized(x.shape, axis, windows.outputs)
    (outputs, inputs), *others = windows.taps
    if outputs == slice(0, windows.outputs):
        y = np.empty(shape, x.dtype)
        np.copyto(y, x[_along(axis, inputs)])
    else:
        y = np.full(shape, -np.inf, x.dtype)
        others = list(windows.taps)
    for outputs, inputs in others:
        part = y[_along(axis, outputs)]
        np.maximum(part, x[_along(axis, inputs)], out=part)
    return y


def _window_maximum_backward(
    grad: np.ndarray, x: np.ndarray, y: np.ndarray, axis: int, windows: _Windows
) -> np.ndarray:
    """Each gradient goes to the first element of its window that is the maximum (or NaN), as in torch."""
    grad_input = np.zeros_like(x, order="C")
    with_nan = y.size and np.isnan(y.max())  # a NaN is its window's maximum, but equals nothing
    open_windows = np.ones(y.shape, bool)  # those whose winner has not been met yet
    for outputs, inputs in windows.taps:
        out_index, in_index = _along(axis, outputs), _along(axis, inputs)
        still = open_windows[out_index]
        tap = x[in_index]
        smaller = np.not_equal(tap, y[out_index])
        if with_nan:
            smaller &= tap == tap
        share = where_not(np.greater_equal(smaller, still), grad[out_index])  # kept where open and not smaller
        still &= smaller
        if windows.disjoint:
            grad_input[in_index] = share
        else:
            grad_input[in_index] += share
    return grad_input


class MaxPool1d(_MaxPool):
    """Maximum over windows of (N, C, L) or (C, L), as ``torch.nn.MaxPool1d``.

    kernel_size: int.
    stride: int. Default: kernel_size.
    padding: int, at most half of kernel_size; pads with -infinity. Default 0.
    dilation: int. Default 1.
    ceil_mode: whether a last, incomplete window counts. Default False.

    Raises ValueError where the window is larger than the padded input. The gradient goes to the first maximum.

    >>> import fastconv.nn as nn
    >>> nn.MaxPool1d(2)(np.float32([[[1, 3, 2, 0]]]))
    array([[[3., 2.]]], dtype=float32)
    """

    axes = 1


class MaxPool2d(_MaxPool):
    """Maximum over windows of (N, C, H, W) or (C, H, W), as ``torch.nn.MaxPool2d``.

    kernel_size, stride, padding, dilation: int or (rows, columns); otherwise as :class:`MaxPool1d`.

    >>> import fastconv.nn as nn
    >>> nn.MaxPool2d(3, 2, 1)(np.zeros((8, 4, 28, 28), np.float32)).shape
    (8, 4, 14, 14)
    """

    axes = 2


class _AvgPool(_Pool):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: Any,
    ):
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = bool(count_include_pad)
        self.divisor_override = divisor_override
        if divisor_override is not None:
            (self.divisor_override,) = positive_ints("divisor_override", divisor_override, 1)
        self._stages: list[tuple[int, _Windows, tuple[int, ...]]] = []  # axis, windows, shape of the input of each
        self._y_shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] = np.dtype(np.float32)
        self._divisor: Any = 1

    def forward(self, x: Any) -> np.ndarray:
        x, plan = self._plan(x)
        self._stages, self._dtype = [], x.dtype
        divisor: Any = 1 if self.divisor_override is None else self.divisor_override
        for axis, windows in plan:
            self._stages.append((axis, windows, x.shape))
            y = np.zeros(_resized(x.shape, axis, windows.outputs), x.dtype)
            for outputs, inputs in windows.taps:
                part = y[_along(axis, outputs)]
                part += x[_along(axis, inputs)]
            x = y
            if self.divisor_override is None:
                counts = windows.padded_counts if self.count_include_pad else windows.counts
                if len(set(counts)) == 1:
                    divisor = divisor * counts[0]
                else:
                    divisor = divisor * _spread(axis, np.array(counts, x.dtype))
        self._divisor, self._y_shape = divisor, x.shape
        x /= divisor
        return x

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        if not self._stages:
            raise no_forward(self)
        grad = as_grad(grad_output, self._y_shape, self._dtype, self) / self._divisor
        for axis, windows, shape in reversed(self._stages):
            grad_input = np.zeros(shape, self._dtype)
            for outputs, inputs in windows.taps:
                part = grad_input[_along(axis, inputs)]
                part += grad[_along(axis, outputs)]
            grad = grad_input
        return grad

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"ceil_mode={self.ceil_mode}, count_include_pad={self.count_include_pad})"
        )


class AvgPool1d(_AvgPool):
    """Average over windows of (N, C, L) or (C, L), as ``torch.nn.AvgPool1d``.

    kernel_size: int.
    stride: int. Default: kernel_size.
    padding: int, at most half of kernel_size; pads with zeros. Default 0.
    ceil_mode: whether a last, incomplete window counts. Default False.
    count_include_pad: whether padding counts in the divisor. Default True.

    Raises ValueError where the window is larger than the padded input.

    >>> import fastconv.nn as nn
    >>> nn.AvgPool1d(2)(np.float32([[[1, 3, 2, 0]]]))
    array([[[2., 1.]]], dtype=float32)
    """

    axes = 1

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad, None)


class AvgPool2d(_AvgPool):
    """Average over windows of (N, C, H, W) or (C, H, W), as ``torch.nn.AvgPool2d``.

    kernel_size, stride, padding: int or (rows, columns); otherwise as :class:`AvgPool1d`.
    divisor_override: what to divide by in place of the window's size. Default None.

    >>> import fastconv.nn as nn
    >>> nn.AvgPool2d(2)(np.ones((8, 4, 28, 28), np.float32)).shape
    (8, 4, 14, 14)
    """

    axes = 2

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


class GlobalAvgPool(Module):
    """The average of every channel: (N, C, ...) to (N, C), for any number of spatial axes.

    ``AdaptiveAvgPool2d(1)`` and ``Flatten()`` of torch in one (Lin et al., "Network in network", ICLR 2014).

    >>> import fastconv.nn as nn
    >>> nn.GlobalAvgPool()(np.ones((8, 4, 7, 7), np.float32)).shape
    (8, 4)
    """

    _shape: tuple[int, ...] | None = None
    _dtype: np.dtype[Any] = np.dtype(np.float32)

    def forward(self, x: Any) -> np.ndarray:
        x = as_input(x, self)
        if x.ndim < 3 or not math.prod(x.shape[2:]):
            raise ValueError(
                f"GlobalAvgPool: the input must be (N, C, ...) with something to average, got shape {x.shape}"
            )
        self._shape, self._dtype = x.shape, x.dtype
        y: np.ndarray = x.reshape(*x.shape[:2], math.prod(x.shape[2:])).mean(axis=2)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        if self._shape is None:
            raise no_forward(self)
        n, c, *spatial = self._shape
        grad = as_grad(grad_output, (n, c), self._dtype, self) / math.prod(spatial)
        return np.broadcast_to(grad.reshape(n, c, *(1,) * len(spatial)), self._shape).copy()

    def __repr__(self) -> str:
        return "GlobalAvgPool()"


class BlurPool2d(Module):
    """Low-pass filter, then downsample: (N, C, H, W) to (N, C, ceil(H/stride), ceil(W/stride)).

    channels: C.
    kernel_size: taps of the binomial filter along each axis: 1 (none), 2 "Rect", 3 "Tri", 4, 5 "Bin". Default 4.
    stride: int. Default 2.
    padding_mode: as in :func:`fastconv.conv2d`. Default "reflect".
    dtype: float32 (default) or float64.

    A depthwise convolution with the fixed filter ``filt`` (C, 1, kernel_size, kernel_size), a buffer of that name in
    ``state_dict``. Zhang, "Making convolutional networks shift-invariant again" (ICML 2019), section 3; the defaults
    are those of the author's code.

    >>> import fastconv.nn as nn
    >>> nn.BlurPool2d(4)(np.ones((8, 4, 28, 28), np.float32)).shape
    (8, 4, 14, 14)
    """

    buffers = ("filt",)

    def __init__(
        self,
        channels: int,
        kernel_size: int = 4,
        stride: int = 2,
        padding_mode: str = "reflect",
        *,
        dtype: Any = np.float32,
    ):
        (self.channels,) = positive_ints("channels", channels, 1)
        (self.kernel_size,) = positive_ints("kernel_size", kernel_size, 1)
        (self.stride,) = positive_ints("stride", stride, 1)
        self.padding_mode = padding_mode
        taps = np.array([math.comb(self.kernel_size - 1, k) for k in range(self.kernel_size)]) / 2 ** (
            self.kernel_size - 1
        )
        self.filt = np.tile(np.outer(taps, taps).astype(float_dtype(dtype)), (self.channels, 1, 1, 1))
        before = (self.kernel_size - 1) // 2
        self._padding = ((before, self.kernel_size - 1 - before),) * 2
        self._x: np.ndarray | None = None

    def forward(self, x: Any) -> np.ndarray:
        self._x = x = as_input(x, self, self.filt.dtype)
        y: np.ndarray = entry.conv2d(
            x, self.filt, None, self.stride, self._padding, 1, self.channels, padding_mode=self.padding_mode
        )
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        if self._x is None:
            raise no_forward(self)
        grad_input, _, _ = entry.conv2d_backward(
            grad_output,
            self._x,
            self.filt,
            stride=self.stride,
            padding=self._padding,
            groups=self.channels,
            padding_mode=self.padding_mode,
            output_mask=(True, False, False),
        )
        assert grad_input is not None
        return grad_input

    def __repr__(self) -> str:
        return (
            f"BlurPool2d({self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding_mode={self.padding_mode!r})"
        )


class AdaptivePolyphase2d(Module):
    """Downsample by keeping, of each image's stride * stride polyphase components, the one with the largest norm.

    stride: int. Default 2.
    p: order of the norm, at least 1; ``math.inf`` for the largest absolute value. Default 2.

    Input (N, C, H, W) or (C, H, W) with H and W multiples of `stride`, output (N, C, H/stride, W/stride). Component
    (i, j) is ``x[..., i::stride, j::stride]``; its norm is over all channels. A circular shift of the input permutes
    the components, so what is kept is the same but for a circular shift: with circular convolutions and global average
    pooling a network's output does not change but for rounding. The backward pass puts the gradient back where the
    component came from. Norms are summed in float64, so that rounding hardly ever decides between components.

    Chaman and Dokmanic, "Truly shift-invariant convolutional neural networks" (CVPR 2021), equation 4. Raises
    ValueError where H or W is no multiple of the stride: the components would differ in size and the invariance be
    lost.

    >>> import fastconv.nn as nn
    >>> nn.AdaptivePolyphase2d()(np.arange(16.0).reshape(1, 1, 4, 4))
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    """

    def __init__(self, stride: int = 2, p: float = 2.0):
        (self.stride,) = positive_ints("stride", stride, 1)
        if not p >= 1:
            raise ValueError(f"AdaptivePolyphase2d: p must be at least 1, got {p!r}")
        self.p = float(p)
        self._shape: tuple[int, ...] | None = None
        self._dtype: np.dtype[Any] = np.dtype(np.float32)
        self._chosen: tuple[Any, ...] = ()

    def forward(self, x: Any) -> np.ndarray:
        x = as_input(x, self)
        s = self.stride
        if x.ndim not in (3, 4) or x.shape[-2] % s or x.shape[-1] % s:
            raise ValueError(
                f"AdaptivePolyphase2d: the input must be (N, C, H, W) or (C, H, W) with H and W multiples of {s}, "
                f"got shape {x.shape}"
            )
        self._shape, self._dtype = x.shape, x.dtype
        n, c, h, w = x.shape if x.ndim == 4 else (1, *x.shape)
        phases = x.reshape(n, c, h // s, s, w // s, s)
        best = self._norms(phases).reshape(n, s * s).argmax(axis=1)
        self._chosen = (np.arange(n), slice(None), slice(None), best // s, slice(None), best % s)
        return phases[self._chosen].reshape(*x.shape[:-2], h // s, w // s)

    def _norms(self, phases: np.ndarray) -> np.ndarray:
        """The p-norm, to the power of p, of each component: (N, C, h, s, w, s) to (N, s, s)."""
        if self.p == math.inf:
            return np.abs(phases).max(axis=(1, 2, 4), initial=0)
        sizes = phases.astype(np.float64)
        if self.p == 2:
            sizes *= sizes
        else:
            np.abs(sizes, out=sizes)
            if self.p != 1:
                sizes **= self.p
        norms: np.ndarray = sizes.sum(axis=(1, 2, 4))
        return norms

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        if self._shape is None:
            raise no_forward(self)
        s, n = self.stride, len(self._chosen[0])
        *lead, h, w = self._shape
        grad = as_grad(grad_output, (*lead, h // s, w // s), self._dtype, self)
        grad_input = np.zeros((n, lead[-1], h // s, s, w // s, s), self._dtype)
        grad_input[self._chosen] = grad.reshape(n, lead[-1], h // s, w // s)
        return grad_input.reshape(self._shape)

    def __repr__(self) -> str:
        return f"AdaptivePolyphase2d(stride={self.stride}, p={self.p:g})"
