"""The layers with weights, :class:`Linear`, :class:`Conv1d` and :class:`Conv2d`, and the simple ones between them."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from .. import entry
from ..geometry import PADDING_MODES, pad_pairs, positive_ints
from .initialisation import generator, uniform_fan_in
from .module import Module, as_grad, as_input, float_dtype, no_forward


def where_not(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`values` where `mask` is False, else 0, in a new array.

    By masking bits: ``np.where`` takes ten times as long on a random mask (350 against 24 us for 49,000 elements), and
    a product would turn infinities into NaN.
    """
    bits = mask.astype(np.int32 if values.dtype.itemsize == 4 else np.int64)
    bits -= 1  # 0 where masked, all ones where not
    bits &= values.view(bits.dtype)
    return bits.view(values.dtype)


class Linear(Module):
    """``y = x @ weight.T + bias``, as ``torch.nn.Linear``.

    in_features, out_features: int, at least 1.
    bias: whether there is one. Default True.
    dtype: float32 (default) or float64.
    rng: generator or int seed for the initial values, U(-b, b) with b = 1/sqrt(in_features); default: `manual_seed`'s.

    Input (..., in_features), output (..., out_features); ``weight`` (out_features, in_features), ``bias``
    (out_features,). Raises ValueError where the last axis of the input does not fit, TypeError for another dtype.

    >>> import fastconv.nn as nn
    >>> nn.Linear(784, 10)(np.zeros((50, 784), np.float32)).shape
    (50, 10)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = np.float32, rng: Any = None
    ):
        (self.in_features,) = positive_ints("in_features", in_features, 1)
        (self.out_features,) = positive_ints("out_features", out_features, 1)
        kind, rng = float_dtype(dtype), generator(rng)
        self.weight = uniform_fan_in((self.out_features, self.in_features), self.in_features, kind, rng)
        self.bias = uniform_fan_in((self.out_features,), self.in_features, kind, rng) if bias else None
        self._x: np.ndarray | None = None  # the latest input, as (rows, in_features)
        self._lead: tuple[int, ...] = ()

    def forward(self, x: Any) -> np.ndarray:
        x = as_input(x, self, self.weight.dtype)
        if not x.ndim or x.shape[-1] != self.in_features:
            raise ValueError(f"Linear: the input's last axis must be {self.in_features} long, got shape {x.shape}")
        self._lead = x.shape[:-1]
        if x.ndim != 2:
            x = x.reshape(math.prod(self._lead), self.in_features)
        self._x = x
        y = np.matmul(x, self.weight.data.T)
        if self.bias is not None:
            y += self.bias.data
        return y if len(self._lead) == 1 else y.reshape(*self._lead, self.out_features)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad = self._accumulate(grad_output)
        return np.matmul(grad, self.weight.data).reshape(*self._lead, self.in_features)

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        self._accumulate(grad_output)

    def _accumulate(self, grad_output: np.ndarray) -> np.ndarray:
        """Add to the parameters' gradients; returns grad_output as (rows, out_features)."""
        x = self._x
        if x is None:
            raise no_forward(self)
        grad = as_grad(grad_output, (*self._lead, self.out_features), x.dtype, self).reshape(len(x), self.out_features)
        target = self.weight.begin_grad()
        if target is None:
            self.weight.grad += np.matmul(grad.T, x)
        else:
            np.matmul(grad.T, x, out=target)
        if self.bias is not None:
            self.bias.add_grad(np.add.reduce(grad, axis=0))
        return grad

    def __repr__(self) -> str:
        return f"Linear({self.in_features}, {self.out_features}, bias={self.bias is not None})"


class _Conv(Module):
    axes: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: Any = np.float32,
        rng: Any = None,
    ):
        (self.in_channels,) = positive_ints("in_channels", in_channels, 1)
        (self.out_channels,) = positive_ints("out_channels", out_channels, 1)
        (self.groups,) = positive_ints("groups", groups, 1)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"groups={self.groups} must divide in_channels={self.in_channels} and out_channels={self.out_channels}"
            )
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
        self.kernel_size = positive_ints("kernel_size", kernel_size, self.axes)
        self.stride = positive_ints("stride", stride, self.axes)
        self.dilation = positive_ints("dilation", dilation, self.axes)
        pad_pairs(padding, self.kernel_size, self.stride, self.dilation)  # for its errors: forward takes any form
        self.padding, self.padding_mode = padding, padding_mode
        kind, rng = float_dtype(dtype), generator(rng)
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        fan_in = math.prod(shape[1:])
        self.weight = uniform_fan_in(shape, fan_in, kind, rng)
        self.bias = uniform_fan_in((self.out_channels,), fan_in, kind, rng) if bias else None
        self._x: np.ndarray | None = None
        self._convolve = getattr(entry, f"conv{self.axes}d")
        self._convolve_backward = getattr(entry, f"conv{self.axes}d_backward")

    def forward(self, x: Any) -> np.ndarray:
        self._x = x = as_input(x, self, self.weight.dtype)
        bias = None if self.bias is None else self.bias.data
        y: np.ndarray = self._convolve(
            x,
            self.weight.data,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            padding_mode=self.padding_mode,
        )
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad_input = self._differentiate(grad_output, True)
        assert grad_input is not None
        return grad_input

    def backward_parameters(self, grad_output: np.ndarray) -> None:
        self._differentiate(grad_output, False)

    def _differentiate(self, grad_output: np.ndarray, need_input: bool) -> np.ndarray | None:
        if self._x is None:
            raise no_forward(self)
        grad_input: np.ndarray | None
        grad_input, grad_weight, grad_bias = self._convolve_backward(
            grad_output,
            self._x,
            self.weight.data,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=self.padding_mode,
            output_mask=(need_input, True, self.bias is not None),
        )
        self.weight.add_grad(grad_weight)
        if self.bias is not None:
            self.bias.add_grad(grad_bias)
        return grad_input

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding!r}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}, padding_mode={self.padding_mode!r})"
        )


class Conv1d(_Conv):
    """Convolution over (N, C_in, L) or (C_in, L), as ``torch.nn.Conv1d``, computed by :func:`fastconv.conv1d`.

    in_channels, out_channels, kernel_size: int.
    stride, padding, dilation, groups, padding_mode: as in :func:`fastconv.conv1d`, with the same defaults.
    bias: whether there is one, of shape (C_out,). Default True.
    dtype: float32 (default) or float64.
    rng: generator or int seed for the initial values, U(-b, b) with b = 1/sqrt(C_in / groups * kernel_size); default:
    `manual_seed`'s.

    Raises ValueError or TypeError that names the argument, here or, where it depends on the input, in ``forward``.

    >>> import fastconv.nn as nn
    >>> nn.Conv1d(1, 4, 5, padding="same")(np.zeros((2, 1, 40), np.float32)).shape
    (2, 4, 40)
    """

    axes = 1


class Conv2d(_Conv):
    """Convolution over (N, C_in, H, W) or (C_in, H, W), as ``torch.nn.Conv2d``, computed by :func:`fastconv.conv2d`.

    in_channels, out_channels: int.
    kernel_size: int, or (rows, columns).
    stride, padding, dilation, groups, padding_mode: as in :func:`fastconv.conv2d`, with the same defaults.
    bias: whether there is one, of shape (C_out,). Default True.
    dtype: float32 (default) or float64.
    rng: generator or int seed for the initial values, U(-b, b) with b = 1/sqrt(C_in / groups * rows * columns);
    default: `manual_seed`'s.

    Raises ValueError or TypeError that names the argument, here or, where it depends on the input, in ``forward``.

    >>> import fastconv.nn as nn
    >>> nn.Conv2d(1, 5, 4, stride=2, padding=1)(np.zeros((50, 1, 28, 28), np.float32)).shape
    (50, 5, 14, 14)
    """

    axes = 2


class ReLU(Module):
    """``max(x, 0)``, any shape, as ``torch.nn.ReLU``: NaN stays NaN, the gradient at 0 is 0.

    >>> import fastconv.nn as nn
    >>> nn.ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    _y: np.ndarray | None = None

    def forward(self, x: Any) -> np.ndarray:
        self._y = y = np.maximum(as_input(x, self), 0)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        y = self._y
        if y is None:
            raise no_forward(self)
        return where_not(np.less_equal(y, 0), as_grad(grad_output, y.shape, y.dtype, self))

    def __repr__(self) -> str:
        return "ReLU()"


class Flatten(Module):
    """The axes from `start_dim` to `end_dim` (inclusive) as one, as ``torch.nn.Flatten``: by default all but the first.

    >>> import fastconv.nn as nn
    >>> nn.Flatten()(np.zeros((50, 10, 7, 7))).shape
    (50, 490)
    """

    _shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None  # of the latest input and output

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> np.ndarray:
        x = np.asarray(x)
        first, last = (d + x.ndim if d < 0 else d for d in (self.start_dim, self.end_dim))
        if not 0 <= first <= last < x.ndim:
            raise ValueError(
                f"Flatten: there are no axes {self.start_dim} to {self.end_dim} in an input of shape {x.shape}"
            )
        shape = (*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :])
        self._shapes = x.shape, shape
        return x.reshape(shape)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        if self._shapes is None:
            raise no_forward(self)
        grad, (shape, flat) = np.asarray(grad_output), self._shapes
        return as_grad(grad, flat, grad.dtype, self).reshape(shape)

    def __repr__(self) -> str:
        return f"Flatten(start_dim={self.start_dim}, end_dim={self.end_dim})"


class Dropout(Module):
    """In training sets each element to 0 with probability `p` and scales the others by 1/(1-p), as
    ``torch.nn.Dropout``.

    p: probability, 0 to 1. Default 0.5.
    rng: generator or int seed for the masks. Default: the one that `manual_seed` seeds; inside :func:`fit` a stream of
    `fit`'s seed, so that the same seed gives the same training.

    Srivastava et al., "Dropout" (JMLR 2014), in the scaled form that does nothing in evaluation. Raises ValueError for
    a `p` outside of 0 to 1.

    >>> import fastconv.nn as nn
    >>> sorted(set(nn.Dropout(0.5, rng=0)(np.ones(1000)).tolist()))
    [0.0, 2.0]
    """

    def __init__(self, p: float = 0.5, *, rng: Any = None):
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must be between 0 and 1, got {p!r}")
        self.p = float(p)
        self.rng: np.random.Generator | None = None if rng is None else generator(rng)
        self._factor: np.ndarray | None = None  # None: the identity
        self._shape: tuple[int, ...] | None = None
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def forward(self, x: Any) -> np.ndarray:
        x = as_input(x, self)
        self._shape, self._dtype, self._factor = x.shape, x.dtype, None
        if not self.training or not self.p:
            return x
        kept = generator(self.rng).random(x.shape, dtype=np.float32) >= self.p
        self._factor = np.multiply(kept, 1 / (1 - self.p) if self.p < 1 else 0.0, dtype=x.dtype)
        return x * self._factor

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        if self._shape is None:
            raise no_forward(self)
        grad = as_grad(grad_output, self._shape, self._dtype, self)
        return grad if self._factor is None else grad * self._factor

    def __repr__(self) -> str:
        return f"Dropout(p={self.p})"
