"""Study: networks that are invariant to shifts by the way they are built.

Three circular 3x3 convolutions (8, 16 and 32 channels), global average pooling and a linear layer, 6,218 parameters;
between the convolutions two downsamplings, each by one of several ways, or none. Beside them the base experiment's
CNN, with circular padding, and its MLP. Measured before and after training: accuracy, and consistency, the share of
answers that stay when the image is shifted around the edge. Before training a network gives nearly all images the same
answer and looks consistent; what counts there is the change of its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ... import nn, settings
from .. import data, statistics
from ..equivariance import Config
from . import training

NAME = "invariant"
PROTOCOL = 1
LEARNING_RATE = 0.1  # of the networks with global average pooling
CHANNELS = (8, 16, 32)
DOWNSAMPLINGS = 2
FLAT = {"flattened CNN": "cnn", "MLP": "mlp"}  # those of the base experiment
BLURS = {"blur 3": 3, "blur 5": 5}
POOLED = ("stride", "max pooling", *BLURS, "APS", "stride 1")
EXACT = ("APS", "stride 1")  # invariant by construction
ARCHITECTURES = (*POOLED, *FLAT)
SEEDS = 3  # at most: these are the longest trainings of the studies
# How many validation images each number is from; "any" means all 784 shifts of an image.
IMAGES = {
    "untrained": {"accuracy": 1000, "random": 250, "one pixel": 250, "any": 5, "change": 250},
    "trained": {"accuracy": data.SPLIT, "random": 500, "one pixel": 500, "any": 25, "change": 250},
}
DRAWS = 4  # random shifts of each image
ONE_PIXEL = ((1, 0), (-1, 0), (0, 1), (0, -1))


def descriptions(config: Config) -> list[dict[str, Any]]:
    """The cells, the longest first."""
    order = ("stride 1", "APS", *BLURS, "max pooling", "stride", *FLAT)
    return [
        {"dataset": dataset, "architecture": architecture, "seed": seed, "epochs": config.epochs}
        for architecture in order
        for dataset in config.datasets
        for seed in range(min(config.seeds, SEEDS))
    ]


def build(architecture: str, seed: int) -> nn.Sequential:
    """The network called `architecture`, initialised from `seed`.

    >>> sum(p.size for p in build("APS", 0).parameters())
    6218
    """
    if architecture in FLAT:
        return training.build(FLAT[architecture], seed, padding_mode="circular")
    rng = np.random.default_rng(seed)
    layers: list[nn.Module] = []
    c_in = 1
    for number, c_out in enumerate(CHANNELS):
        down = number < DOWNSAMPLINGS
        stride = 2 if down and architecture == "stride" else 1
        layers += [nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, padding_mode="circular", rng=rng), nn.ReLU()]
        if down:
            layers += _downsampling(architecture, c_out)
        c_in = c_out
    return nn.Sequential(*layers, nn.GlobalAvgPool(), nn.Linear(c_in, data.CLASSES, rng=rng))


def _downsampling(architecture: str, channels: int) -> list[nn.Module]:
    """What comes after a ReLU to halve the map's sides; nothing where the convolution did it, or nobody does."""
    if architecture == "max pooling":
        return [nn.MaxPool2d(2)]
    if architecture in BLURS:
        return [nn.BlurPool2d(channels, BLURS[architecture], padding_mode="circular")]
    if architecture == "APS":
        return [nn.AdaptivePolyphase2d()]
    if architecture in ("stride", "stride 1"):
        return []
    raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")


def compute(what: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """One network: ``{"untrained": measurements, "trained": measurements}``."""
    dataset = config.load(what["dataset"])
    architecture = what["architecture"]
    model = build(architecture, what["seed"])
    untrained = measure(model, dataset, what["seed"], IMAGES["untrained"])
    training.train(
        model,
        (dataset.train_images, dataset.train_labels),
        lr=training.learning_rate(FLAT[architecture]) if architecture in FLAT else LEARNING_RATE,
        epochs=what["epochs"],
        seed=what["seed"],
    )
    return {"untrained": untrained, "trained": measure(model, dataset, what["seed"], IMAGES["trained"])}


def measure(model: nn.Sequential, dataset: data.Dataset, seed: int, counts: Mapping[str, int]) -> dict[str, float]:
    """Accuracies, consistencies and the change of the outputs under circular shifts, all as fractions.

    "change" is the root mean square of logits(shift x) - logits(x) over that of logits(x) - their mean over the images:
    1 means that a shift changes the outputs as much as another image does.
    """
    images, labels = (part[: counts["accuracy"]] for part in (dataset.validation_images, dataset.validation_labels))
    rng = np.random.default_rng([seed, 1])

    def outputs(of: np.ndarray) -> np.ndarray:
        return training.in_batches(model, of)

    def answers(of: np.ndarray) -> np.ndarray:
        return outputs(of).argmax(axis=1)

    # Sums in one and the same order at every place: a shift must not change an output by rounding.
    with settings.precision("strict"):
        here = answers(images)
        some = {name: images[:count] for name, count in counts.items()}
        random = [_stays(answers, some["random"], here, _draw(rng)) for _ in range(DRAWS)]
        around = [_stays(answers, some["one pixel"], here, _always(*step)) for step in ONE_PIXEL]
        right, down = np.indices((data.SIDE, data.SIDE)).reshape(2, -1)
        copies = (np.broadcast_to(image, (len(right), *image.shape)) for image in some["any"])
        kept = [np.all(answers(circular_shift(x, right, down)) == answer) for x, answer in zip(copies, here)]
        still = outputs(some["change"])
        moved = outputs(circular_shift(some["change"], *_draw(rng)(len(still))))
        return {
            "accuracy": float(np.mean(here == labels)),
            "shifted": float(np.mean(answers(training.shifted(images)) == labels)),
            "random": float(np.mean(random)),
            "one pixel": float(np.mean(around)),
            "any": float(np.mean(kept)),
            "change": _rms(moved - still) / _rms(still - still.mean(axis=0)),
            "classes": len(np.unique(here)),
        }


_Moves = Callable[[int], tuple[np.ndarray, np.ndarray]]


def _draw(rng: np.random.Generator) -> _Moves:
    def moves(count: int) -> tuple[np.ndarray, np.ndarray]:
        right, down = rng.integers(0, data.SIDE, (2, count))
        return right, down

    return moves


def _always(right: int, down: int) -> _Moves:
    return lambda count: (np.full(count, right), np.full(count, down))


def _stays(
    answers: Callable[[np.ndarray], np.ndarray], images: np.ndarray, here: np.ndarray, moves: _Moves
) -> np.ndarray:
    """For each image whether its answer is the same after its shift."""
    return answers(circular_shift(images, *moves(len(images)))) == here[: len(images)]


def circular_shift(images: np.ndarray, right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """`images` (N, C, H, W), each moved by its own `right` and `down` pixels around the edge.

    >>> circular_shift(np.array([[[[1, 2, 3]]]]), np.array([1]), np.array([0])).tolist()
    [[[[3, 1, 2]]]]
    """
    height, width = images.shape[2:]
    rows = (np.arange(height) - down[:, None]) % height
    columns = (np.arange(width) - right[:, None]) % width
    count, channels = np.arange(len(images))[:, None, None, None], np.arange(images.shape[1])[:, None, None]
    return images[count, channels, rows[:, None, :, None], columns[:, None, None, :]]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values.astype(np.float64)))))


# ---- summary


def summarise(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``{dataset: {architecture: {"untrained"/"trained": {quantity: mean_sd}}}}`` over the seeds."""
    table: dict[str, Any] = {}
    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        table[dataset] = {}
        for architecture in ARCHITECTURES:
            rows = [c for c in cells if (c["dataset"], c["architecture"]) == (dataset, architecture)]
            table[dataset][architecture] = {
                state: {key: statistics.mean_sd([row[state][key] for row in rows]) for key in rows[0][state]}
                for state in ("untrained", "trained")
            }
    return table
