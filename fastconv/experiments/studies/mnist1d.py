"""Study: the same question in one dimension, on MNIST-1D: a CNN of conv1d layers and an MLP, features in order or not.

The models and the training are those of Greydanus, "Scaling down deep learning" (2020): three convolutions with stride
2 against an MLP with a skip connection and three times as many parameters; Adam, batches of 100, the examples in a new
order every epoch (the paper's program keeps one order). Where the features are shuffled, by one permutation for all
examples, the MLP cannot notice and the CNN has nothing to go by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ... import nn
from ..data import mnist1d as signals
from ..equivariance import Config
from ..statistics import MODELS, mean_sd, paired_test

NAME = "mnist1d"
PROTOCOL = 1
STEPS = 6000
BATCH_SIZE = 100
LEARNING_RATE = 0.01
FEATURES = ("in order", "shuffled")
PERMUTATION_SEED = 42
CHANNELS, HIDDEN = 25, 100


class Residual(nn.Module):
    """x + inner(x)."""

    def __init__(self, inner: nn.Module):
        self.inner = inner

    def forward(self, x: Any) -> np.ndarray:
        y: np.ndarray = x + self.inner(x)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        grad: np.ndarray = grad_output + self.inner.backward(grad_output)
        return grad


def build(model: str, seed: int) -> nn.Sequential:
    """``"cnn"`` (5,210 parameters) or ``"mlp"`` (15,210), for inputs (N, 1, 40).

    >>> sum(p.size for p in build("cnn", 0).parameters()), sum(p.size for p in build("mlp", 0).parameters())
    (5210, 15210)
    """
    rng = np.random.default_rng(seed)
    if model == "cnn":
        return nn.Sequential(
            nn.Conv1d(1, CHANNELS, 5, stride=2, padding=1, rng=rng),
            nn.ReLU(),
            nn.Conv1d(CHANNELS, CHANNELS, 3, stride=2, padding=1, rng=rng),
            nn.ReLU(),
            nn.Conv1d(CHANNELS, CHANNELS, 3, stride=2, padding=1, rng=rng),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(5 * CHANNELS, signals.CLASSES, rng=rng),
        )
    if model == "mlp":
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(signals.LENGTH, HIDDEN, rng=rng),
            nn.ReLU(),
            Residual(nn.Sequential(nn.Linear(HIDDEN, HIDDEN, rng=rng), nn.ReLU())),
            nn.Linear(HIDDEN, signals.CLASSES, rng=rng),
        )
    raise ValueError(f"model must be cnn or mlp, got {model!r}")


def descriptions(config: Config) -> list[dict[str, Any]]:
    """The cells, the longest first. With fewer epochs than the base experiment's 10 there are fewer steps as well."""
    steps = max(1, STEPS * min(config.epochs, 10) // 10)
    return [
        {"model": model, "features": features, "seed": seed, "steps": steps}
        for model in MODELS
        for features in FEATURES
        for seed in range(config.seeds)
    ]


def compute(what: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """One training: accuracies on the test and the training set, and on the test set after every epoch."""
    generated = signals.generate()
    order = np.arange(signals.LENGTH)
    if what["features"] == "shuffled":
        order = np.random.RandomState(PERMUTATION_SEED).permutation(order)
    train, test = (_as_input(part[:, order]) for part in (generated.train, generated.test))
    model = build(what["model"], what["seed"])
    per_epoch = len(train) // BATCH_SIZE
    epochs = -(-what["steps"] // per_epoch)
    history = nn.fit(
        model,
        (train, generated.train_labels),
        loss=nn.CrossEntropyLoss(),
        optimizer=nn.Adam(model.parameters(), lr=LEARNING_RATE),
        epochs=epochs,
        batch_size=BATCH_SIZE,
        seed=what["seed"],
        validation={"test": (test, generated.test_labels)},
        progress=False,
    )
    return {
        "accuracy": history["epochs"][-1]["test_accuracy"],
        "training": nn.evaluate(model, (train, generated.train_labels))["accuracy"],
        "history": [epoch["test_accuracy"] for epoch in history["epochs"]],
    }


def _as_input(part: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(part[:, None], np.float32)


# ---- summary


def summarise(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, ``{"accuracy": {model: {features: mean_sd}}, "training": ..., "claims": tests}``."""
    runs = {(cell["model"], cell["features"], cell["seed"]): cell for cell in cells}
    seeds = sorted({cell["seed"] for cell in cells})

    def column(model: str, features: str, key: str) -> list[float]:
        return [runs[model, features, seed][key] for seed in seeds]

    def difference(a: tuple[str, str], b: tuple[str, str]) -> dict[str, Any]:
        pairs = zip(column(*a, "accuracy"), column(*b, "accuracy"), strict=True)
        return paired_test([x - y for x, y in pairs])

    return {
        **{
            key: {model: {features: mean_sd(column(model, features, key)) for features in FEATURES} for model in MODELS}
            for key in ("accuracy", "training")
        },
        "claims": {
            "cnn_ahead": difference(("cnn", "in order"), ("mlp", "in order")),
            "cnn_ahead_shuffled": difference(("cnn", "shuffled"), ("mlp", "shuffled")),
            "cnn_loses": difference(("cnn", "in order"), ("cnn", "shuffled")),
            "mlp_loses": difference(("mlp", "in order"), ("mlp", "shuffled")),
        },
    }
