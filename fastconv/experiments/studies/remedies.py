"""Study: do the proposed remedies (shifted training data, dropout, batch normalisation) help against the shift?

Every combination of the three for the CNN and the MLP, and three controls: training longer with shifted data, training
on the shifted set alone, and a fixed permutation of the pixels, which takes the neighbourhoods away that a convolution
lives on. After every epoch the accuracy on the training images themselves is taken too: what it is above that on the
validation images is the overfitting.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import data, statistics
from ..equivariance import Config
from ..statistics import MODELS
from . import training

NAME = "remedies"
PROTOCOL = 1
REMEDIES = ("shifts", "dropout", "batch norm")
FAR = 4  # px right and down: beyond the range of the augmentation
LEAST_LOSS = 0.01  # below it the part of the loss that is regained is not given: it would be a ratio of two noises
PERMUTATION_SEED = 0  # the same permutation for every model and seed


class Variant(NamedTuple):
    """How a model is trained."""

    remedies: tuple[str, ...] = ()
    train_on: str = "original"
    permuted: bool = False
    longer: int = 1  # factor of the number of epochs


def _combinations() -> dict[str, Variant]:
    chosen = (c for count in range(len(REMEDIES) + 1) for c in itertools.combinations(REMEDIES, count))
    return {" + ".join(remedies) or "none": Variant(remedies) for remedies in chosen}


COMBINATIONS = _combinations()
LONGER = "shifts, three times as long"
CONTROLS = {
    "trained on shifted": Variant(train_on="shifted"),
    "pixels permuted": Variant(permuted=True),
    LONGER: Variant(("shifts",), longer=3),
}
VARIANTS = COMBINATIONS | CONTROLS


def descriptions(config: Config) -> list[dict[str, Any]]:
    """The cells, the longest first."""
    ordered = sorted(VARIANTS.items(), key=lambda item: -item[1].longer - 0.1 * len(item[1].remedies))
    return [
        {"dataset": dataset, "model": model, "seed": seed, "variant": name, "epochs": config.epochs * variant.longer,
         **variant._asdict()}
        for name, variant in ordered
        for model in MODELS
        for dataset in config.datasets
        for seed in range(config.seeds)
    ]  # fmt: skip


def compute(what: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """One training: accuracies at the end and after every epoch."""
    dataset = config.load(what["dataset"])
    order = np.arange(data.SIDE**2)
    if what["permuted"]:
        order = np.random.default_rng(PERMUTATION_SEED).permutation(order)

    def seen(images: np.ndarray) -> np.ndarray:
        """As the model gets them; what is moved is moved before the pixels are permuted."""
        if not what["permuted"]:
            return images
        return np.ascontiguousarray(images.reshape(len(images), -1)[:, order].reshape(images.shape))

    labels = dataset.validation_labels
    training_images = dataset.train_images
    if what["train_on"] == "shifted":
        training_images = training.shifted(training_images)
    training_images = seen(training_images)
    model = training.build(what["model"], what["seed"], what["remedies"])
    history = training.train(
        model,
        (training_images, dataset.train_labels),
        lr=training.learning_rate(what["model"]),
        epochs=what["epochs"],
        seed=what["seed"],
        validation={
            "training": (training_images, dataset.train_labels),
            "original": (seen(dataset.validation_images), labels),
            "shifted": (seen(training.shifted(dataset.validation_images)), labels),
        },
    )
    far = seen(data.shift(dataset.validation_images, FAR, FAR))
    answers = training.in_batches(model, far).argmax(axis=1)
    return {
        **{key: history[-1][key] for key in ("original", "shifted", "training")},
        "far": float(np.mean(answers == labels)),
        "history": history,
    }


# ---- summary


def summarise(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations over the seeds, and the tests, all paired by seed.

    cells: descriptions and measurements in one dictionary each.
    """
    datasets = list(dict.fromkeys(cell["dataset"] for cell in cells))
    return {dataset: _of_dataset([c for c in cells if c["dataset"] == dataset]) for dataset in datasets}


def _of_dataset(cells: list[dict[str, Any]]) -> dict[str, Any]:
    runs = {(cell["model"], cell["variant"], cell["seed"]): cell for cell in cells}
    seeds = sorted({cell["seed"] for cell in cells})
    table: dict[str, Any] = {}
    for model in MODELS:
        table[model] = {}
        for variant in VARIANTS:
            rows = [(runs[model, variant, seed], runs[model, "none", seed]) for seed in seeds]
            epochs = range(len(rows[0][0]["history"]))
            gaps = [[row["history"][e]["training"] - row["history"][e]["original"] for row, _ in rows] for e in epochs]
            table[model][variant] = {
                **{key: statistics.mean_sd([row[key] for row, _ in rows]) for key in ("original", "shifted", "far")},
                "gap": [statistics.mean_sd(gap) for gap in gaps],
                "recovered": _recovered(
                    _mean([row["shifted"] for row, _ in rows]),
                    _mean([none["shifted"] for _, none in rows]),
                    _mean([none["original"] for _, none in rows]),
                ),
                "gain": statistics.paired_test([row["shifted"] - none["shifted"] for row, none in rows]),
                "gap_change": statistics.paired_test([_gap(row) - _gap(none) for row, none in rows]),
            }
    both = [tuple(runs[model, "none", seed] for model in MODELS) for seed in seeds]
    permuted = [tuple(runs[model, "pixels permuted", seed] for model in MODELS) for seed in seeds]
    return {
        "variants": table,
        "claims": {
            "mlp_overfits_more": statistics.paired_test([_gap(mlp) - _gap(cnn) for cnn, mlp in both]),
            "cnn_ahead": statistics.paired_test([cnn["original"] - mlp["original"] for cnn, mlp in both]),
            "cnn_ahead_permuted": statistics.paired_test([cnn["original"] - mlp["original"] for cnn, mlp in permuted]),
            **{
                f"{model}_swapped_set": statistics.paired_test(
                    [
                        runs[model, "trained on shifted", s]["shifted"] - runs[model, "none", s]["original"]
                        for s in seeds
                    ]
                )
                for model in MODELS
            },
        },
    }


def _gap(run: dict[str, Any]) -> float:
    return float(run["training"] - run["original"])


def _mean(values: list[float]) -> float:
    return float(statistics.mean_sd(values)["mean"])


def _recovered(shifted: float, none_shifted: float, none_original: float) -> float | None:
    """Which part of the accuracy that the shift takes from the plain model this one has back; None where it takes none.

    >>> round(_recovered(0.9, 0.6, 1.0), 3)
    0.75
    """
    lost = none_original - none_shifted
    return (shifted - none_shifted) / lost if lost > LEAST_LOSS else None
