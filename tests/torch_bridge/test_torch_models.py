"""The models of benchmarks/torch_models.py, on tiny inputs: converted, they give the same loss and gradients."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastconv.torch as ft

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "torch_models.py"


@pytest.fixture(scope="module")
def benchmark_file() -> Any:
    if not SCRIPT.is_file():
        pytest.skip("the benchmarks are not beside the tests")
    spec = importlib.util.spec_from_file_location("torch_models", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["wav2vec", "convnext", "mobilenet", "resnet18", "convtasnet", "lenet", "conformer"])
def test_a_converted_model_computes_the_same(benchmark_file: Any, name: str) -> None:
    eager, converted, swapped, total = benchmark_file.sides(name, benchmark_file.MODELS[name].tiny, True)
    assert swapped == total == sum(isinstance(m, (ft.Conv1d, ft.Conv2d)) for m in converted.model.modules())
    for side in (eager, converted):  # float64: batch norms over a few positions leave float32 only some digits
        side.model, side.x = side.model.double(), side.x.double()
    found = benchmark_file.differences(eager, converted)
    assert found["loss"] < 1e-10
    assert max(found["gradient"]) < 1e-8


def test_values_that_pass_another_side_of_a_relu(benchmark_file: Any) -> None:
    model = nn.Sequential(nn.ReLU6(), nn.ReLU())
    with benchmark_file.Sides() as right:
        model(torch.tensor([-1.0, 0.5, 7.0, 2.0]))
    near = torch.tensor([1e-3, 0.5, 5.0, 3.0], requires_grad=True)
    with benchmark_file.Sides() as other:
        model(near)
    assert other.differing(right) == 3  # the first in both layers, the third in one
    with benchmark_file.Sides(right.found):
        y = model(near)
    y.sum().backward()
    assert y.tolist() == [0, 0.5, 6, 3]
    assert near.grad.tolist() == [0, 1, 0, 1]


def test_convolutions_that_cost_nothing(benchmark_file: Any) -> None:
    """The first step is the model's own; the next has its convolutions' results of then."""
    entry = benchmark_file.MODELS["convtasnet"]
    torch.manual_seed(0)
    eager = benchmark_file.Side(entry.build(), torch.randn(entry.tiny), 1)
    free = benchmark_file.without_convolutions(eager)
    (loss, expected), (same, found) = eager.gradients(), free.gradients()
    assert loss == same
    for gradient, other in zip(expected.values(), found.values()):
        torch.testing.assert_close(gradient, other)
    free.x = torch.randn(entry.tiny)
    assert free.gradients()[0] == loss


def test_every_model_is_tested(benchmark_file: Any) -> None:
    assert len(benchmark_file.MODELS) == 7


def test_the_table_of_single_models(benchmark_file: Any, capsys: Any, tmp_path: Path) -> None:
    report = tmp_path / "models.json"
    entry = benchmark_file.MODELS["conformer"]
    benchmark_file.MODELS["conformer"] = entry._replace(shape=entry.tiny)
    benchmark_file.main(
        ["--models", "conformer", "--threads", "1", "--seconds", "0", "--no-memory", "--json", str(report)]
    )
    assert entry.about in capsys.readouterr().out
    assert '"ratio"' in report.read_text()
