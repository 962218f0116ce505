"""Optimisers against torch.optim: 20 steps with every option, states, groups."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import fastconv.nn as nn
from fastconv.nn import optimisers

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.2, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "amsgrad": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.2, "amsgrad": True}),
]
cases = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{','.join(o)}" for n, o in CASES])
SHAPES = [(3, 4), (5,), (), (2, 1, 2)]


def start(dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.asarray(rng.normal(size=shape)).astype(dtype) for shape in SHAPES]


def gradients(step: int, dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng([1, step])
    return [np.asarray(rng.normal(size=shape)).astype(dtype) for shape in SHAPES]


def set_gradients(parameters: list[nn.Parameter], step: int, dtype: str) -> None:
    for p, g in zip(parameters, gradients(step, dtype)):
        p.grad = g


def set_torch_gradients(torch: Any, parameters: list[Any], step: int, dtype: str) -> None:
    for p, g in zip(parameters, gradients(step, dtype)):
        p.grad = torch.from_numpy(g)


def same(ours: list[nn.Parameter], theirs: list[Any], dtype: str) -> None:
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    for p, t in zip(ours, theirs):
        np.testing.assert_allclose(p.data, t.detach().numpy(), rtol=tolerance, atol=tolerance)


@cases
def test_twenty_steps_as_torch(name: str, options: dict[str, Any], torch: Any, dtype: str) -> None:
    ours, theirs = (
        [nn.Parameter(a) for a in start(dtype)],
        [torch.nn.Parameter(torch.from_numpy(a)) for a in start(dtype)],
    )
    a, b = getattr(nn, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for step in range(20):
        if step == 10:  # a schedule
            a.param_groups[0]["lr"] *= 0.5
            b.param_groups[0]["lr"] *= 0.5
        set_gradients(ours, step, dtype)
        set_torch_gradients(torch, theirs, step, dtype)
        a.step()
        b.step()
        for p, g in zip(ours, gradients(step, dtype)):
            np.testing.assert_array_equal(p.grad, g)  # left as it is
    same(ours, theirs, dtype)


@cases
def test_torch_state_continues_here(name: str, options: dict[str, Any], torch: Any, dtype: str) -> None:
    theirs = [torch.nn.Parameter(torch.from_numpy(a)) for a in start(dtype)]
    b = getattr(torch.optim, name)(theirs, **options)
    for step in range(3):
        set_torch_gradients(torch, theirs, step, dtype)
        b.step()
    ours = [nn.Parameter(t.detach().numpy()) for t in theirs]
    a = getattr(nn, name)(ours)
    a.load_state_dict(b.state_dict())
    for step in range(3, 6):
        set_gradients(ours, step, dtype)
        set_torch_gradients(torch, theirs, step, dtype)
        a.step()
        b.step()
    same(ours, theirs, dtype)


@cases
def test_own_state_continues_bit_for_bit(name: str, options: dict[str, Any]) -> None:
    whole, parts = ([nn.Parameter(a) for a in start("float32")] for _ in range(2))
    a, b = getattr(nn, name)(whole, **options), getattr(nn, name)(parts, **options)
    assert a.state_dict()["state"] == {}
    for step in range(100):  # beyond the steps at which denormals are flushed
        if step in (1, 50):
            state = copy.deepcopy(b.state_dict())
            parts = [nn.Parameter(p.data) for p in parts]
            b = getattr(nn, name)(parts, **options)
            b.load_state_dict(state)
        set_gradients(whole, step, "float32")
        set_gradients(parts, step, "float32")
        a.step()
        b.step()
    for p, q in zip(whole, parts):
        np.testing.assert_array_equal(p.data, q.data)


@cases
def test_pieces_and_blocks_change_nothing(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> list[np.ndarray]:
        parameters = [nn.Parameter(a) for a in start("float32")]
        optimizer = getattr(nn, name)(parameters, **options)
        for step in range(5):
            set_gradients(parameters, step, "float32")
            optimizer.step()
        return [p.data for p in parameters]

    expected = run()
    monkeypatch.setattr(optimisers, "_PIECE", 4)
    for actual, wanted in zip(run(), expected):
        np.testing.assert_array_equal(actual, wanted)


def test_groups(torch: Any) -> None:
    ours, theirs = (
        [nn.Parameter(a) for a in start("float64")],
        [torch.nn.Parameter(torch.from_numpy(a)) for a in start("float64")],
    )

    def groups(p: list[Any]) -> list[dict[str, Any]]:
        return [{"params": p[:2], "lr": 0.5}, {"params": p[2:], "weight_decay": 0.1}]

    a, b = nn.SGD(groups(ours), lr=0.1, momentum=0.5), torch.optim.SGD(groups(theirs), lr=0.1, momentum=0.5)
    for step in range(5):
        set_gradients(ours, step, "float64")
        set_torch_gradients(torch, theirs, step, "float64")
        a.step()
        b.step()
    same(ours, theirs, "float64")
    assert [g["params"] for g in a.state_dict()["param_groups"]] == [[0, 1], [2, 3]]


def test_momentum_that_comes_later(torch: Any) -> None:
    ours, theirs = (
        [nn.Parameter(a) for a in start("float64")],
        [torch.nn.Parameter(torch.from_numpy(a)) for a in start("float64")],
    )
    a, b = nn.SGD(ours, lr=0.1, dampening=0.5), torch.optim.SGD(theirs, lr=0.1, dampening=0.5)
    for step in range(6):
        if step == 3:
            a.param_groups[0]["momentum"] = b.param_groups[0]["momentum"] = 0.9
        set_gradients(ours, step, "float64")
        set_torch_gradients(torch, theirs, step, "float64")
        a.step()
        b.step()
    same(ours, theirs, "float64")


def test_zero_grad_and_two_dtypes() -> None:
    a, b = nn.Parameter(np.ones(3, np.float32)), nn.Parameter(np.ones(2))
    optimizer = nn.SGD([a, b], lr=1.0)
    a.grad += 1
    b.grad += 2
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step()
    np.testing.assert_array_equal(a.data, [0, 0, 0])
    np.testing.assert_array_equal(b.data, [-1, -1])
    assert (a.data.dtype, b.data.dtype) == (np.float32, np.float64)
    assert not a.grad.any()


def test_two_optimisers_of_one_parameter() -> None:
    p = nn.Parameter(np.zeros(3))
    first, second = nn.SGD([p], lr=1.0), nn.SGD([p], lr=10.0)
    p.grad += 1
    first.step()
    second.step()
    first.step()
    np.testing.assert_array_equal(p.data, [-12, -12, -12])
    assert p.grad.tolist() == [1, 1, 1]


def test_decayed_state_does_not_stay_denormal() -> None:
    p = nn.Parameter(np.zeros(4, np.float32))
    optimizer = nn.SGD([p], lr=0.1, momentum=0.5)
    p.grad += 1
    optimizer.step()
    optimizer.zero_grad()
    for _ in range(256):
        optimizer.step()
    assert not optimizer.state_dict()["state"][0]["momentum_buffer"].any()


def test_errors() -> None:
    p, q = nn.Parameter(np.ones(2)), nn.Parameter(np.ones(3))
    with pytest.raises(ValueError, match="no parameters"):
        nn.SGD([])
    with pytest.raises(TypeError, match="iterable of parameters"):
        nn.SGD(p)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a Parameter, got ndarray"):
        nn.SGD([np.ones(2)])
    with pytest.raises(ValueError, match="twice"):
        nn.SGD([p, p])
    with pytest.raises(TypeError, match="no option beta"):
        nn.SGD([{"params": [p], "beta": 1}])
    for options in ({"lr": -1}, {"momentum": -0.1}, {"weight_decay": -1}, {"nesterov": True}):
        with pytest.raises(ValueError, match=next(iter(options))):
            nn.SGD([p], **options)
    with pytest.raises(ValueError, match="nesterov"):
        nn.SGD([p], momentum=0.9, dampening=0.1, nesterov=True)
    with pytest.raises(ValueError, match="betas"):
        nn.Adam([p], betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="betas must be two numbers"):
        nn.Adam([p], betas=(0.9,))  # type: ignore[arg-type]
    state = nn.Adam([p]).state_dict()
    with pytest.raises(ValueError, match=r"\[1\].*\[2\]"):
        nn.Adam([p, q]).load_state_dict(state)
    optimizer = nn.Adam([p])
    optimizer.step()
    with pytest.raises(ValueError, match=r"exp_avg has shape \(2,\) for a parameter of shape \(3,\)"):
        nn.Adam([q]).load_state_dict(optimizer.state_dict())
    state = nn.Adam([p, q]).state_dict()
    state["state"] = {0: {"step": 1}, 1: {"step": 2}}
    with pytest.raises(ValueError, match="different numbers of steps"):
        nn.Adam([p, q]).load_state_dict(state)
