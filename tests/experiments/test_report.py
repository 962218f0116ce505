"""Figures and report from made-up numbers: the files stand alone, and the words follow the numbers."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv.experiments import data, equivariance, figures, report, statistics
from fastconv.experiments.page import p_value

PNG = b"\x89PNG\r\n\x1a\n"
# Accuracies (original, shifted) of the CNN and the MLP, seed by seed.
CLEAR = ([(0.96, 0.57), (0.97, 0.59), (0.96, 0.56)], [(0.94, 0.40), (0.94, 0.41), (0.93, 0.39)])
UNCLEAR = ([(0.85, 0.45), (0.86, 0.40), (0.85, 0.44)], [(0.85, 0.42), (0.84, 0.43), (0.86, 0.41)])
WORSE = (CLEAR[1], CLEAR[0])
ONE = ([(0.96, 0.57)], [(0.94, 0.40)])
NO_DROP = ([(0.9, 0.91), (0.9, 0.93), (0.9, 0.92)], [(0.8, 0.81), (0.8, 0.84), (0.8, 0.83)])


def make_results(**datasets: tuple[list[tuple[float, float]], list[tuple[float, float]]]) -> dict[str, Any]:
    """What the experiment would have returned for these accuracies."""
    runs = []
    for dataset, by_model in datasets.items():
        for model, numbers in zip(statistics.MODELS, by_model):
            for seed, (original, shifted) in enumerate(numbers):
                epochs = [{"loss": 1.0, "original": original / 2, "shifted": shifted / 2}]
                epochs.append({"loss": 0.5, "original": original, "shifted": shifted})
                around = np.full((9, 9), shifted)
                around[4, 4] = original
                runs.append(
                    {"dataset": dataset, "model": model, "seed": seed, "original": original, "shifted": shifted,
                     "epochs": epochs, "shift_map": around.tolist(), "seconds": 1.0}
                )  # fmt: skip
    count = max(len(numbers) for by_model in datasets.values() for numbers in by_model)
    return {
        "fastconv": "0",
        "config": {
            "datasets": list(datasets), "seeds": count, "epochs": 2, "train_images": 10, "validation_images": 10,
            "batch_size": 50, "momentum": 0.9, "learning_rate": {"cnn": 0.01, "mlp": 0.05}, "shift": [2, 2],
            "backend": "cython", "isa": "avx2", "jobs": 1,
        },
        "versions": {"numpy": "2"},
        "machine": "a <machine> & more",
        "finished": "2020-01-01T00:00:00+00:00",
        "data": {name: {"source": "made up", "sha256": "0" * 64} for name in datasets},
        "runs": runs,
        "summary": statistics.summary(runs),
        "paired": statistics.paired(runs),
        "shift_map": {
            "shifts": list(range(-4, 5)),
            "accuracy": {d: {m: statistics.mean_map(runs, d, m) for m in statistics.MODELS} for d in datasets},
        },
    }  # fmt: skip


def words(page: str) -> str:
    """The text of a page, as a reader sees it."""
    text = re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))
    return html.unescape(text).replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The report of two made-up data sets, with its figures."""
    out = tmp_path_factory.mktemp("report")
    results = make_results(clear=CLEAR, unclear=UNCLEAR)
    images = np.random.default_rng(0).random((20, 1, 28, 28)).astype(np.float32)
    labels = np.arange(20) % 10
    datasets = {
        name: data.Dataset(name, "made up", images, labels, images, labels, "") for name in ("clear", "unclear")
    }
    drawn = figures.draw(results, datasets, out / "figures")
    assert {path.name for path in drawn} == {
        "accuracies.png", "learning_curves.png", "shift_maps.png", "examples-clear.png", "examples-unclear.png",
    }  # fmt: skip
    return report.write(results, out).read_text(encoding="utf-8"), out


def test_the_figures_are_png_files_of_a_useful_size(page: tuple[str, Path]) -> None:
    for path in (page[1] / "figures").iterdir():
        content = path.read_bytes()
        assert content[:8] == PNG, path
        width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
        assert 800 <= width <= 3000
        assert 250 <= height <= 3000


def test_the_report_needs_no_other_file(page: tuple[str, Path]) -> None:
    text, _ = page
    sources = re.findall(r"""\b(?:src|href|srcset|data|action|poster)\s*=\s*["']([^"']*)""", text)
    assert len(sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    for tag in ("<script", "<link", "<iframe", "<object", "@import", "url("):
        assert tag not in text
    assert not re.findall(r"https?://", text)


def test_the_report_suits_phones_and_the_dark(page: tuple[str, Path]) -> None:
    text, _ = page
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text
    assert "overflow-x: auto" in text  # a wide table scrolls by itself
    assert text.count("<img alt=") == 5


def test_the_report_is_well_formed(page: tuple[str, Path]) -> None:
    text, _ = page
    open_tags: list[str] = []
    for closing, tag in re.findall(r"<(/?)([a-z0-9]+)", text.replace("<!DOCTYPE", "")):
        if tag in ("meta", "img"):
            continue
        if closing:
            assert open_tags.pop() == tag
        else:
            open_tags.append(tag)
    assert not open_tags
    assert "a &lt;machine&gt; &amp; more" in text


def test_what_was_measured_is_apart_from_what_is_known(page: tuple[str, Path]) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", page[0])
    assert headings.index("What was measured") < headings.index("What is known, and was not measured here")


def test_numbers_stay_with_their_units(page: tuple[str, Path]) -> None:
    assert not re.search(r"[0-9] [%±]|± [0-9]", html.unescape(page[0]))


def test_a_tiny_p_is_written_as_a_power_of_ten() -> None:
    assert p_value({"n": 10, "p": 9.71e-9}) == "paired t-test over 10 seeds, p = 9.7 \N{MULTIPLICATION SIGN} 10⁻⁹"
    assert p_value({"n": 10, "p": 0.0123}) == "paired t-test over 10 seeds, p = 0.012"


def test_every_number_is_in_the_report(page: tuple[str, Path]) -> None:
    text = words(page[0])
    for name in ("96.3 ± 0.6 %", "57.3 ± 1.5 %", "93.7 ± 0.6 %", "40.0 ± 1.0 %", "97.00 %", "39.00 %"):
        assert name in text, name


# ---- words that follow the numbers


def sentences(name: str, **datasets: Any) -> str:
    results = make_results(**datasets)
    return " ".join([report.answer(results, name), *report.findings(results, name), *report.conclusions(results)])


def test_a_clear_difference_is_called_one() -> None:
    text = sentences("d", d=CLEAR)
    assert "The CNN is 17.3 points better than the MLP on the moved images, more than chance explains" in text
    assert "at 3 of 3 seeds the CNN is ahead" in text
    assert "On d the CNN is the more accurate on the shifted images." in text
    assert "On d the CNN loses less by the shift." in text
    assert "not shown" not in text


def test_an_unclear_difference_is_not_called_a_result() -> None:
    text = sentences("d", d=UNCLEAR)
    assert "which chance may explain" in text
    assert "neither model is shown to be the more robust" in text
    assert "it is not shown that the CNN is the more accurate on the shifted images" in text
    assert "more than chance explains" not in text
    assert " better than" not in text


def test_the_other_way_round_is_said_the_other_way_round() -> None:
    text = sentences("d", d=WORSE)
    assert "The CNN is 17.3 points worse than the MLP on the moved images, more than chance explains" in text
    assert "at 0 of 3 seeds the CNN is ahead" in text
    assert "On d the MLP is the more accurate on the shifted images." in text
    assert "On d the MLP loses less by the shift." in text


def test_one_seed_is_no_test() -> None:
    text = sentences("d", d=ONE)
    assert "with one seed there is no test" in text
    assert "p =" not in text
    assert "chance explains" not in text
    assert "takes several seeds" in text
    protocol = " ".join(report._protocol(make_results(d=ONE)))
    assert "run once, with one seed" in protocol
    assert "±" not in text


def test_where_nothing_is_lost_nothing_is_said_to_be_lost() -> None:
    text = sentences("d", d=NO_DROP)
    assert "No model lost accuracy by the shift" in text
    assert "invariant" not in text
    assert "loses accuracy" not in text


def test_data_sets_that_differ_are_told_apart() -> None:
    text = " ".join(report.conclusions(make_results(a=CLEAR, b=UNCLEAR, c=CLEAR)))
    assert "On a and c the CNN is the more accurate on the shifted images." in text
    assert "On b it is not shown that the CNN is the more accurate on the shifted images." in text


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (CLEAR, r"17\.3 points better than the MLP \(better at 3 of 3 seeds; paired t = .*: significant at 0\.05\)"),
        (UNCLEAR, r"points better than the MLP \(better at 2 of 3 seeds; .*: not significant at 0\.05\)"),
        (ONE, r"17\.0 points better than the MLP \(one seed: no test\)"),
    ],
)
def test_the_line_below_the_table(numbers: Any, expected: str) -> None:
    (line,) = equivariance.verdicts(make_results(d=numbers))
    assert re.search(expected, line), line


def test_the_table_has_mean_and_standard_deviation() -> None:
    console = pytest.importorskip("rich.console", reason="rich is not installed: there is no table")
    shown = console.Console(width=100)
    with shown.capture() as capture:
        shown.print(equivariance.table(make_results(d=CLEAR)))
    lines = capture.get().splitlines()
    (cnn,) = [line for line in lines if "CNN" in line]
    assert "96.33 ± 0.58" in cnn
    assert "57.33 ± 1.53" in cnn
    assert "over 3 seeds" in lines[0]
