"""Parameters, modules, state_dict, initialisation."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import fastconv.nn as nn


def model(rng: Any = 0, dtype: Any = np.float32) -> nn.Sequential:
    options: dict[str, Any] = {"dtype": dtype, "rng": np.random.default_rng(rng)}
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, **options),
        nn.BatchNorm2d(4, dtype=dtype),
        nn.ReLU(),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 5, bias=False, **options)),
        nn.BatchNorm1d(5, dtype=dtype),
    )


def torch_model(torch: Any) -> Any:
    t = torch.nn
    return t.Sequential(
        t.Conv2d(1, 4, 3, padding=1),
        t.BatchNorm2d(4),
        t.ReLU(),
        t.Sequential(t.Flatten(), t.Linear(64, 5, bias=False)),
        t.BatchNorm1d(5),
    )


def images(dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(6, 1, 4, 4)).astype(dtype)


# ---- state_dict


def test_torch_state_dict_loads(torch: Any) -> None:
    ours, theirs = model(), torch_model(torch)
    theirs(torch.from_numpy(images()))  # running statistics that are not the start values
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert ours.load_state_dict(state) == ([], [])
    for name, value in ours.state_dict().items():
        assert value.shape == tuple(state[name].shape)
        np.testing.assert_array_equal(value, state[name].numpy(), err_msg=name)
    ours.load_state_dict(dict(theirs.named_parameters()), strict=False)  # they need gradients: no bar to loading
    ours.eval(), theirs.eval()
    np.testing.assert_allclose(
        ours(images()), theirs(torch.from_numpy(images())).detach().numpy(), rtol=1e-5, atol=1e-6
    )


def test_state_dict_loads_into_torch(torch: Any) -> None:
    ours, theirs = model(), torch_model(torch)
    ours(images())
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in ours.state_dict().items()})
    ours.eval(), theirs.eval()
    np.testing.assert_allclose(
        ours(images()), theirs(torch.from_numpy(images())).detach().numpy(), rtol=1e-5, atol=1e-6
    )


def test_state_dict_is_a_copy_and_load_copies() -> None:
    a, b = model(0), model(1)
    state = a.state_dict()
    state["0.weight"][...] = 7
    assert not (a.state_dict()["0.weight"] == 7).any()
    b.load_state_dict(state)
    state["0.weight"][...] = 8
    assert (b.state_dict()["0.weight"] == 7).all()


def test_load_converts_the_precision() -> None:
    a, b = model(0), model(1, np.float64)
    b.load_state_dict(a.state_dict())
    assert b.state_dict()["0.weight"].dtype == np.float64
    np.testing.assert_array_equal(b.state_dict()["0.weight"], a.state_dict()["0.weight"])


def test_load_errors_change_nothing() -> None:
    module = model()
    before = module.state_dict()
    state = model(1).state_dict()
    del state["0.bias"]
    state["9.weight"] = np.zeros(3)
    state["3.1.weight"] = np.zeros((5, 63))
    with pytest.raises(
        ValueError, match=r"missing keys: 0\.bias; unexpected keys: 9\.weight; 3\.1\.weight .*\(5, 63\).*\(5, 64\)"
    ):
        module.load_state_dict(state)
    with pytest.raises(ValueError, match=r"3\.1\.weight"):
        module.load_state_dict(state, strict=False)
    state["3.1.weight"] = np.zeros((5, 64), complex)
    with pytest.raises(TypeError, match="complex"):
        module.load_state_dict(state, strict=False)
    state["3.1.weight"] = [["a"]]  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"3\.1\.weight"):
        module.load_state_dict(state, strict=False)
    with pytest.raises(TypeError, match="mapping from names to arrays, got list"):
        module.load_state_dict([1])  # type: ignore[arg-type]
    state["3.1.weight"] = np.zeros((5, 64))
    state["1.num_batches_tracked"] = np.array(1.5)
    with pytest.raises(TypeError, match="num_batches_tracked is float64"):
        module.load_state_dict(state, strict=False)
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    del state["1.num_batches_tracked"]
    result = module.load_state_dict(state, strict=False)
    assert result.missing_keys == ["0.bias", "1.num_batches_tracked"]
    assert result.unexpected_keys == ["9.weight"]
    assert not module.state_dict()["3.1.weight"].any()


# ---- parameters and modules


def test_names_are_those_of_torch(torch: Any) -> None:
    ours, theirs = model(), torch_model(torch)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert [p.shape for p in ours.parameters()] == [tuple(p.shape) for p in theirs.parameters()]
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]


def test_a_shared_parameter_comes_once() -> None:
    layer = nn.Linear(3, 3)
    module = nn.Sequential(layer, nn.ReLU(), layer)
    assert [name for name, _ in module.named_parameters()] == ["0.weight", "0.bias"]
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    assert module(x).shape == (2, 3)


def test_train_and_eval() -> None:
    module = model()
    assert all(m.training for m in module.modules())
    assert module.eval() is module
    assert not any(m.training for m in module.modules())
    assert module.train() is module
    assert all(m.training for m in module.modules())


def test_sequential() -> None:
    module = nn.Sequential({"first": nn.Linear(2, 3), "relu": nn.ReLU()})
    module.append(nn.Linear(3, 1))
    assert list(module.state_dict()) == ["first.weight", "first.bias", "2.weight", "2.bias"]
    assert len(module) == 3
    assert module[1] is list(module)[1]
    assert isinstance(module[1:], nn.Sequential)
    assert list(module[1:].state_dict()) == ["2.weight", "2.bias"]
    assert "(relu): ReLU()" in repr(module)
    with pytest.raises(TypeError, match="modules"):
        nn.Sequential(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without dots"):
        nn.Sequential({"a.b": nn.ReLU()})
    x = np.ones((2, 2), np.float32)
    np.testing.assert_array_equal(nn.Sequential()(x), x)
    np.testing.assert_array_equal(nn.Sequential().backward(x), x)


def test_backward_parameters_gives_the_gradients_of_backward() -> None:
    for module in (model(), nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(16, 5)))):
        g = np.random.default_rng(0).normal(size=module(images()).shape).astype(np.float32)
        module.zero_grad()
        module.backward(g)
        expected = [p.grad.copy() for p in module.parameters()]
        module.zero_grad()
        module.backward_parameters(g)
        assert any(e.any() for e in expected)
        for p, e in zip(module.parameters(), expected):
            np.testing.assert_array_equal(p.grad, e)
    nn.Sequential(nn.ReLU()).backward_parameters(g)  # nothing to do


def test_the_first_layer_spares_the_gradient_of_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 5))
    asked = []
    for name, layer in module.named_children():
        backward = layer.backward
        monkeypatch.setattr(layer, "backward", lambda g, n=name, b=backward: asked.append(n) or b(g))
    module(images())
    module.backward_parameters(np.ones((6, 5), np.float32))
    assert asked == ["3", "2"]


def test_parameter() -> None:
    p = nn.Parameter(np.arange(3.0))
    assert not p.grad.any()
    p.grad += 2
    p.data += 1
    np.testing.assert_array_equal(p.data, [1, 2, 3])
    np.testing.assert_array_equal(np.asarray(p), [1, 2, 3])
    p.zero_grad()
    assert p.grad.tolist() == [0, 0, 0]
    p.grad = np.ones(3)
    p.grad = None  # type: ignore[assignment]
    assert p.grad.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        p.grad = np.ones(2)
    with pytest.raises(ValueError, match=r"\(3,\).*\(\)"):
        p.data = 0  # type: ignore[assignment]
    with pytest.raises(TypeError, match="int64"):
        nn.Parameter(np.arange(3))
    source = np.ones(2, np.float32)
    p = nn.Parameter(source)
    source[0] = 5
    assert p.data.tolist() == [1, 1]
    assert (p.shape, p.size, p.dtype) == ((2,), 2, np.float32)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_independent(copied: Any) -> None:
    module = model()
    optimizer = nn.SGD(module.parameters(), lr=0.1)
    twin = copied(module)
    before = module.state_dict()
    for p in twin.parameters():
        p.data += 1
        p.grad += 1
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    optimizer.step()
    assert not any(p.grad.any() for p in module.parameters())


def test_a_module_of_ones_own() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            self.inner = nn.Linear(3, 3, dtype=np.float64, rng=0)
            self.scale = nn.Parameter(np.full(1, 2.0))

        def forward(self, x: np.ndarray) -> np.ndarray:
            self._y = self.inner(x)
            return x + self.scale.data * self._y

        def backward(self, grad_output: np.ndarray) -> np.ndarray:
            self.scale.grad += (grad_output * self._y).sum()
            return grad_output + self.inner.backward(self.scale.data * grad_output)

    module = nn.Sequential(Residual(), nn.ReLU())
    assert set(module.state_dict()) == {"0.scale", "0.inner.weight", "0.inner.bias"}
    from nn_helpers import check_gradients

    check_gradients(module, np.random.default_rng(0).normal(size=(4, 3)), 1e-6)


# ---- initialisation


@pytest.mark.parametrize(
    ("name", "arguments", "options", "fan_in"),
    [
        ("Linear", (300, 200), {}, 300),
        ("Conv1d", (8, 400, 5), {}, 40),
        ("Conv2d", (8, 400, (5, 3)), {"groups": 2}, 60),
    ],
)
def test_initial_values_are_distributed_as_in_torch(
    name: str, arguments: tuple[Any, ...], options: dict[str, Any], fan_in: int, torch: Any
) -> None:
    ours, theirs = getattr(nn, name)(*arguments, **options, rng=0), getattr(torch.nn, name)(*arguments, **options)
    bound = 1 / math.sqrt(fan_in)
    for key, value in ours.state_dict().items():
        other = theirs.state_dict()[key].numpy()
        assert (value.shape, value.dtype) == (other.shape, other.dtype)
        for sample in (value, other):  # the same bounds hold for both
            assert np.abs(sample).max() <= bound * (1 + 1e-6)
            assert np.abs(sample).max() > bound * 0.95
            # the mean of n uniform values is normal with deviation bound / sqrt(3 n): five of them
            assert abs(sample.mean()) < 5 * bound / math.sqrt(3 * sample.size)
            assert abs(sample.std() * math.sqrt(3) / bound - 1) < 5 / math.sqrt(sample.size)


def test_initial_values_come_from_the_generator() -> None:
    a, b, c = model(0).state_dict(), model(0).state_dict(), model(1).state_dict()
    np.testing.assert_array_equal(a["0.weight"], b["0.weight"])
    assert (a["0.weight"] != c["0.weight"]).any()
    np.testing.assert_array_equal(nn.Linear(3, 2, rng=5).weight.data, nn.Linear(3, 2, rng=5).weight.data)
    rng = np.random.default_rng(5)
    assert (nn.Linear(3, 2, rng=rng).weight.data != nn.Linear(3, 2, rng=rng).weight.data).any()
    nn.manual_seed(9)
    first = nn.Conv1d(1, 2, 3).weight.data.copy()
    assert (nn.Conv1d(1, 2, 3).weight.data != first).any()
    nn.manual_seed(9)
    np.testing.assert_array_equal(nn.Conv1d(1, 2, 3).weight.data, first)
    single, double = nn.Linear(3, 2, rng=5), nn.Linear(3, 2, rng=5, dtype=np.float64)
    np.testing.assert_array_equal(single.weight.data, double.weight.data.astype(np.float32))
