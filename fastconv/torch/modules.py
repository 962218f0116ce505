"""``Conv1d`` and ``Conv2d``: torch's modules with fastconv's kernels behind them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F

from .functions import CONVOLUTIONS, suits


class _Convolution:
    """The forward that both share. What fastconv is not for (see `suits`) goes the way of torch's own module."""

    _axes: int
    stride: Any  # these are torch's
    padding: Any
    dilation: Any
    groups: int
    padding_mode: str
    _reversed_padding_repeated_twice: Any

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        traced = isinstance(input, Proxy)
        if not (traced or suits(input, weight, bias)):
            return super()._conv_forward(input, weight, bias)  # type: ignore[misc]
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        convolve = CONVOLUTIONS[self._axes]
        arguments = (input, weight, bias, self.stride, padding, self.dilation, self.groups)
        if traced:  # by torch.fx: one node, as for torch's own module
            return input.tracer.create_proxy("call_function", convolve, arguments, {})  # type: ignore[attr-defined]
        return convolve(*arguments)

    def _get_name(self) -> str:
        return f"fastconv.torch.{type(self).__name__}"


class Conv1d(_Convolution, nn.Conv1d):  # type: ignore[misc]
    """``torch.nn.Conv1d`` on fastconv's kernels: the same arguments, parameters, initialisation and ``state_dict``.

    float32 and float64 tensors on the CPU go to fastconv; everything else (other dtypes and devices, autocast, tensor
    subclasses) is left to torch's own module, so a model may be moved or cast as before.

    Examples
    --------
    >>> import torch, fastconv.torch
    >>> layer = fastconv.torch.Conv1d(4, 8, 3, padding="same", padding_mode="circular")
    >>> layer(torch.ones(2, 4, 10)).shape
    torch.Size([2, 8, 10])
    >>> layer
    fastconv.torch.Conv1d(4, 8, kernel_size=(3,), stride=(1,), padding=same, padding_mode=circular)
    """

    _axes = 1


class Conv2d(_Convolution, nn.Conv2d):  # type: ignore[misc]
    """``torch.nn.Conv2d`` on fastconv's kernels; see :class:`Conv1d`.

    Examples
    --------
    >>> import torch, fastconv.torch
    >>> fastconv.torch.Conv2d(3, 8, 5, stride=2)(torch.ones(1, 3, 32, 32)).shape
    torch.Size([1, 8, 14, 14])
    """

    _axes = 2
