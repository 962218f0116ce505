"""Losses: ``forward(pred, target) -> float``, ``backward() -> grad_pred``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from .module import DTYPES

REDUCTIONS = ("mean", "sum", "none")


class Loss(ABC):
    """Base of the losses: a scalar that measures how far `pred` is from `target`, and its gradient."""

    def __init__(self, reduction: str):
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.reduction = reduction
        self._loss_shape: tuple[int, ...] | None = None  # of the latest loss before its reduction

    @abstractmethod
    def forward(self, pred: Any, target: Any) -> Any:
        """The loss: a float, or with ``reduction="none"`` an array."""

    @abstractmethod
    def backward(self, grad_output: Any = None) -> np.ndarray:
        """The gradient of the latest loss with respect to `pred`; `grad_output` is that of the loss, 1 if not given."""

    def __call__(self, pred: Any, target: Any) -> Any:
        return self.forward(pred, target)

    def _grad_output(self, grad_output: Any, dtype: np.dtype[Any]) -> Any:
        """`grad_output` to multiply with, None for 1; checked."""
        name = type(self).__name__
        if self._loss_shape is None:
            raise RuntimeError(f"{name}.backward needs a forward before it")
        shape = self._loss_shape if self.reduction == "none" else ()
        if grad_output is None:
            if shape:
                raise ValueError(
                    f"{name}.backward: with reduction='none' give grad_output, of the loss's shape {shape}"
                )
            return None
        grad = np.asarray(grad_output, dtype)
        if grad.shape != shape:
            raise ValueError(f"{name}.backward: grad_output has shape {grad.shape}, the loss has shape {shape}")
        return grad


def _as_pred(pred: Any, name: str) -> np.ndarray:
    array = pred if type(pred) is np.ndarray else np.asarray(pred)
    if array.dtype not in DTYPES:
        raise TypeError(f"{name}: pred must be float32 or float64, got {array.dtype}")
    return array


class CrossEntropyLoss(Loss):
    """Cross-entropy of softmax(pred), as ``torch.nn.CrossEntropyLoss``.

    weight: (C,) weights of the classes, or None.
    ignore_index: class index whose positions count for nothing. Default -100.
    reduction: "mean" (default; over the weights of the targets where those are class indices), "sum" or "none".
    label_smoothing: share of the target that is spread over all classes, 0 (default) to 1.

    pred: (C,), (N, C) or (N, C, ...), unnormalised; float32 or float64. target: class indices, integers of pred's shape
    without C, or probabilities of pred's shape and dtype. Loss of target probabilities t with e = label_smoothing::

        -sum_c weight_c * ((1 - e) * t_c + e / C) * log_softmax(pred)_c

    Raises ValueError for shapes that do not fit or an index outside of 0 to C-1, TypeError for dtypes that do not fit.

    >>> import fastconv.nn as nn
    >>> loss = nn.CrossEntropyLoss()
    >>> round(loss(np.zeros((2, 4)), np.array([0, 3])), 4)  # log(4)
    1.3863
    >>> loss.backward()
    array([[-0.375,  0.125,  0.125,  0.125],
           [ 0.125,  0.125,  0.125, -0.375]])
    """

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ):
        super().__init__(reduction)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing!r}")
        self.weight = None if weight is None else np.asarray(weight)
        if self.weight is not None and self.weight.ndim != 1:
            raise ValueError(f"weight must be one number a class, got shape {self.weight.shape}")
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        self._plain = weight is None and not label_smoothing and reduction == "mean" and ignore_index < 0
        self._rows = np.empty(0, np.intp)  # 0, 1, ..., N-1
        self._grad: np.ndarray = np.empty(0)  # of the latest loss with grad_output 1, rows (M, C)
        self._pred_shape: tuple[int, ...] = ()
        self._divisor = 1.0

    def forward(self, pred: Any, target: Any) -> Any:
        pred = _as_pred(pred, "CrossEntropyLoss")
        target = target if type(target) is np.ndarray else np.asarray(target)
        if self._plain and pred.ndim == 2 and target.dtype == np.int64 and pred.shape[:1] == target.shape and pred.size:
            # Read as unsigned, a negative index (ignore_index too) is a large one: one comparison tells both.
            valid = np.maximum.reduce(target.view(np.uint64)) < pred.shape[1]
            return self._forward_indices(pred, target) if valid else self._forward_general(pred, target)
        return self._forward_general(pred, target)

    def _forward_indices(self, pred: np.ndarray, target: np.ndarray) -> float:
        """The common case: (N, C) and N valid class indices, mean, no weights."""
        n = len(target)
        if len(self._rows) != n:
            self._rows = np.arange(n)
        z = pred - np.maximum.reduce(pred, axis=1, keepdims=True)
        e = np.exp(z)
        total = np.add.reduce(e, axis=1, keepdims=True)
        loss = float(np.add.reduce(np.log(total), axis=None) - np.add.reduce(z[self._rows, target])) / n
        total *= n
        e /= total
        e[self._rows, target] -= pred.dtype.type(1 / n)
        self._grad, self._pred_shape, self._loss_shape = e, pred.shape, (n,)
        return loss

    def _forward_general(self, pred: np.ndarray, target: np.ndarray) -> Any:
        if not pred.ndim:
            raise ValueError("CrossEntropyLoss: pred must have an axis of classes, got a scalar")
        axis = min(pred.ndim - 1, 1)  # that of the classes
        classes = pred.shape[axis]
        loss_shape = pred.shape[:axis] + pred.shape[axis + 1 :]
        if self.weight is not None and self.weight.shape != (classes,):
            raise ValueError(
                f"CrossEntropyLoss: {len(self.weight)} weights for {classes} classes, pred is {pred.shape}"
            )
        weight = None if self.weight is None else self.weight.astype(pred.dtype)
        rows = np.moveaxis(pred, axis, -1).reshape(-1, classes)
        z = rows - rows.max(axis=1, keepdims=True, initial=-np.inf) if rows.size else rows
        log_softmax = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        share, divisor = self._target_shares(target, pred, axis, loss_shape, weight)
        losses = -(share * np.where(share == 0, 0, log_softmax)).sum(axis=1)
        # d loss / d z = softmax * sum(share) - share
        self._grad = np.exp(log_softmax) * share.sum(axis=1, keepdims=True) - share
        self._pred_shape, self._loss_shape = pred.shape, loss_shape
        if self.reduction == "none":
            return losses.reshape(loss_shape)
        total = losses.sum()
        if self.reduction == "mean":
            with np.errstate(invalid="ignore", divide="ignore"):  # nothing to average: NaN, as torch
                self._grad /= divisor
                total = total / divisor
        return float(total)

    def _target_shares(
        self, target: np.ndarray, pred: np.ndarray, axis: int, loss_shape: tuple[int, ...], weight: np.ndarray | None
    ) -> tuple[np.ndarray, Any]:
        """What each log-probability is multiplied with, (M, C), and what a mean divides by."""
        classes, smooth = pred.shape[axis], self.label_smoothing
        if target.dtype.kind in "iu":
            if target.shape != loss_shape:
                raise ValueError(
                    f"CrossEntropyLoss: pred {pred.shape} takes class indices of shape {loss_shape}, got {target.shape}"
                )
            index = target.reshape(-1).astype(np.int64)
            counted = index != self.ignore_index
            wrong = counted & ((index < 0) | (index >= classes))
            if wrong.any():
                raise ValueError(
                    f"CrossEntropyLoss: target holds {index[wrong][0]}, the classes are 0 to {classes - 1}"
                )
            one_hot = np.zeros((len(index), classes), pred.dtype)
            one_hot[np.flatnonzero(counted), index[counted]] = 1
            share = one_hot * (1 - smooth) + counted[:, None] * pred.dtype.type(smooth / classes) if smooth else one_hot
            if weight is None:
                return share, pred.dtype.type(counted.sum())
            return share * weight, weight[index[counted]].sum()
        if target.shape != pred.shape:
            raise ValueError(f"CrossEntropyLoss: probabilities must have pred's shape {pred.shape}, got {target.shape}")
        if target.dtype != pred.dtype:
            raise TypeError(f"CrossEntropyLoss: pred is {pred.dtype}, target is {target.dtype}: convert one of them")
        share = np.moveaxis(target, axis, -1).reshape(-1, classes)
        if smooth:
            share = share * (1 - smooth) + pred.dtype.type(smooth / classes)
        return share if weight is None else share * weight, pred.dtype.type(len(share))

    def backward(self, grad_output: Any = None) -> np.ndarray:
        factor = self._grad_output(grad_output, self._grad.dtype)
        grad = self._grad if factor is None else self._grad * factor.reshape(-1, 1)
        if grad.shape == self._pred_shape:
            return grad
        if len(self._pred_shape) == 1:
            return grad[0]
        n, classes, *rest = self._pred_shape
        return np.ascontiguousarray(np.moveaxis(grad.reshape(n, *rest, classes), -1, 1))

    def __repr__(self) -> str:
        return f"CrossEntropyLoss(reduction={self.reduction!r}, label_smoothing={self.label_smoothing})"


class MSELoss(Loss):
    """``(pred - target)**2``, as ``torch.nn.MSELoss``.

    reduction: "mean" (default, over all elements), "sum" or "none".

    pred, target: arrays of one shape and dtype, float32 or float64 (nothing is broadcast). Raises ValueError or
    TypeError where they differ.

    >>> import fastconv.nn as nn
    >>> loss = nn.MSELoss()
    >>> loss(np.array([1.0, 3.0]), np.array([1.0, 1.0])), loss.backward()
    (2.0, array([0., 2.]))
    """

    def __init__(self, reduction: str = "mean"):
        super().__init__(reduction)
        self._difference: np.ndarray = np.empty(0)

    def forward(self, pred: Any, target: Any) -> Any:
        pred, target = _as_pred(pred, "MSELoss"), np.asarray(target)
        if pred.shape != target.shape:
            raise ValueError(f"MSELoss: pred has shape {pred.shape}, target has shape {target.shape}")
        if pred.dtype != target.dtype:
            raise TypeError(f"MSELoss: pred is {pred.dtype}, target is {target.dtype}: convert one of them")
        self._difference = difference = np.asarray(pred - target)
        self._loss_shape = pred.shape
        if self.reduction == "none":
            return difference * difference
        flat = difference.reshape(-1)
        squares = float(np.add.reduce(flat * flat))
        if self.reduction == "sum":
            return squares
        return squares / difference.size if difference.size else float("nan")

    def backward(self, grad_output: Any = None) -> np.ndarray:
        factor = self._grad_output(grad_output, self._difference.dtype)
        mean = self.reduction == "mean" and self._difference.size
        grad: np.ndarray = self._difference * (2 / self._difference.size if mean else 2)
        return grad if factor is None else grad * factor

    def __repr__(self) -> str:
        return f"MSELoss(reduction={self.reduction!r})"
