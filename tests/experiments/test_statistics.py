"""Means, standard deviations and paired tests, against NumPy and SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv.experiments import statistics


def make_runs(
    cnn: list[tuple[float, float]], mlp: list[tuple[float, float]], dataset: str = "d"
) -> list[dict[str, Any]]:
    return [
        {"dataset": dataset, "model": model, "seed": seed, "original": original, "shifted": shifted}
        for model, numbers in (("cnn", cnn), ("mlp", mlp))
        for seed, (original, shifted) in enumerate(numbers)
    ]


def test_mean_and_standard_deviation() -> None:
    values = np.random.default_rng(0).random(7).tolist()
    found = statistics.mean_sd(values)
    assert found["mean"] == pytest.approx(np.mean(values), rel=1e-14)
    assert found["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-13)
    assert found["n"] == 7
    assert statistics.mean_sd([0.5]) == {"mean": 0.5, "std": None, "n": 1}


def test_the_paired_test_is_scipys() -> None:
    from scipy import stats

    rng = np.random.default_rng(1)
    cnn, mlp = rng.random((6, 2)), rng.random((6, 2))
    found = statistics.paired(make_runs(cnn.tolist(), mlp.tolist()))["d"]
    for test, a, b in (
        (found, cnn[:, 1], mlp[:, 1]),
        (found["original"], cnn[:, 0], mlp[:, 0]),
        (found["drop"], mlp[:, 0] - mlp[:, 1], cnn[:, 0] - cnn[:, 1]),
    ):
        expected = stats.ttest_rel(a, b)
        assert test["t"] == pytest.approx(expected.statistic, rel=1e-9)
        assert test["p"] == pytest.approx(expected.pvalue, rel=1e-9)
        assert test["difference"] == pytest.approx(np.mean(a - b), rel=1e-12)
        assert test["positive"] == np.count_nonzero(a > b)
        assert test["n"] == 6


def test_a_positive_drop_difference_is_in_the_cnns_favour() -> None:
    found = statistics.paired(make_runs([(0.9, 0.8), (0.9, 0.7)], [(0.9, 0.3), (0.8, 0.3)]))["d"]
    assert found["drop"]["difference"] == pytest.approx((0.5 + 0.3) / 2)


@pytest.mark.parametrize("differences", [[0.25], [0.25, 0.25, 0.25]])
def test_where_there_is_nothing_to_test_there_is_no_p(differences: list[float]) -> None:
    found = statistics.paired_test(differences)
    assert found["t"] is None
    assert found["p"] is None
    assert found["difference"] == 0.25


def test_only_seeds_of_both_models_are_paired() -> None:
    found = statistics.paired(make_runs([(0.9, 0.5), (0.9, 0.6), (0.9, 0.7)], [(0.9, 0.4), (0.9, 0.4)]))["d"]
    assert found["n"] == 2
    assert found["difference"] == pytest.approx(0.15)


def test_summary_keeps_data_sets_apart() -> None:
    runs = make_runs([(0.5, 0.25)], [(0.5, 0.25)], "a") + make_runs([(1.0, 0.5)], [(1.0, 0.5)], "b")
    found = statistics.summary(runs)
    assert list(found) == ["a", "b"]
    assert found["a"]["cnn"]["drop"]["mean"] == 0.25
    assert found["b"]["mlp"]["original"]["mean"] == 1.0


def test_curves_and_maps_are_means_over_seeds() -> None:
    runs: list[dict[str, Any]] = make_runs([(0.9, 0.5), (0.9, 0.6)], [])
    for run, loss in zip(runs, (1.0, 3.0)):
        run["epochs"] = [{"loss": loss}, {"loss": loss / 2}]
        run["shift_map"] = [[loss, 0.0], [0.0, loss]]
    mean, std = statistics.mean_curves(runs, "d", "cnn", "loss")
    assert mean == [2.0, 1.0]
    assert std == pytest.approx([2**0.5, 2**-0.5])
    assert statistics.mean_map(runs, "d", "cnn") == [[2.0, 0.0], [0.0, 2.0]]
