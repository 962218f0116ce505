"""The experiment itself, on few images: what it writes, that it repeats, and that it goes on after any kind of end."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv as fc
from fastconv import nn
from fastconv.experiments import data, equivariance, statistics
from fastconv.experiments.data import write_idx
from fastconv.experiments.equivariance import Cell, Config, build, run

SMALL: dict[str, Any] = {"seeds": 2, "epochs": 1, "train_images": 300, "validation_images": 60}
REPEATABLE = ("dataset", "model", "seed", "original", "shifted", "shift_map")


def outcome(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What of the runs must be the same every time: everything but the durations."""
    losses = ("loss", "original", "shifted", "training")
    return [
        {**{key: r[key] for key in REPEATABLE}, "epochs": [[epoch[key] for key in losses] for epoch in r["epochs"]]}
        for r in results["runs"]
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The results of a small experiment, and the folder that it left."""
    out = tmp_path_factory.mktemp("small")
    return run(Config(**SMALL), out, jobs=1), out


# ---- the models


def test_the_models_are_those_of_the_protocol() -> None:
    cnn, mlp = build("cnn", 0), build("mlp", 0)
    assert {name: p.shape for name, p in cnn.named_parameters()} == {
        "0.weight": (5, 1, 4, 4), "0.bias": (5,), "2.weight": (10, 5, 4, 4), "2.bias": (10,),
        "5.weight": (10, 490), "5.bias": (10,),
    }  # fmt: skip
    assert {name: p.shape for name, p in mlp.named_parameters()} == {
        "1.weight": (30, 784), "1.bias": (30,), "3.weight": (10, 30), "3.bias": (10,),
    }  # fmt: skip
    x = np.zeros((2, 1, 28, 28), np.float32)
    assert [cnn[:depth](x).shape for depth in (1, 3, 6)] == [(2, 5, 14, 14), (2, 10, 7, 7), (2, 10)]
    assert mlp(x).shape == (2, 10)
    with pytest.raises(ValueError, match="model must be one of cnn, mlp"):
        build("vit", 0)


def test_the_seed_decides_the_initial_weights() -> None:
    for model in statistics.MODELS:
        first, again, other = (build(model, seed).state_dict() for seed in (3, 3, 4))
        for key, values in first.items():
            np.testing.assert_array_equal(values, again[key])
            assert (values != other[key]).any()


# ---- results


def test_results_have_the_promised_shape(small: tuple[dict[str, Any], Path]) -> None:
    results, out = small
    assert json.loads((out / "results.json").read_text(encoding="utf-8")) == results
    assert results["fastconv"] == fc.__version__
    assert results["config"]["seeds"] == 2
    assert results["config"]["datasets"] == ["fashion"]
    assert results["config"]["backend"] in fc.backends()
    assert {"python", "numpy"} <= set(results["versions"])
    assert [(r["dataset"], r["model"], r["seed"]) for r in results["runs"]] == [
        ("fashion", model, seed) for model in ("cnn", "mlp") for seed in (0, 1)
    ]
    for one in results["runs"]:
        assert 0 <= one["shifted"] <= 1
        assert len(one["epochs"]) == 1
        assert {"loss", "original", "shifted"} <= set(one["epochs"][0])
        assert math.isfinite(one["epochs"][0]["loss"])
        assert one["epochs"][-1]["original"] == one["original"]
        assert one["epochs"][-1]["shifted"] == one["shifted"]
    for model in ("cnn", "mlp"):
        for kind in ("original", "shifted"):
            values = [r[kind] for r in results["runs"] if r["model"] == model]
            numbers = results["summary"]["fashion"][model][kind]
            assert numbers == {
                "mean": pytest.approx(np.mean(values)),
                "std": pytest.approx(np.std(values, ddof=1)),
                "n": 2,
            }
    assert {"difference", "t", "p"} <= set(results["paired"]["fashion"])


def test_the_shift_map_agrees_with_the_two_sets(small: tuple[dict[str, Any], Path]) -> None:
    results, _ = small
    assert results["shift_map"]["shifts"] == list(range(-4, 5))
    for one in results["runs"]:
        assert np.shape(one["shift_map"]) == (9, 9)
        assert one["shift_map"][4][4] == one["original"]
        assert one["shift_map"][6][6] == one["shifted"]


def test_the_shift_map_has_down_along_its_first_axis(tmp_path: Path) -> None:
    """A model whose answer is told by the row of a single bright pixel notices shifts down, and no shifts right."""
    images = np.zeros((40, 28, 28), np.uint8)
    labels = np.arange(40, dtype=np.uint8) % 10
    images[np.arange(40), 9 + labels, 14] = 255
    write_idx(tmp_path / "train-images-idx3-ubyte", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte", labels)

    class RowOfPixel(nn.Module):
        def forward(self, x: Any) -> np.ndarray:
            return np.ascontiguousarray(x.sum(axis=(1, 3))[:, 9:19])

        def backward(self, grad_output: np.ndarray) -> np.ndarray:
            return grad_output

    config = Config({"rows": str(tmp_path)}, train_images=20, validation_images=20)
    dataset = config.load("rows")
    images, labels = dataset.validation_images, dataset.validation_labels
    found = equivariance.shift_map(RowOfPixel(), images, labels)
    assert found[4] == [1.0] * 9
    assert max(max(row) for row in found[:4] + found[5:]) <= 0.2


def test_training_learns(tmp_path: Path) -> None:
    results = run(Config(seeds=1, epochs=3, train_images=2000, validation_images=200), tmp_path, jobs=1)
    for one in results["runs"]:
        assert one["original"] > 0.5, one["model"]
        assert one["epochs"][-1]["loss"] < one["epochs"][0]["loss"]


def test_no_leftovers(small: tuple[dict[str, Any], Path]) -> None:
    _, out = small
    runs = {f"fashion-{model}-{seed}.json" for model in ("cnn", "mlp") for seed in (0, 1)}
    assert {file.name for file in (out / "runs").iterdir()} == {"settings.json", *runs}


def test_the_same_seed_gives_the_same_numbers_in_processes_side_by_side(
    small: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    events: list[equivariance.Event] = []
    again = run(Config(**SMALL), tmp_path, jobs=2, watch=events.append)
    assert outcome(again) == outcome(small[0])
    finished = [event.cell for event in events if event.finished]
    assert sorted(finished) == sorted(equivariance.cells(Config(**SMALL)))


def test_every_backend_can_be_asked_for(backend: str, tmp_path: Path) -> None:
    config = Config(seeds=1, epochs=1, train_images=50, validation_images=10, backend=backend)
    assert run(config, tmp_path, jobs=1)["config"]["backend"] == backend


def test_several_data_sets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_idx(tmp_path / "train-images.idx3-ubyte", rng.integers(0, 256, (400, 28, 28), np.uint8))
    write_idx(tmp_path / "train-labels.idx1-ubyte", rng.integers(0, 10, 400, np.uint8))
    config = Config({"noise": str(tmp_path), "fashion": None}, **{**SMALL, "seeds": 1})
    results = run(config, tmp_path / "out", jobs=1)
    assert list(results["summary"]) == list(results["paired"]) == ["noise", "fashion"]
    assert results["data"]["noise"]["sha256"] != results["data"]["fashion"]["sha256"]
    assert str(tmp_path) not in json.dumps(results)  # where somebody keeps their files is nobody's business


@pytest.mark.parametrize("arguments", [{"datasets": {"../up": None}}, {"datasets": {}}, {"seeds": 0}, {"epochs": 0}])
def test_a_config_that_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"data set|at least one"):
        Config(**arguments)


@pytest.mark.parametrize("jobs", [0, -1])
def test_jobs_are_at_least_one(tmp_path: Path, jobs: int) -> None:
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        run(Config(**SMALL), tmp_path / "out", jobs=jobs)
    assert not (tmp_path / "out").exists()


# ---- going on


def test_resume_keeps_what_is_finished_and_adds_seeds(small: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    run(Config(**{**SMALL, "seeds": 1}), tmp_path, jobs=1)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").glob("fashion-*.json")}
    more = run(Config(**SMALL), tmp_path, jobs=1, resume=True)
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert outcome(more) == outcome(small[0])


def test_without_resume_everything_is_run_again(tmp_path: Path) -> None:
    config = Config(**{**SMALL, "seeds": 1})
    run(config, tmp_path, jobs=1)
    marked = Cell("fashion", "cnn", 0).file(tmp_path / "runs", ".json")
    equivariance.write_json(marked, {**equivariance.read_json(marked), "original": 2.0})
    assert run(config, tmp_path, jobs=1)["runs"][0]["original"] <= 1


def test_resume_refuses_runs_with_other_settings(tmp_path: Path) -> None:
    run(Config(**{**SMALL, "seeds": 1}), tmp_path, jobs=1)
    with pytest.raises(ValueError, match=r"epochs was 1, is 2.*choose another --out, or leave out --resume"):
        run(Config(**{**SMALL, "seeds": 1, "epochs": 2}), tmp_path, jobs=1, resume=True)


def test_resume_refuses_other_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    config = Config({"mine": str(tmp_path)}, **{**SMALL, "seeds": 1})
    for _ in range(2):
        write_idx(tmp_path / "train-images-idx3-ubyte", rng.integers(0, 256, (400, 28, 28), np.uint8))
        write_idx(tmp_path / "train-labels-idx1-ubyte", rng.integers(0, 10, 400, np.uint8))
        data.load.cache_clear()
        if not (tmp_path / "out").exists():
            run(config, tmp_path / "out", jobs=1)
    with pytest.raises(ValueError, match="the images of mine are others"):
        run(config, tmp_path / "out", jobs=1, resume=True)


LONG = {"seeds": 1, "epochs": 40, "train_images": 1000, "validation_images": 20}


def start(out: Path, jobs: int) -> subprocess.Popen[str]:
    """The command in a session of its own, as from a terminal, once there is a first checkpoint."""
    command = [sys.executable, "-m", "fastconv", "equivariance", "--out", str(out), "--jobs", str(jobs)]
    for name, value in LONG.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    # A test run in the background of a shell has Ctrl-C ignored and hands that down; at a terminal it is not ignored.
    inherited = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, inherited)
    checkpoint = Cell("fashion", "cnn", 0).file(out / "runs", ".safetensors")
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint in two minutes"
        time.sleep(0.01)
    return process


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return outcome(run(Config(**LONG), tmp_path_factory.mktemp("uninterrupted"), jobs=1))


def wait_for_the_end_of(group: int) -> None:
    """Until no process of the group is left: the workers, and joblib's own helper that clears up after them."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("a worker outlived its parent")


def test_resume_after_kill_gives_the_same_numbers(tmp_path: Path, uninterrupted: list[dict[str, Any]]) -> None:
    process = start(tmp_path, jobs=2)
    process.kill()
    process.communicate(timeout=60)
    wait_for_the_end_of(process.pid)
    assert not Cell("fashion", "cnn", 0).file(tmp_path / "runs", ".json").exists(), "finished before it was killed"
    assert not (tmp_path / "results.json").exists()
    results = run(Config(**LONG), tmp_path, jobs=1, resume=True)
    assert outcome(results) == uninterrupted


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_says_how_to_go_on(tmp_path: Path, jobs: int) -> None:
    process = start(tmp_path, jobs)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "with checkpoints of the others: to go on, give the same command with --resume" in errors.splitlines()[-1]
    assert Cell("fashion", "cnn", 0).file(tmp_path / "runs", ".safetensors").exists()
    wait_for_the_end_of(process.pid)


def test_a_worker_that_fails_is_an_error_of_the_whole(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "fashion-cnn-0.safetensors").mkdir()  # where a checkpoint is to be written
    with pytest.raises(OSError, match=r"fashion-cnn-0\.safetensors"):
        run(Config(**{**SMALL, "seeds": 1}), tmp_path, jobs=1)
