"""From the numbers of single runs to means, standard deviations and paired tests over seeds.

A run is a dictionary as in ``results.json``: ``{"dataset", "model", "seed", "original", "shifted", ...}``. The two
models of one seed saw the same batches of the same images, so they are compared seed by seed: the test is paired.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

MODELS = ("cnn", "mlp")
SETS = ("original", "shifted")
SIGNIFICANT = 0.05  # a difference is called significant where p is below this

Run = dict[str, Any]


def mean_sd(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for one value) and number of `values`.

    >>> mean_sd([1.0, 2.0, 3.0])
    {'mean': 2.0, 'std': 1.0, 'n': 3}
    """
    n = len(values)
    mean = math.fsum(values) / n
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else None
    return {"mean": mean, "std": std, "n": n}


def summary(runs: Iterable[Run]) -> dict[str, Any]:
    """``{dataset: {model: {"original": {"mean", "std", "n"}, "shifted": {...}, "drop": {...}}}}``.

    ``"drop"`` is the accuracy lost by the shift, original minus shifted.
    """
    runs = list(runs)
    table: dict[str, Any] = {}
    for dataset in dict.fromkeys(run["dataset"] for run in runs):
        table[dataset] = {}
        for model in MODELS:
            these = [run for run in runs if run["dataset"] == dataset and run["model"] == model]
            if these:
                table[dataset][model] = {name: mean_sd([run[name] for run in these]) for name in SETS}
                table[dataset][model]["drop"] = mean_sd([run["original"] - run["shifted"] for run in these])
    return table


def paired_test(differences: Sequence[float]) -> dict[str, Any]:
    """Student's t-test of the hypothesis that the `differences`, one a seed, have mean 0 (two-sided).

    Returns ``{"difference": their mean, "std", "n", "positive": how many are above 0, "t", "p"}``; t and p are None
    where there is nothing to test with: a single seed, or differences that are all the same but for rounding.

    >>> paired_test([0.1, 0.2, 0.3])["p"] < 0.1
    True
    """
    numbers = mean_sd(differences)
    result = {
        "difference": numbers["mean"],
        "std": numbers["std"],
        "n": numbers["n"],
        "positive": sum(value > 0 for value in differences),
        "t": None,
        "p": None,
    }
    if numbers["std"] is not None and numbers["std"] > 1e-12:
        from scipy import stats

        test = stats.ttest_1samp(differences, 0.0)
        result["t"], result["p"] = float(test.statistic), float(test.pvalue)
    return result


def paired(runs: Iterable[Run]) -> dict[str, Any]:
    """The two comparisons of each data set, CNN against MLP, over the seeds that both have.

    ``{dataset: {"difference", "t", "p", ...: the accuracy on the shifted images, CNN minus MLP;
    "drop": the same of the accuracy that the shift costs, MLP minus CNN (positive: the CNN loses less);
    "original": the same of the accuracy on the images as they are, CNN minus MLP}}``
    """
    runs = list(runs)
    table: dict[str, Any] = {}
    for dataset in dict.fromkeys(run["dataset"] for run in runs):
        by_model = {
            model: {run["seed"]: run for run in runs if run["dataset"] == dataset and run["model"] == model}
            for model in MODELS
        }
        seeds = sorted(set(by_model["cnn"]) & set(by_model["mlp"]))
        pairs = [(by_model["cnn"][seed], by_model["mlp"][seed]) for seed in seeds]
        if pairs:
            lost = [(cnn["original"] - cnn["shifted"], mlp["original"] - mlp["shifted"]) for cnn, mlp in pairs]
            table[dataset] = {
                **paired_test([cnn["shifted"] - mlp["shifted"] for cnn, mlp in pairs]),
                "original": paired_test([cnn["original"] - mlp["original"] for cnn, mlp in pairs]),
                "drop": paired_test([of_mlp - of_cnn for of_cnn, of_mlp in lost]),
            }
    return table


def mean_curves(runs: Iterable[Run], dataset: str, model: str, key: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (0 for one seed) of ``epochs[i][key]`` over the seeds, epoch by epoch."""
    rows = [
        [epoch[key] for epoch in run["epochs"]] for run in runs if (run["dataset"], run["model"]) == (dataset, model)
    ]
    points = [mean_sd(column) for column in zip(*rows, strict=True)]
    return [point["mean"] for point in points], [point["std"] or 0.0 for point in points]


def mean_map(runs: Iterable[Run], dataset: str, model: str) -> list[list[float]]:
    """Mean over the seeds of the accuracy at every shift: ``map[i][j]`` is ``i`` steps down and ``j`` steps right."""
    maps = [run["shift_map"] for run in runs if (run["dataset"], run["model"]) == (dataset, model)]
    return [[math.fsum(cells) / len(cells) for cells in zip(*rows, strict=True)] for rows in zip(*maps, strict=True)]
