"""What the studies share: the base experiment's models with remedies in them, random shifts, and the training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ... import nn
from ...nn.module import as_grad, as_input, no_forward
from .. import data
from ..equivariance import BATCH_SIZE, LEARNING_RATE, MOMENTUM, SHIFT

RANGE = 3  # augmentation moves images by up to so many pixels in each direction
DROPOUT = 0.25
HIDDEN = 30  # units of the MLP


class RandomShift(nn.Module):
    """In training moves each image by its own random whole numbers of pixels; what moves in is 0.

    reach: right and down are uniform on -reach, ..., reach. Input and output (N, C, H, W).
    rng: generator of the shifts; None inside of :func:`fastconv.nn.fit`, which lends a stream of its seed.

    The usual augmentation with shifted data. In evaluation it does nothing.
    """

    def __init__(self, reach: int = RANGE, *, rng: np.random.Generator | None = None):
        self.reach = reach
        self.rng = rng
        self._moves: tuple[np.ndarray, np.ndarray] | None = None  # of the latest forward: down and right
        self._shape: tuple[int, ...] | None = None
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def forward(self, x: Any) -> np.ndarray:
        x = as_input(x, self)
        self._shape, self._dtype, self._moves = x.shape, x.dtype, None
        if not self.training:
            return x
        if self.rng is None:
            raise RuntimeError("RandomShift draws from rng, or from the stream that fastconv.nn.fit lends it")
        down, right = self.rng.integers(-self.reach, self.reach + 1, (2, len(x)))
        self._moves = down, right
        return _moved(x, down, right, self.reach)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        if self._shape is None:
            raise no_forward(self)
        grad = as_grad(grad_output, self._shape, self._dtype, self)
        if self._moves is None:
            return grad
        down, right = self._moves
        return _moved(grad, -down, -right, self.reach)  # the adjoint of a shift is the shift back


def _moved(x: np.ndarray, down: np.ndarray, right: np.ndarray, reach: int) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    windows = sliding_window_view(padded, x.shape[2:], axis=(2, 3))
    return windows[np.arange(len(x)), :, reach - down, reach - right]


def build(model: str, seed: int, remedies: Collection[str] = (), padding_mode: str = "zeros") -> nn.Sequential:
    """The base experiment's ``"cnn"`` or ``"mlp"`` with ``"shifts"``, ``"dropout"`` and ``"batch norm"`` as asked.

    Random shifts come before the first layer, batch normalisation before each ReLU, dropout before the last layer.

    >>> [type(layer).__name__ for layer in build("mlp", 0, {"dropout", "batch norm"})]
    ['Flatten', 'Linear', 'BatchNorm1d', 'ReLU', 'Dropout', 'Linear']
    """
    rng = np.random.default_rng(seed)
    layers: list[nn.Module] = [RandomShift()] if "shifts" in remedies else []

    def hidden(layer: nn.Module, norm: type[nn.Module], channels: int) -> None:
        layers.append(layer)
        if "batch norm" in remedies:
            layers.append(norm(channels))  # type: ignore[call-arg]
        layers.append(nn.ReLU())

    if model == "cnn":
        for c_in, c_out in ((1, 5), (5, 10)):
            convolution = nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, padding_mode=padding_mode, rng=rng)
            hidden(convolution, nn.BatchNorm2d, c_out)
        layers.append(nn.Flatten())
        width = 490
    elif model == "mlp":
        layers.append(nn.Flatten())
        hidden(nn.Linear(data.SIDE**2, HIDDEN, rng=rng), nn.BatchNorm1d, HIDDEN)
        width = HIDDEN
    else:
        raise ValueError(f"model must be cnn or mlp, got {model!r}")
    if "dropout" in remedies:
        layers.append(nn.Dropout(DROPOUT))
    layers.append(nn.Linear(width, data.CLASSES, rng=rng))
    return nn.Sequential(*layers)


def train(
    model: nn.Module,
    images: tuple[np.ndarray, np.ndarray],
    *,
    lr: float,
    epochs: int,
    seed: int,
    validation: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> list[dict[str, float]]:
    """Train `model` as the base experiment does: cross-entropy, SGD with momentum, batches of 50.

    Returns for each epoch ``{"loss": training loss, NAME: accuracy on validation[NAME] after it}``.
    """
    history = nn.fit(
        model,
        images,
        loss=nn.CrossEntropyLoss(),
        optimizer=nn.SGD(model.parameters(), lr=lr, momentum=MOMENTUM),
        epochs=epochs,
        batch_size=BATCH_SIZE,
        seed=seed,
        validation=validation,
        progress=False,
    )
    return [
        {"loss": record["loss"], **{name: record[f"{name}_accuracy"] for name in validation or ()}}
        for record in history["epochs"]
    ]


def learning_rate(model: str) -> float:
    return LEARNING_RATE[model]


def shifted(images: np.ndarray) -> np.ndarray:
    """`images` as in the base experiment's shifted set: 2 px to the right and 2 px down, zeros moving in."""
    return data.shift(images, *SHIFT)


def in_batches(model: nn.Module, images: np.ndarray, size: int = 250) -> np.ndarray:
    """The outputs of `model`, in evaluation mode, for all `images`."""
    model.eval()
    return np.concatenate([model(images[start : start + size]) for start in range(0, len(images), size)])


Compute = Callable[[Mapping[str, Any], Any], dict[str, Any]]
