"""``conv1d`` and ``conv2d`` for tensors, with the arguments of ``torch.nn.functional``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ..geometry import pad_pairs, positive_ints
from .operators import FLOATS, OPERATORS, Ints, Y, call


def _ints(name: str, value: Any, axes: int, minimum: int = 1) -> Ints:
    if type(value) is int and value >= minimum:  # the common cases without a detour
        return (value,) * axes
    if type(value) is tuple and len(value) == axes and all(type(v) is int and v >= minimum for v in value):
        return value
    return positive_ints(name, value, axes, minimum=minimum)


def _padding(value: Any, weight: Tensor, stride: Ints, dilation: Ints, axes: int) -> Ints:
    """One int an axis; where they differ, that before and that after each axis."""
    if not isinstance(value, str):
        return _ints("padding", value, axes, 0)
    pairs = pad_pairs(value, weight.shape[2:], stride, dilation)
    if all(before == after for before, after in pairs):
        return tuple(before for before, _ in pairs)
    return tuple(size for pair in pairs for size in pair)


def _conv(
    axes: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    strides, dilations = _ints("stride", stride, axes), _ints("dilation", dilation, axes)
    pads = _padding(padding, weight, strides, dilations, axes)
    return call(OPERATORS[axes][Y], input, weight, bias, (strides, pads, dilations, groups))


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """1-D convolution of tensors by fastconv's kernels, as ``torch.nn.functional.conv1d``.

    Differentiable any number of times; works under ``torch.compile``, ``torch.export``, ``torch.func`` (of which a
    compiled function may use ``vmap`` alone) and autocast (where it is done in float32). Nothing is copied but inputs
    that are not contiguous, channels-last ones among them.

    Parameters
    ----------
    input : tensor of shape (N, C_in, L) or (C_in, L), float32 or float64, on the CPU
    weight : tensor of shape (C_out, C_in/groups, K), the same dtype
    bias : tensor of shape (C_out,), or None
    stride, dilation, groups : int, default 1
    padding : int, default 0, ``"valid"`` or ``"same"`` (stride 1 only)

    Returns
    -------
    tensor of shape (N, C_out, L_out) or (C_out, L_out), always contiguous: channels-last inputs give no channels-last
    output, so that in a net of such layers the first one alone has to copy

    Raises
    ------
    ValueError, TypeError, RuntimeError, MemoryError
        As :func:`fastconv.conv1d`; NotImplementedError for tensors that are not on the CPU.

    Examples
    --------
    >>> import torch, fastconv.torch
    >>> x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    >>> w = torch.tensor([[[2.0, 1.0, 3.0]]], requires_grad=True)
    >>> y = fastconv.torch.conv1d(x, w)
    >>> y.sum().backward()
    >>> y.tolist(), w.grad.tolist()
    ([[[13.0, 19.0]]], [[[3.0, 5.0, 7.0]]])
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """2-D convolution of tensors by fastconv's kernels: :func:`conv1d` with (N, C, H, W) tensors.

    `stride`, `padding` and `dilation` are an int, or one int an axis.

    Examples
    --------
    >>> import torch, fastconv.torch
    >>> fastconv.torch.conv2d(torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3), padding="same").shape
    torch.Size([1, 4, 8, 8])
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


CONVOLUTIONS = {1: conv1d, 2: conv2d}


def _ordinary(tensor: Any, dtype: torch.dtype) -> bool:
    """A tensor that the kernels can read. Subclasses with ways of their own are not ordinary; those of tracing are."""
    kind = type(tensor)
    if not (kind is Tensor or kind is Parameter):
        own = getattr(kind, "__torch_function__", None)
        if not issubclass(kind, Tensor) or own is not torch._C._disabled_torch_function_impl:
            return False
    return tensor.dtype is dtype and tensor.is_cpu and tensor.layout is torch.strided


def suits(input: Any, weight: Any, bias: Any) -> bool:
    """Whether these are for fastconv. Autocast asks for a shorter format, and empty tensors for nothing at all."""
    dtype = getattr(input, "dtype", None)
    return (
        dtype in FLOATS
        and _ordinary(input, dtype)
        and _ordinary(weight, dtype)
        and (bias is None or _ordinary(bias, dtype))
        and not torch.is_autocast_enabled("cpu")
        and input.numel() > 0
        and weight.numel() > 0
    )
