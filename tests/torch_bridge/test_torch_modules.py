"""fastconv.torch.Conv1d, Conv2d, convert and patch: models go on as before, through our kernels."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bridge_helpers import Seen
from torch import nn

import fastconv.torch as ft
from fastconv.torch import conversion, operators

PAIRS = {1: (ft.Conv1d, nn.Conv1d), 2: (ft.Conv2d, nn.Conv2d)}
ORIGINALS = (torch.conv1d, torch.conv2d)


def image(axes: int, *lead: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*(lead or (2, 4)), *(9, 8)[:axes], dtype=dtype)


MODULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False, "stride": 2},
    "same": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid"},
    "groups": {"groups": 4, "padding": 1},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "replicate": {"padding": 1, "padding_mode": "replicate", "stride": 2},
    "circular, same": {"padding": "same", "padding_mode": "circular"},
    "float64": {"dtype": torch.float64},
}


@pytest.mark.parametrize("options", MODULES.values(), ids=MODULES)
def test_modules_are_drop_in(axes: int, options: dict[str, Any]) -> None:
    ours, theirs = (cls(4, 8, 3, **options) for cls in PAIRS[axes])
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = image(axes, dtype=options.get("dtype", torch.float32)).requires_grad_()
    z = x.detach().clone().requires_grad_()
    with Seen() as seen:
        y = ours(x)
    assert seen.names == [f"conv{axes}d"]
    expected = theirs(z)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip((x, *ours.parameters()), (z, *theirs.parameters())):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(x[0]), theirs(x[0]))  # unbatched
    assert repr(ours) == "fastconv.torch." + repr(theirs)


def test_initialisation_is_torchs(axes: int) -> None:
    weights = []
    for cls in PAIRS[axes]:
        torch.manual_seed(3)
        weights.append(cls(4, 8, 3).weight)
    assert torch.equal(*weights)


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64], ids=str)
def test_other_dtypes_go_torchs_way(axes: int, dtype: torch.dtype) -> None:
    layer = PAIRS[axes][0](4, 8, 3).to(dtype)
    with Seen() as seen:
        assert layer(image(axes).to(dtype)).dtype == dtype
    assert not seen.names


def test_tensor_subclasses_go_torchs_way() -> None:
    class Tagged(torch.Tensor):
        pass

    with Seen() as seen:
        y = ft.Conv2d(4, 8, 3)(image(2).as_subclass(Tagged))
    assert type(y) is Tagged
    assert not seen.names


def test_copies(axes: int) -> None:
    layer = PAIRS[axes][0](4, 8, 3)
    x = image(axes)
    layer(x).sum().backward()
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(buffer, weights_only=False),
    ):
        assert type(other) is type(layer)
        assert torch.equal(other(x), layer(x))
        assert other.weight is not layer.weight


# ---- convert


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.again = self.depthwise
        self.pointwise = nn.Conv2d(32, 8, 1)
        self.special = Special(8, 8, 3)
        self.head = nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 4, 3), nn.Conv1d(4, 4, 5, groups=4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.special(self.pointwise(self.again(self.depthwise(x)))))


class Special(nn.Conv2d):
    """A subclass that computes something else."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + 1


def test_convert_all_in_place(capsys: pytest.CaptureFixture[str]) -> None:
    model = Net()
    x = torch.randn(2, 32, 8, 8)
    before, state, parameters = model(x), model.state_dict(), list(model.parameters())
    calls: list[str] = []
    model.pointwise.register_forward_hook(lambda *_: calls.append("pointwise"))
    swaps = ft.convert(model, all=True)
    assert [swap.name for swap in swaps] == ["depthwise", "pointwise", "head.1", "head.2"]
    assert all(type(swap.layer) in (ft.Conv1d, ft.Conv2d) for swap in swaps)
    assert type(model.special) is Special
    assert model.again is model.depthwise
    assert all(a is b for a, b in zip(parameters, model.parameters()))
    assert list(state) == list(model.state_dict())
    torch.testing.assert_close(model(x), before)
    assert calls == ["pointwise"]
    printed = capsys.readouterr().out
    assert "swapped 4 of 4" in printed
    assert all(swap.name in printed for swap in swaps)
    assert ft.convert(model, all=True, verbose=False) == []  # nothing left


def test_convert_where_a_gain_is_expected(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    factors = {"1x1": 0.8, "depthwise 2-D, to 3x3": 2.5, "depthwise 1-D": 3.0, "dense 1-D": 1.05}
    for what, factor in factors.items():
        monkeypatch.setitem(conversion.GAINS, what, factor)
    model = Net()
    swaps = ft.convert(model)
    assert [(swap.name, swap.kind, swap.factor) for swap in swaps] == [
        ("depthwise", "depthwise 2-D, to 3x3", 2.5),
        ("head.2", "depthwise 1-D", 3.0),
    ]
    assert type(model.pointwise) is nn.Conv2d
    printed = capsys.readouterr().out
    assert "swapped 2 of 4" in printed
    assert "2.5" in printed
    assert ft.convert(Net().bfloat16(), verbose=False) == []


def test_convert_by_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer that the model calls is timed as it is called; what wins is swapped."""
    asked: list[Any] = []

    def factor(use: Any, threads: int) -> float:
        asked.append(use)
        return 3.0 if len(use.weight_shape) == 4 else 0.5

    monkeypatch.setattr(conversion, "_factor", factor)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(2), nn.Conv1d(4, 4, 3)
    )
    model[2].eval()
    statistics = copy.deepcopy(model[1].state_dict())
    swaps = ft.convert(model, example=torch.randn(2, 3, 9, 9), verbose=False)
    assert [(swap.name, swap.factor) for swap in swaps] == [("0", 3.0)]
    assert [(use.shape, use.needs_grad) for use in asked] == [
        ((2, 3, 9, 9), (False, True)),
        ((2, 4, 16), (True, True)),
    ]
    assert asked[0].steps == ((2, 2), (0, 0), (1, 1), 1)
    assert [layer.training for layer in model] == [True, True, False, True, True]
    assert all(torch.equal(value, statistics[key]) for key, value in model[1].state_dict().items())


def test_a_timing_is_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "SECONDS", 0.01)
    model = nn.Sequential(nn.Conv1d(1, 1, 2000, padding="same"))
    (swap,) = ft.convert(model, example=(torch.randn(1, 1, 20000),), verbose=False)  # PyTorch takes 50 times as long
    assert swap.factor > 2


def test_convert_a_single_layer() -> None:
    layer = nn.Conv2d(8, 8, 3, groups=8)
    (swap,) = ft.convert(layer, all=True, verbose=False)
    assert swap.layer is layer
    assert type(layer) is ft.Conv2d


def test_every_kind_has_a_factor() -> None:
    shapes = [(8, 8, 8), (8, 8, 2), (2, 8, 1), (32, 32, 1), (32, 8, 1)]
    kinds = {
        conversion.kind(c_in, c_out, (size,) * axes, (stride,) * axes, (1,) * axes, groups)
        for axes in (1, 2)
        for c_in, c_out, groups in shapes
        for size in (1, 3, 7, 100)
        for stride in (1, 2)
    }
    assert kinds == set(conversion.GAINS)


# ---- patch


def test_patch_covers_functions_and_modules(axes: int) -> None:
    x, layer = image(axes), PAIRS[axes][1](4, 8, 3, padding=1, padding_mode="circular")
    name = f"conv{axes}d"
    expected = layer(x), getattr(F, name)(x, layer.weight, layer.bias)
    with Seen() as seen, ft.patch():
        torch.testing.assert_close(layer(x), expected[0])
        for module in (F, torch):
            torch.testing.assert_close(getattr(module, name)(x, layer.weight, layer.bias), expected[1])
        torch.testing.assert_close(getattr(F, name)(input=x, weight=layer.weight, bias=layer.bias), expected[1])
        assert getattr(F, name).__name__ == name
    assert seen.names == [name] * 4
    assert (torch.conv1d, torch.conv2d) == (F.conv1d, F.conv2d) == ORIGINALS


def test_patch_nests_and_restores_after_errors() -> None:
    same = ft.patch()
    with pytest.raises(KeyError), same, ft.patch(), same:
        raise KeyError(F.conv2d is not ORIGINALS[1])
    assert (torch.conv1d, torch.conv2d, F.conv1d, F.conv2d) == ORIGINALS * 2
    with same:
        with same:
            pass
        assert F.conv2d is not ORIGINALS[1]
        with Seen() as seen:
            F.conv2d(image(2), torch.randn(1, 4, 3, 3))
        assert seen.names == ["conv2d"]
    assert F.conv2d is ORIGINALS[1]


def test_patch_as_decorator() -> None:
    @ft.patch()
    def run() -> torch.Tensor:
        assert F.conv2d is not ORIGINALS[1]
        return F.conv2d(image(2), torch.randn(1, 4, 3, 3))

    assert run().shape == (2, 1, 7, 6)
    assert F.conv2d is ORIGINALS[1]


def test_patch_leaves_what_somebody_else_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*args: Any) -> Any:
        return ORIGINALS[1](*args)

    with ft.patch():
        monkeypatch.setattr(F, "conv2d", other)
    assert F.conv2d is other
    assert torch.conv2d is ORIGINALS[1]


@pytest.mark.parametrize(
    "arguments",
    [
        lambda x, w: (x.bfloat16(), w.bfloat16()),
        lambda x, w: (x.to(torch.complex64), w.to(torch.complex64)),
        lambda x, w: (x.to("meta"), w.to("meta")),
        lambda x, w: (x[:0], w),
        lambda x, w: (x.to_mkldnn(), w.to_mkldnn()),
    ],
    ids=["bfloat16", "complex", "meta", "empty", "mkldnn"],
)
def test_patch_sends_the_rest_to_torch(arguments: Any) -> None:
    x, w = arguments(image(2), torch.randn(8, 4, 3, 3))
    with Seen() as seen, ft.patch():
        y = F.conv2d(x, w)
    assert not seen.names
    assert y.shape == torch.conv2d(x, w).shape


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        (lambda x, w: (x, w.double()), {}),
        (lambda x, w: (x[:, :3], w), {}),
        (lambda x, w: (x, w[..., 0]), {}),
        (lambda x, w: (x, w, torch.zeros(3)), {}),
        (lambda x, w: (x, w, torch.zeros(8, 7, 6)), {}),
        (lambda x, w: (x, w), {"stride": 0}),
        (lambda x, w: (x, w), {"stride": 1.5}),
        (lambda x, w: (x, w), {"padding": "wrong"}),
        (lambda x, w: (x, w), {"padding": "same", "stride": 2}),
        (lambda x, w: (x, w), {"padding": ((1, 1), (1, 1))}),
        (lambda x, w: (x, w), {"groups": 3}),
        (lambda x, w: (x, w), {"nonsense": 3}),
        (lambda x, w: (x,), {}),
        (lambda x, w: (x.numpy(), w), {}),
    ],
)
def test_errors_under_patch_are_torchs_own(arguments: Any, keywords: dict[str, Any]) -> None:
    positional = arguments(image(2), torch.randn(8, 4, 3, 3))
    with pytest.raises(Exception) as expected:  # noqa: PT011
        ORIGINALS[1](*positional, **keywords)
    with ft.patch(), pytest.raises(Exception) as found:  # noqa: PT011
        F.conv2d(*positional, **keywords)
    assert found.type is expected.type
    assert str(found.value) == str(expected.value)


def test_arguments_as_torch_takes_them() -> None:
    x, w = image(2), torch.randn(8, 4, 3, 3)
    with Seen() as seen, ft.patch():
        for padding in (np.int64(1), [1], torch.Size([1, 1]), "same"):
            assert F.conv2d(x, w, None, 1, padding).shape == (2, 8, 9, 8)
    assert len(seen.names) == 4


def test_patch_acts_on_its_own_thread() -> None:
    inside, leave = threading.Event(), threading.Event()
    results: list[Any] = []

    def elsewhere() -> None:
        with ft.patch():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert inside.wait(10)
    with Seen() as seen:
        F.conv2d(image(2), torch.randn(1, 4, 3, 3))
        with ft.patch():
            F.conv2d(image(2), torch.randn(1, 4, 3, 3))
    results += seen.names
    leave.set()
    thread.join()
    assert results == ["conv2d"]
    assert F.conv2d is ORIGINALS[1]


def test_a_wrong_setting_is_an_error_at_once(run_python: Any) -> None:
    code = """
    import fastconv.torch
    try:
        with fastconv.torch.patch():
            pass
    except ValueError as error:
        assert "nonsense" in str(error)
    else:
        raise AssertionError("no error")
    """
    run_python(code, FASTCONV_ISA="nonsense")


def test_dispatch_is_used_where_torch_lacks_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "CAN_TELL", False)
    x, w = image(1).requires_grad_(), torch.randn(8, 4, 3)
    y = ft.conv1d(x, w)
    assert "fastconv" in y.grad_fn.name()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_convert_without_gradients_times_the_forward_pass(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "SECONDS", 0.0)
    asked: list[Any] = []
    real = conversion._factor
    monkeypatch.setattr(conversion, "_factor", lambda use, threads: asked.append(use) or real(use, threads))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    with context():
        ft.convert(model, all=True, example=torch.randn(1, 3, 9, 9), verbose=False)
    model[0].requires_grad_(False)
    ft.convert(nn.Sequential(nn.Conv2d(3, 3, 1), *model[:1]), example=torch.randn(1, 3, 9, 9), verbose=False)
    assert [use.needs_grad for use in asked] == [(False, False), (False, False), (False, True)]


def test_symbolic_tracing_makes_a_node_of_each_layer() -> None:
    """torch.fx.symbolic_trace, whose proxies have no values to decide by."""
    layers = (nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))
    theirs = nn.Sequential(*layers)
    ours = copy.deepcopy(theirs)
    ft.convert(ours, all=True, verbose=False)
    graph = torch.fx.symbolic_trace(ours)
    assert [node.target for node in graph.graph.nodes].count(ft.conv2d) == 2
    x = torch.randn(2, 3, 8, 9)
    torch.testing.assert_close(graph(x), theirs(x))
