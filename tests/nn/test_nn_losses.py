"""Losses against torch, with all options, and by finite differences."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nn_helpers import close, numeric_gradient

import fastconv.nn as nn

REDUCTIONS = ["mean", "sum", "none"]


def compare(torch: Any, ours: Any, theirs: Any, pred: np.ndarray, target: np.ndarray) -> None:
    tp = torch.from_numpy(pred.copy()).requires_grad_()
    expected = theirs(tp, torch.from_numpy(np.asarray(target)))
    value = ours(pred, target)
    tolerance = 2e-6 if pred.dtype == np.float32 else 1e-13
    close(np.asarray(value), expected.detach().numpy(), tolerance, "loss")
    if ours.reduction == "none":
        g = np.random.default_rng(3).normal(size=expected.shape).astype(pred.dtype)
        grad = ours.backward(g)
        expected.backward(torch.from_numpy(g))
    else:
        assert isinstance(value, float)
        grad = ours.backward()
        expected.backward()
    assert (grad.shape, grad.dtype) == (pred.shape, pred.dtype)
    close(grad, tp.grad.numpy(), tolerance, "gradient")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(5,), (6, 5), (3, 5, 4), (2, 5, 3, 2)], ids=str)
def test_cross_entropy(
    reduction: str, smoothing: float, weighted: bool, shape: tuple[int, ...], torch: Any, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    pred = (3 * rng.normal(size=shape)).astype(dtype)
    weight = rng.uniform(0.5, 2, 5).astype(dtype) if weighted else None
    options: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
    ours = nn.CrossEntropyLoss(weight, **options)
    theirs = torch.nn.CrossEntropyLoss(None if weight is None else torch.from_numpy(weight), **options)
    positions = shape[:1] + shape[2:] if len(shape) > 1 else ()
    index = rng.integers(0, 5, positions)
    compare(torch, ours, theirs, pred, np.asarray(index))
    if positions:
        ignored = index.copy()
        ignored.reshape(-1)[1] = -100
        compare(torch, ours, theirs, pred, ignored)
    probabilities = rng.uniform(size=shape).astype(dtype)
    compare(torch, ours, theirs, pred, probabilities)


def test_cross_entropy_options(torch: Any) -> None:
    pred, target = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 2, 2, 1])
    compare(torch, nn.CrossEntropyLoss(ignore_index=2), torch.nn.CrossEntropyLoss(ignore_index=2), pred, target)
    for kind in (np.int32, np.uint8):  # torch wants int64; we take any integers
        assert nn.CrossEntropyLoss()(pred, target.astype(kind)) == pytest.approx(nn.CrossEntropyLoss()(pred, target))
    assert math.isnan(nn.CrossEntropyLoss()(pred, np.full(4, -100)))
    assert nn.CrossEntropyLoss(reduction="sum")(pred, np.full(4, -100)) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_large_logits_is_finite(smoothing: float, torch: Any) -> None:
    pred = np.array([[1000, 0, -1000], [-2000, 0, 3]], np.float32)
    target = np.array([2, 2])
    ours, theirs = nn.CrossEntropyLoss(label_smoothing=smoothing), torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    compare(torch, ours, theirs, pred, target)
    assert np.isfinite(ours.backward()).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (0, 3)], ids=str)
def test_mse(reduction: str, shape: tuple[int, ...], torch: Any, dtype: str) -> None:
    rng = np.random.default_rng(0)
    pred, target = (np.asarray(rng.normal(size=shape)).astype(dtype) for _ in range(2))
    compare(torch, nn.MSELoss(reduction), torch.nn.MSELoss(reduction=reduction), pred, target)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradients_by_finite_differences(reduction: str, smoothing: float) -> None:
    rng = np.random.default_rng(0)
    pred, target = rng.normal(size=(4, 3)), rng.integers(0, 3, 4)
    losses: list[tuple[Any, np.ndarray]] = [
        (nn.CrossEntropyLoss(reduction=reduction, label_smoothing=smoothing), target),
        (nn.MSELoss(reduction), rng.normal(size=(4, 3))),
    ]
    for loss, wanted in losses:
        loss(pred, wanted)
        grad = loss.backward().copy()
        scaled = loss.backward(2.5)
        np.testing.assert_allclose(scaled, 2.5 * grad)
        numeric = numeric_gradient(functools.partial(loss, pred, wanted), pred)
        np.testing.assert_allclose(grad, numeric, rtol=1e-6, atol=1e-7)


ERRORS: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    (ValueError, "reduction", lambda: nn.MSELoss("average")),
    (ValueError, "label_smoothing", lambda: nn.CrossEntropyLoss(label_smoothing=2)),
    (ValueError, "one number a class", lambda: nn.CrossEntropyLoss(np.ones((2, 2)))),
    (ValueError, "2 weights for 3 classes", lambda: nn.CrossEntropyLoss(np.ones(2))(np.ones((1, 3)), np.array([0]))),
    (
        ValueError,
        "target holds 3, the classes are 0 to 2",
        lambda: nn.CrossEntropyLoss()(np.ones((1, 3)), np.array([3])),
    ),
    (ValueError, "target holds -1", lambda: nn.CrossEntropyLoss()(np.ones((1, 3)), np.array([-1]))),
    (ValueError, r"shape \(1,\), got \(2,\)", lambda: nn.CrossEntropyLoss()(np.ones((1, 3)), np.array([0, 1]))),
    (ValueError, r"\(1, 3\), got \(1, 2\)", lambda: nn.CrossEntropyLoss()(np.ones((1, 3)), np.ones((1, 2)))),
    (TypeError, "int64", lambda: nn.CrossEntropyLoss()(np.ones((1, 3), int), np.array([0]))),
    (TypeError, "float64.*float32", lambda: nn.CrossEntropyLoss()(np.ones((1, 3)), np.ones((1, 3), np.float32))),
    (ValueError, r"\(2,\).*\(3,\)", lambda: nn.MSELoss()(np.ones(2), np.ones(3))),
    (TypeError, "float64.*float32", lambda: nn.MSELoss()(np.ones(2), np.ones(2, np.float32))),
    (RuntimeError, "forward", lambda: nn.MSELoss().backward()),
    (RuntimeError, "forward", lambda: nn.CrossEntropyLoss().backward()),
]


@pytest.mark.parametrize(("kind", "words", "call"), ERRORS, ids=[words for _, words, _ in ERRORS])
def test_errors(kind: type[Exception], words: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_without_reduction_backward_needs_grad_output() -> None:
    loss = nn.MSELoss("none")
    loss(np.ones(3), np.zeros(3))
    with pytest.raises(ValueError, match="grad_output"):
        loss.backward()
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        loss.backward(np.ones(2))
