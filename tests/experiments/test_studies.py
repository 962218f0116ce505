"""The studies: the mathematics to the last bit, each of them end to end on few images, and what they say of it."""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv as fc
from fastconv import nn
from fastconv.experiments import data, studies
from fastconv.experiments.data import mnist1d as signals
from fastconv.experiments.equivariance import Config
from fastconv.experiments.equivariance import build as build_base
from fastconv.experiments.studies import figures, invariant, layers, mnist1d, reference, remedies, report, training

SMALL = Config(seeds=2, epochs=1, train_images=60, validation_images=30)


# ---- random shifts and models


def test_random_shifts_move_each_image_by_itself_and_fill_with_zeros() -> None:
    layer = training.RandomShift(2, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).random((40, 2, 6, 5), dtype=np.float32) + 1
    y = layer(x)
    found = set()
    for before, after in zip(x, y, strict=True):
        moves = [(r, d) for r in range(-2, 3) for d in range(-2, 3) if np.array_equal(data.shift(before, r, d), after)]
        assert len(moves) == 1
        found.update(moves)
    assert len(found) > 15  # of 25
    layer.eval()
    assert layer(x) is x


def test_the_gradient_of_random_shifts_is_the_adjoint() -> None:
    layer = training.RandomShift(3, rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    x, gy = (rng.integers(-4, 5, (9, 1, 8, 8)).astype(np.float64) for _ in range(2))
    y = layer(x)
    assert (y * gy).sum() == (x * layer.backward(gy)).sum()


def test_random_shifts_need_a_generator() -> None:
    with pytest.raises(RuntimeError, match=r"fastconv\.nn\.fit lends"):
        training.RandomShift()(np.zeros((1, 1, 4, 4)))


@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_without_remedies_the_models_are_the_base_experiments(model: str) -> None:
    ours, theirs = training.build(model, 3), build_base(model, 3)
    for name, values in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], values)


@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_all_remedies_are_where_they_belong(model: str) -> None:
    kinds = [type(layer).__name__ for layer in training.build(model, 0, remedies.REMEDIES)]
    assert kinds[0] == "RandomShift"
    assert kinds[-2:] == ["Dropout", "Linear"]
    for place, kind in enumerate(kinds):
        assert kind != "ReLU" or kinds[place - 1].startswith("BatchNorm")
    assert training.build(model, 0, remedies.REMEDIES).eval()(np.zeros((2, 1, 28, 28), np.float32)).shape == (2, 10)


# ---- the mathematics, exact


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((12, 1, 28, 28), dtype=np.float32)


def test_circular_layers_move_along_exactly_at_multiples_of_their_stride(backend: str, images: np.ndarray) -> None:
    model = training.build("cnn", 0, padding_mode="circular").eval()
    with fc.precision("strict"):
        found = layers.errors(model, images, layers.DIRECTIONS["diagonal"], circular=True)
    for layer, (_, stride, _, _) in layers.LAYERS.items():
        zero = [error == 0 for error in found[layer]["whole"]]
        assert zero == [shift % stride == 0 for shift in layers.SHIFTS], layer


@pytest.mark.parametrize("direction", layers.DIRECTIONS.values(), ids=list(layers.DIRECTIONS))
def test_zero_padding_keeps_it_in_the_interior_alone(images: np.ndarray, direction: tuple[int, int]) -> None:
    model = training.build("cnn", 0).eval()
    with fc.precision("strict"):
        found = layers.errors(model, images, direction, circular=False)
    for layer, (_, stride, _, _) in layers.LAYERS.items():
        multiples = [shift % stride == 0 for shift in layers.SHIFTS]
        assert [error == 0 for error in found[layer]["interior"]] == multiples, layer
        assert [error == 0 for error in found[layer]["whole"]] == [shift == 0 for shift in layers.SHIFTS], layer


def test_the_interior_is_what_sees_no_padding_and_nothing_that_moved_in() -> None:
    """Found by marking: an output is inside where no marked pixel, of the frame or moved in, changes it."""
    model = training.build("cnn", 0).eval()
    for depth, stride, first, size in layers.LAYERS.values():
        head = model[:depth]
        for distance in (0, 3, 4):
            image = np.ones((1, 1, 28, 28), np.float32)
            changed = np.zeros(head(image).shape[2:], bool)
            for column in range(distance):
                marked = image.copy()
                marked[..., column] = 50
                changed |= (head(marked) != head(image)).any(axis=(0, 1))
            around = nn.Sequential(*training.build("cnn", 0, padding_mode="circular"))[:depth].eval()
            changed |= (around(image) != head(image)).any(axis=(0, 1))
            inside = layers.interior(changed.shape[0], stride, first, size, distance, (1, 0))
            assert not (inside & changed).any()
            assert inside[1:-1].any(axis=0).tolist() == (~changed[1:-1]).any(axis=0).tolist()


@pytest.mark.parametrize("architecture", invariant.EXACT)
def test_exact_networks_keep_every_answer(architecture: str) -> None:
    dataset = data.load("fashion", train_images=200, validation_images=40)
    model = invariant.build(architecture, 0)
    training.train(model, (dataset.train_images, dataset.train_labels), lr=0.1, epochs=1, seed=0)
    counts = {"accuracy": 40, "random": 10, "one pixel": 10, "any": 1, "change": 10}
    found = invariant.measure(model, dataset, 0, counts)
    assert found["random"] == found["one pixel"] == found["any"] == 1
    assert found["change"] < 1e-4


def test_others_do_not(images: np.ndarray) -> None:
    """The measurement sees it where outputs change: a stride moves them, and a flattened network far more."""
    dataset = data.load("fashion", train_images=60, validation_images=30)
    counts = {"accuracy": 30, "random": 30, "one pixel": 10, "any": 1, "change": 30}
    changes = [
        invariant.measure(invariant.build(name, 0), dataset, 0, counts)["change"]
        for name in ("APS", "blur 5", "blur 3", "stride", "flattened CNN")
    ]
    assert changes == sorted(changes)
    assert changes[0] < 1e-4 < 1e-2 < changes[1]


def test_the_networks_are_those_of_the_protocol() -> None:
    x = np.zeros((2, 1, 28, 28), np.float32)
    for architecture in invariant.ARCHITECTURES:
        model = invariant.build(architecture, 0)
        assert model(x).shape == (2, 10)
        if architecture in invariant.POOLED:
            assert sum(p.size for p in model.parameters()) == 6218
    with pytest.raises(ValueError, match="architecture must be one of stride"):
        invariant.build("vit", 0)


def test_circular_shifts_are_numpys(images: np.ndarray) -> None:
    right, down = np.array([0, 3, 27]), np.array([5, 0, 1])
    moved = invariant.circular_shift(images[:3], right, down)
    for image, r, d, after in zip(images, right, down, moved):
        np.testing.assert_array_equal(after, np.roll(image, (d, r), axis=(-2, -1)))


# ---- MNIST-1D


def test_mnist1d_is_the_published_data_set() -> None:
    """Single numbers of what the authors' program makes with its seed."""
    made = signals.generate()
    assert made.train.shape == (4000, 40)
    assert made.test.shape == (1000, 40)
    np.testing.assert_allclose(made.train[0, :3], [-0.33200566736939013, -0.47191036565572375, -0.7786970762934954])
    np.testing.assert_allclose(made.test[-1, -2:], [0.8777343497528006, 1.1931518368352758])
    assert made.test_labels[:10].tolist() == [2, 6, 3, 9, 4, 3, 1, 9, 5, 2]
    whole = np.concatenate([made.train, made.test])
    assert abs(whole.mean()) < 1e-12
    assert whole.std() == pytest.approx(1)
    assert np.bincount(np.concatenate([made.train_labels, made.test_labels])).tolist() == [500] * 10


def test_mnist1d_with_another_seed_is_another_set() -> None:
    first, again, other = (signals.generate(seed, per_class=10) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.train, again.train)
    assert (first.train != other.train).any()


def test_mnist1d_models_agree_with_torch(torch: Any) -> None:
    """Outputs and gradients of the MLP, whose skip connection is no layer of fastconv.nn."""
    model = mnist1d.build("mlp", 0)
    x, gy = (np.random.default_rng(s).random(shape).astype(np.float32) for s, shape in enumerate([(5, 1, 40), (5, 10)]))
    weights = {name: torch.tensor(value, requires_grad=True) for name, value in model.state_dict().items()}
    w1, b1, w2, b2, w3, b3 = weights.values()
    hidden = torch.relu(torch.tensor(x[:, 0]) @ w1.T + b1)
    out = (hidden + torch.relu(hidden @ w2.T + b2)) @ w3.T + b3
    np.testing.assert_allclose(model(x), out.detach().numpy(), rtol=1e-5, atol=1e-6)
    out.backward(torch.tensor(gy))
    model.backward(gy)
    for parameter, weight in zip(model.parameters(), weights.values(), strict=True):
        np.testing.assert_allclose(parameter.grad, weight.grad.numpy(), rtol=1e-4, atol=1e-5)


# ---- the whole, on few images


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, Any]], Path]:
    """All studies on few images and steps, with their figures and report, and the folder that they are in."""
    out = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist1d, "STEPS", 50)
        few = {"accuracy": 30, "random": 10, "one pixel": 10, "any": 1, "change": 10}
        patch.setattr(invariant, "IMAGES", {"untrained": few, "trained": few})
        results = studies.run(studies.STUDIES, SMALL, out, jobs=1)
        for result in results.values():
            assert figures.draw(result, out / "figures")
        report.write(results, out)
    return results, out


def test_every_study_writes_what_it_returns(small: tuple[dict[str, dict[str, Any]], Path]) -> None:
    results, out = small
    assert list(results) == list(studies.STUDIES)
    for name, result in results.items():
        assert json.loads((out / f"{name}.json").read_text(encoding="utf-8")) == result
        assert result["study"] == name
        assert result["agreement"] is None  # not the standard protocol
        assert result["config"]["backend"] in fc.backends()
    assert len(results["remedies"]["cells"]) == 2 * 2 * (8 + 3)
    assert len(results["layers"]["cells"]) == 2 * 2 * 2
    assert len(results["invariant"]["cells"]) == 2 * len(invariant.ARCHITECTURES)
    assert len(results["mnist1d"]["cells"]) == 2 * 2 * 2


def test_remedies_measure_what_they_say(small: tuple[dict[str, dict[str, Any]], Path]) -> None:
    found = small[0]["remedies"]["summary"]["fashion"]
    for model in ("cnn", "mlp"):
        assert list(found["variants"][model]) == list(remedies.VARIANTS)
        assert len(found["variants"][model][remedies.LONGER]["gap"]) == 3
        for numbers in found["variants"][model].values():
            assert 0 <= numbers["shifted"]["mean"] <= 1
            assert numbers["shifted"]["n"] == 2
        assert found["variants"][model]["none"]["gain"]["difference"] == 0
    for cell in small[0]["remedies"]["cells"]:
        last = cell["measured"]["history"][-1]
        assert {key: cell["measured"][key] for key in last if key != "loss"} == {
            k: v for k, v in last.items() if k != "loss"
        }


def test_layers_are_exact_after_training(small: tuple[dict[str, dict[str, Any]], Path]) -> None:
    found = small[0]["layers"]["summary"]["fashion"]["errors"]["circular"]
    for state in ("trained", "untrained"):
        whole = found[state]["right"]["conv2"]["whole"]
        assert [numbers["mean"] == 0 for numbers in whole] == [shift % 4 == 0 for shift in range(9)]


def test_recovered_is_a_share_of_the_loss() -> None:
    assert remedies._recovered(0.9, 0.6, 1.0) == pytest.approx(0.75)
    assert remedies._recovered(0.9, 0.6, 0.6) is None


def test_the_figures_are_there_and_the_report_needs_no_other_file(
    small: tuple[dict[str, dict[str, Any]], Path],
) -> None:
    _, out = small
    drawn = list((out / "figures").glob("*.png"))
    assert len(drawn) == 3 + 3 + 2 + 2
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in drawn)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == len(drawn)
    assert not re.search(r"https?://|<script|<link|url\(", page)
    words = html.unescape(re.sub("<[^>]*>", " ", re.sub("<style>.*</style>", "", page, flags=re.DOTALL)))
    for title in report.TITLES.values():
        assert words.count(title) == 2  # in the contents and over its chapter
    assert words.count("What was measured") == words.count("What is known, and was not measured here") == 4
    assert "nan" not in words.lower().split()
    assert "conv2 moves along exactly at 0, 4 and 8 px" in words.replace("\N{NO-BREAK SPACE}", " ")


def test_the_command_adds_studies_to_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fastconv import cli

    command = ["equivariance", "--seeds", "1", "--epochs", "1", "--train-images", "60", "--validation-images", "30"]
    command += ["--jobs", "1", "--out", str(tmp_path)]
    assert cli.main([*command, "--study", "layers"]) == 0
    printed = capsys.readouterr()
    assert "conv2 moves along exactly at 0, 4 and 8 px" in " ".join(printed.out.split())
    assert "[4/4] layers" in printed.err
    assert cli.main([*command, "--study", "nonsense"]) == 2
    assert "a study is one of remedies, layers, invariant, mnist1d, got nonsense" in capsys.readouterr().err
    assert cli.main([*command, "--scheduler", "tcp://127.0.0.1:9"]) == 2
    assert "--scheduler is for the cells of a --study" in capsys.readouterr().err


# ---- agreement


def standing(mean: float, std: float | None = 0.01, n: int = 5) -> dict[str, Any]:
    return {"mean": mean, "std": std, "n": n}


def test_z_is_the_difference_in_standard_errors() -> None:
    assert reference.z(standing(0.95, 0.03, 9), standing(0.93, 0.0, 4)) == pytest.approx(2)
    assert reference.z(standing(0.9, None, 1), standing(0.92, 0.01, 1)) == pytest.approx(-math.sqrt(2))


def test_every_number_of_the_reference_finds_its_counterpart() -> None:
    table = {
        model: {name: {key: standing(0.5) for key in ("original", "shifted")} for name in remedies.VARIANTS}
        for model in ("cnn", "mlp")
    }
    summary = {dataset: {"variants": table} for dataset in ("mnist", "fashion-full", "mine")}
    found = reference.agreement("remedies", summary)
    entries = [entry for entry in reference.load()["accuracies"] if entry["study"] == "remedies"]
    assert found["n"] == len(entries) == len(found["rows"])
    assert {row["dataset"] for row in found["rows"]} == {"mnist", "fashion-full"}
    accuracy = {model: dict.fromkeys(mnist1d.FEATURES, standing(0.65)) for model in ("cnn", "mlp")}
    found = reference.agreement("mnist1d", {"accuracy": accuracy})
    assert [round(row["z"], 1) > 3 for row in found["rows"]] == [False, False, True, False]
    assert found["within_three"] == sum(abs(row["z"]) <= 3 for row in found["rows"])
