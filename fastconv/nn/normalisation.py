"""Batch normalisation (Ioffe and Szegedy, ICML 2015): :class:`BatchNorm1d` and :class:`BatchNorm2d`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..geometry import positive_ints
from .module import Module, Parameter, as_grad, as_input, float_dtype, no_forward


def _channel_sum(a: np.ndarray) -> np.ndarray:
    """Sum of a (N, C, L) over N and L."""
    return np.add.reduce(a[:, :, 0] if a.shape[2] == 1 else np.add.reduce(a, axis=2), axis=0)


def _channel_dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of a * b, both (N, C, L), over N and L; no temporary of that size where L > 1."""
    if a.shape[2] == 1:
        return np.einsum("nc,nc->c", a[:, :, 0], b[:, :, 0])
    return np.add.reduce(np.vecdot(a, b), axis=0)


class _BatchNorm(Module):
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    ranks: ClassVar[tuple[int, ...]]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: Any = np.float32,
    ):
        (self.num_features,) = positive_ints("num_features", num_features, 1)
        self.eps, self.momentum = eps, momentum
        self._dtype = float_dtype(dtype)
        self.weight = Parameter(np.ones(self.num_features, self._dtype)) if affine else None
        self.bias = Parameter(np.zeros(self.num_features, self._dtype)) if affine else None
        self.running_mean = np.zeros(self.num_features, self._dtype) if track_running_stats else None
        self.running_var = np.ones(self.num_features, self._dtype) if track_running_stats else None
        self.num_batches_tracked = np.array(0, np.int64) if track_running_stats else None
        self._shape: tuple[int, ...] | None = None
        self._normal: np.ndarray = np.empty(0)  # the latest input, normalised, (N, C, L)
        self._scale: np.ndarray = np.empty(0)  # 1 / standard deviation, (C, 1)
        self._from_batch = True  # whether mean and deviation depended on the input

    def forward(self, x: Any) -> np.ndarray:
        x = as_input(x, self, self._dtype)
        if x.ndim not in self.ranks or x.shape[1] != self.num_features:
            layouts = " or ".join(
                f"(N, {self.num_features}{', L' if r == 3 else ', H, W' if r == 4 else ''})" for r in self.ranks
            )
            raise ValueError(f"{type(self).__name__}: the input must be {layouts}, got shape {x.shape}")
        self._shape = x.shape
        values = x.reshape(x.shape[0], x.shape[1], -1) if x.size else x.reshape(x.shape[0], x.shape[1], 0)
        self._from_batch = self.training or self.running_mean is None
        if self._from_batch:
            centred, variance = self._batch_statistics(values)
        else:
            assert self.running_mean is not None
            assert self.running_var is not None
            centred, variance = values - self.running_mean[:, None], self.running_var
        self._scale = (1 / np.sqrt(variance + self.eps))[:, None]
        centred *= self._scale
        self._normal = centred
        if self.weight is None or self.bias is None:
            return centred.reshape(x.shape).copy()
        y = centred * self.weight.data[:, None]
        y += self.bias.data[:, None]
        return y.reshape(x.shape)

    def _batch_statistics(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values less their mean, and their (biased) variance; updates the running statistics in training."""
        count = values.shape[0] * values.shape[2]
        if count < 2 and self.training:
            raise ValueError(
                f"{type(self).__name__}: training needs more than one value a channel, got shape {self._shape}"
            )
        mean = _channel_sum(values) / count
        centred = values - mean[:, None]
        variance = _channel_dot(centred, centred) / count
        if self.training and self.running_mean is not None:
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean += share * (mean - self.running_mean)
            self.running_var += share * (variance * (count / (count - 1)) - self.running_var)
        return centred, variance

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        if self._shape is None:
            raise no_forward(self)
        normal = self._normal
        grad = as_grad(grad_output, self._shape, self._dtype, self).reshape(normal.shape)
        grad_sum, grad_dot = _channel_sum(grad), _channel_dot(grad, normal)
        scale = self._scale
        if self.weight is not None and self.bias is not None:
            self.weight.add_grad(grad_dot)
            self.bias.add_grad(grad_sum)
            scale = scale * self.weight.data[:, None]
        if not self._from_batch:
            return (grad * scale).reshape(self._shape)
        # dL/dx = scale * (g - mean(g) - normal * mean(g * normal)): the mean and the deviation depend on every x.
        count = normal.shape[0] * normal.shape[2]
        grad_input = normal * (grad_dot / -count)[:, None]
        grad_input += grad
        grad_input -= (grad_sum / count)[:, None]
        grad_input *= scale
        return grad_input.reshape(self._shape)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.weight is not None}, track_running_stats={self.running_mean is not None})"
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L) over all axes but C, as ``torch.nn.BatchNorm1d``.

    num_features: C.
    eps: added to the variance. Default 1e-5.
    momentum: share of the new batch in the running statistics; None for their plain average. Default 0.1.
    affine: whether ``weight`` and ``bias``, both (C,), follow. Default True.
    track_running_stats: whether evaluation uses ``running_mean`` and ``running_var`` (unbiased), both (C,). Default
    True.
    dtype: float32 (default) or float64.

    Raises ValueError for another number of channels and for training with one value a channel.

    >>> import fastconv.nn as nn
    >>> nn.BatchNorm1d(1)(np.float32([[1], [3]])).round(4)
    array([[-1.],
           [ 1.]], dtype=float32)
    """

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W) over all axes but C, as ``torch.nn.BatchNorm2d``.

    Arguments and errors as :class:`BatchNorm1d`.

    >>> import fastconv.nn as nn
    >>> nn.BatchNorm2d(3)(np.zeros((2, 3, 4, 4), np.float32)).shape
    (2, 3, 4, 4)
    """

    ranks = (4,)
