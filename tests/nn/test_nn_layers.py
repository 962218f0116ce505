"""Every layer: gradients by finite differences in float64; output and gradients against torch; options; errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from nn_helpers import check_gradients, close, compare_with_torch

import fastconv as fc
import fastconv.nn as nn


class Layer(NamedTuple):
    """A layer of ours, the expression that makes the same of torch's, and an input shape."""

    name: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}{self.arguments}{options}-{'x'.join(map(str, self.shape))}"

    def ours(self, dtype: str = "float32") -> nn.Module:
        has_dtype = self.name in ("Linear", "Conv1d", "Conv2d", "BatchNorm1d", "BatchNorm2d")
        module: nn.Module = getattr(nn, self.name)(
            *self.arguments, **self.options, **({"dtype": dtype} if has_dtype else {})
        )
        return module

    def theirs(self, torch: Any, dtype: str = "float32") -> Any:
        return getattr(torch.nn, self.name)(*self.arguments, **self.options).to(getattr(torch, dtype))

    def x(self, dtype: str) -> np.ndarray:
        # Distinct, well apart values: finite differences must not change which element of a window is the largest,
        # nor cross the ReLU's kink.
        n = math.prod(self.shape)
        values = np.random.default_rng(0).permutation(n) - n / 2 + 0.25
        return (values / max(n, 8) * 4).reshape(self.shape).astype(dtype)


def layer(name: str, *arguments: Any, shape: tuple[int, ...], **options: Any) -> Layer:
    return Layer(name, arguments, options, shape)


LAYERS = [
    layer("Linear", 5, 3, shape=(4, 5)),
    layer("Linear", 5, 3, bias=False, shape=(4, 5)),
    layer("Linear", 5, 3, shape=(5,)),
    layer("Linear", 5, 3, shape=(2, 3, 5)),
    layer("Conv1d", 2, 4, 3, shape=(2, 2, 9)),
    layer("Conv1d", 2, 4, 3, stride=2, padding=2, dilation=2, groups=2, shape=(2, 2, 9)),
    layer("Conv1d", 2, 3, 4, padding="same", padding_mode="circular", shape=(2, 2, 9)),
    layer("Conv1d", 2, 3, 3, padding=1, padding_mode="reflect", bias=False, shape=(2, 9)),
    layer("Conv2d", 1, 5, 4, 2, 1, shape=(2, 1, 8, 8)),
    layer("Conv2d", 4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, shape=(2, 4, 6, 7)),
    layer("Conv2d", 2, 3, 3, padding="same", dilation=2, shape=(2, 2, 6, 5)),
    layer("Conv2d", 2, 3, 3, padding="valid", bias=False, shape=(2, 2, 6, 5)),
    layer("Conv2d", 2, 2, 3, padding=(2, 1), padding_mode="replicate", shape=(2, 2, 5, 4)),
    layer("Conv2d", 2, 2, 3, padding=1, padding_mode="circular", stride=2, shape=(2, 2, 6, 6)),
    layer("Conv2d", 2, 2, 3, padding=(1, 2), padding_mode="reflect", shape=(2, 5, 4)),
    layer("ReLU", shape=(3, 4)),
    layer("ReLU", shape=(2, 3, 4, 5)),
    layer("Flatten", shape=(2, 3, 4)),
    layer("Flatten", 0, 1, shape=(2, 3, 4)),
    layer("Dropout", 0.0, shape=(3, 4)),
    layer("MaxPool1d", 2, shape=(2, 3, 8)),
    layer("MaxPool1d", 3, 2, 1, shape=(3, 9)),
    layer("MaxPool1d", 3, 2, 1, 2, ceil_mode=True, shape=(2, 3, 10)),
    layer("MaxPool2d", 2, shape=(2, 3, 6, 8)),
    layer("MaxPool2d", 3, 2, 1, shape=(2, 2, 7, 8)),
    layer("MaxPool2d", (3, 2), stride=(1, 3), padding=(1, 0), ceil_mode=True, shape=(2, 2, 5, 9)),
    layer("MaxPool2d", 2, stride=1, dilation=(2, 1), shape=(2, 5, 6)),
    layer("MaxPool2d", 2, 3, ceil_mode=True, shape=(1, 2, 7, 5)),
    layer("AvgPool1d", 2, shape=(2, 3, 8)),
    layer("AvgPool1d", 3, 2, 1, True, shape=(2, 3, 10)),
    layer("AvgPool1d", 3, 2, 1, True, False, shape=(3, 10)),
    layer("AvgPool2d", 2, shape=(2, 3, 6, 8)),
    layer("AvgPool2d", 3, 2, 1, shape=(2, 2, 7, 8)),
    layer("AvgPool2d", (3, 2), (2, 3), (1, 1), True, shape=(2, 2, 6, 6)),
    layer("AvgPool2d", (3, 2), (2, 3), (1, 1), True, False, shape=(2, 2, 6, 6)),
    layer("AvgPool2d", 3, 2, 1, True, True, 5, shape=(2, 2, 6, 7)),
    layer("BatchNorm1d", 3, shape=(6, 3)),
    layer("BatchNorm1d", 3, shape=(4, 3, 5)),
    layer("BatchNorm1d", 3, affine=False, eps=1e-3, shape=(4, 3, 5)),
    layer("BatchNorm2d", 3, shape=(4, 3, 2, 5)),
    layer("BatchNorm2d", 3, momentum=None, shape=(4, 3, 2, 5)),
    layer("BatchNorm2d", 3, momentum=0.3, track_running_stats=False, shape=(4, 3, 2, 5)),
]
ids = pytest.mark.parametrize("case", LAYERS, ids=str)


@ids
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gradients_by_finite_differences(case: Layer, training: bool) -> None:
    module = case.ours("float64").train(training)
    for p in module.parameters():
        p.data += 0.1  # batch normalisation starts with weights of one and biases of zero
    check_gradients(module, case.x("float64"), 1e-6)


@ids
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_same_as_torch(case: Layer, training: bool, torch: Any, dtype: str) -> None:
    ours, theirs = case.ours(dtype), case.theirs(torch, dtype).train(training)
    ours.train(training)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in theirs.state_dict().values():
            if value.is_floating_point():
                value += torch.rand(value.shape, generator=generator, dtype=value.dtype)
    for _ in range(2):  # the second time from changed running statistics
        compare_with_torch(torch, ours, theirs, case.x(dtype), 1e-5 if dtype == "float32" else 1e-12)
    for name, value in theirs.state_dict().items():
        close(ours.state_dict()[name], value.numpy(), 1e-6, name)


@ids
def test_gradients_are_added(case: Layer) -> None:
    module, x = case.ours(), case.x("float32")
    g = np.ones_like(module.forward(x))
    module.zero_grad()
    module.backward(g)
    once = [p.grad.copy() for p in module.parameters()]
    module.backward_parameters(g)
    for p, first in zip(module.parameters(), once):
        np.testing.assert_allclose(p.grad, 2 * first, rtol=1e-6)


@ids
def test_input_is_left_alone_and_may_be_a_view(case: Layer) -> None:
    x = case.x("float32")
    view = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), np.float32)[..., ::2]
    view[...] = x
    view.flags.writeable = False
    module, other = case.ours(), case.ours()
    other.load_state_dict(module.state_dict())
    y, expected = module.forward(view), other.forward(x)
    np.testing.assert_array_equal(y, expected)
    g = np.random.default_rng(0).normal(size=y.shape).astype(np.float32)
    kept = g.copy()
    g.flags.writeable = False
    np.testing.assert_allclose(module.backward(g), other.backward(g), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(g, kept)
    np.testing.assert_array_equal(view, x)


@ids
def test_grad_output_of_another_shape_or_dtype(case: Layer) -> None:
    module = case.ours()
    with pytest.raises(RuntimeError, match="forward"):
        module.backward(np.ones(1, np.float32))
    y = module.forward(case.x("float32"))
    with pytest.raises(ValueError, match=r"grad_output|\("):
        module.backward(np.ones((*y.shape, 2), np.float32))
    if case.name != "Flatten":
        with pytest.raises(TypeError, match="float64"):
            module.backward(np.ones(y.shape))


@pytest.mark.parametrize("axes", [1, 2])
def test_padding_pairs(axes: int, torch: Any) -> None:
    pairs = ((2, 1), (0, 3))[:axes]
    module = (nn.Conv1d if axes == 1 else nn.Conv2d)(2, 3, 3, stride=2, padding=pairs, dtype=np.float64, rng=0)
    shape = (2, 2, 6, 5)[: axes + 2]
    x = np.random.default_rng(1).normal(size=shape)
    check_gradients(module, x, 1e-6)
    padded = torch.nn.functional.pad(torch.from_numpy(x), [n for pair in reversed(pairs) for n in pair])
    functional = torch.nn.functional.conv1d if axes == 1 else torch.nn.functional.conv2d
    expected = functional(padded, torch.from_numpy(module.weight.data), torch.from_numpy(module.bias.data), stride=2)
    close(module.forward(x), expected.numpy(), 1e-12, "output")


@pytest.mark.parametrize("backend", sorted({fc.backends()[0], "reference"}))
def test_convolution_goes_through_the_backend_in_use(backend: str) -> None:
    module = nn.Conv2d(2, 3, 3, padding=1, rng=0)
    x = np.random.default_rng(0).normal(size=(2, 2, 5, 5)).astype(np.float32)
    with fc.use_backend(backend):
        y = module.forward(x)
        assert module.bias is not None
        np.testing.assert_array_equal(y, fc.conv2d(x, module.weight.data, module.bias.data, padding=1))
        grad = module.backward(y)
        expected = fc.conv2d_backward(y, x, module.weight.data, padding=1)
    for actual, wanted in zip((grad, module.weight.grad, module.bias.grad), expected):
        np.testing.assert_array_equal(actual, wanted)


# ---- what torch has not


@pytest.mark.parametrize(
    ("kernel_size", "stride", "mode"),
    [(1, 2, "zeros"), (2, 2, "zeros"), (3, 2, "circular"), (4, 2, "reflect"), (5, 3, "replicate")],
)
def test_blur_pool(kernel_size: int, stride: int, mode: str, torch: Any) -> None:
    module = nn.BlurPool2d(2, kernel_size, stride, mode, dtype=np.float64)
    x = np.random.default_rng(0).normal(size=(2, 2, 7, 6))
    check_gradients(module, x, 1e-6)
    names = {"zeros": "constant", "circular": "circular", "reflect": "reflect", "replicate": "replicate"}
    before, after = (kernel_size - 1) // 2, math.ceil((kernel_size - 1) / 2)
    padded = torch.nn.functional.pad(torch.from_numpy(x), (before, after) * 2, mode=names[mode])
    taps = np.array({1: [1], 2: [1, 1], 3: [1, 2, 1], 4: [1, 3, 3, 1], 5: [1, 4, 6, 4, 1]}[kernel_size], float)
    filt = torch.from_numpy(np.outer(taps, taps) / taps.sum() ** 2).expand(2, 1, -1, -1)
    expected = torch.nn.functional.conv2d(padded, filt, stride=stride, groups=2)
    close(module.forward(x), expected.numpy(), 1e-12, "output")
    assert module.forward(x).shape[2:] == (math.ceil(7 / stride), math.ceil(6 / stride))
    assert list(module.state_dict()) == ["filt"]
    assert list(module.parameters()) == []


def test_blur_pool_keeps_a_constant() -> None:
    y = nn.BlurPool2d(3, 5)(np.full((1, 3, 9, 9), 2.5, np.float32))
    np.testing.assert_allclose(y, 2.5, rtol=1e-6)


@pytest.mark.parametrize("p", [1, 2, 3, math.inf])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_adaptive_polyphase(p: float, stride: int) -> None:
    module = nn.AdaptivePolyphase2d(stride, p)
    x = np.random.default_rng(0).normal(size=(4, 3, 6, 12))
    y = module.forward(x)
    for image, result in zip(x, y):
        components = [image[:, i::stride, j::stride] for i in range(stride) for j in range(stride)]
        norms = [np.linalg.norm(c.ravel(), p) for c in components]
        np.testing.assert_array_equal(result, components[int(np.argmax(norms))])
    check_gradients(module, x, 1e-6)
    np.testing.assert_array_equal(module.forward(x[0]), y[0])  # unbatched
    check_gradients(module, x[0].copy(), 1e-6)


def test_adaptive_polyphase_makes_a_network_shift_invariant() -> None:
    def network(downsample: Callable[[int], nn.Module]) -> nn.Sequential:
        rng = np.random.default_rng(0)
        conv = [nn.Conv2d(c, k, 3, padding=1, padding_mode="circular", rng=rng) for c, k in ((1, 8), (8, 16))]
        parts = [conv[0], nn.ReLU(), downsample(8), conv[1], nn.ReLU(), downsample(16), nn.GlobalAvgPool()]
        return nn.Sequential(*parts, nn.Linear(16, 10, rng=rng))

    x = np.random.default_rng(1).random((8, 1, 16, 16)).astype(np.float32)

    def change(model: nn.Sequential) -> float:
        y = model(x)
        shifted = [model(np.roll(x, shift, (2, 3))) for shift in ((1, 0), (0, 1), (3, 2), (-5, 7))]
        return max(float(np.abs(s - y).max() / np.abs(y).max()) for s in shifted)

    assert change(network(lambda channels: nn.AdaptivePolyphase2d())) < 1e-5
    assert change(network(lambda channels: nn.MaxPool2d(2))) > 1e-3


def test_global_average_pooling(torch: Any) -> None:
    for shape in ((2, 3, 7), (2, 3, 4, 5)):
        x = np.random.default_rng(0).normal(size=shape)
        check_gradients(nn.GlobalAvgPool(), x, 1e-6)
        close(nn.GlobalAvgPool()(x), torch.from_numpy(x).flatten(2).mean(2).numpy(), 1e-12, "output")


# ---- fine points


def test_relu_of_special_values(torch: Any) -> None:
    x = np.array([-np.inf, -1, -0.0, 0.0, 1e-40, 1, np.inf, np.nan], np.float32)
    module, tx = nn.ReLU(), torch.from_numpy(x).requires_grad_()
    ty = torch.relu(tx)
    np.testing.assert_array_equal(module(x), ty.detach().numpy())
    for value in (2.0, np.inf, np.nan):
        g = np.full_like(x, value)
        (expected,) = torch.autograd.grad(ty, tx, torch.from_numpy(g), retain_graph=True)
        np.testing.assert_array_equal(module.backward(g), expected.numpy())


@pytest.mark.parametrize("overlap", [False, True])
def test_max_pool_of_ties(overlap: bool, torch: Any) -> None:
    x = np.random.default_rng(0).integers(0, 2, (3, 2, 8, 9)).astype(np.float32)
    arguments = (3, 2, 1) if overlap else (2,)
    compare_with_torch(torch, nn.MaxPool2d(*arguments), torch.nn.MaxPool2d(*arguments), x, 0)


def test_max_pool_passes_nan_on() -> None:
    x = np.zeros((1, 1, 4), np.float32)
    x[0, 0, 1] = np.nan
    module = nn.MaxPool1d(2)
    assert np.isnan(module(x)).tolist() == [[[True, False]]]
    np.testing.assert_array_equal(module.backward(np.ones((1, 1, 2), np.float32)), [[[0, 1, 1, 0]]])


def test_max_pool_of_minus_infinity_with_padding() -> None:
    module = nn.MaxPool1d(2, 2, 1)
    assert module(np.full((1, 1, 3), -np.inf, np.float32)).tolist() == [[[-np.inf, -np.inf]]]
    np.testing.assert_array_equal(module.backward(np.ones((1, 1, 2), np.float32)), [[[1, 1, 0]]])


def test_dropout() -> None:
    x = np.ones((200, 300), np.float32)
    module = nn.Dropout(0.25, rng=0)
    y = module(x)
    assert y.dtype == np.float32
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / 0.75, rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 0.01  # five standard deviations are 0.009
    np.testing.assert_array_equal(module.backward(x), y)
    assert (module(x) != y).any()
    np.testing.assert_array_equal(nn.Dropout(0.25, rng=0)(x), y)
    module.eval()
    np.testing.assert_array_equal(module(x), x)
    np.testing.assert_array_equal(module.backward(2 * x), 2 * x)
    assert not nn.Dropout(1.0, rng=0)(x).any()
    nn.manual_seed(3)
    first = nn.Dropout()(x)
    nn.manual_seed(3)
    np.testing.assert_array_equal(nn.Dropout()(x), first)


def test_batch_norm_in_evaluation_after_training(torch: Any) -> None:
    ours, theirs = nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = rng.normal(2, 3, (5, 3, 4, 4)).astype(np.float32)
        ours(x), theirs(torch.from_numpy(x))
    ours.eval(), theirs.eval()
    close(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), 1e-6, "output")
    assert ours.num_batches_tracked == 3
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in ours.state_dict().items()})


def test_batch_norm_of_large_offset_keeps_its_digits() -> None:
    x = np.random.default_rng(0).normal(1000, 1, (64, 1, 32, 32)).astype(np.float32)
    y = nn.BatchNorm2d(1)(x)
    expected = (x - x.mean(dtype=np.float64)) / x.std(dtype=np.float64)
    np.testing.assert_allclose(y, expected, atol=2e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_outputs_keep_the_dtype(dtype: str) -> None:
    for case in LAYERS:
        module = case.ours(dtype)
        y = module.forward(case.x(dtype))
        assert y.dtype == dtype, case
        assert module.backward(np.ones_like(y)).dtype == dtype, case


ERRORS: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    (ValueError, "in_features", lambda: nn.Linear(0, 3)),
    (TypeError, "out_features", lambda: nn.Linear(3, 2.5)),  # type: ignore[arg-type]
    (ValueError, r"last axis must be 3 long.*\(2, 4\)", lambda: nn.Linear(3, 2)(np.ones((2, 4), np.float32))),
    (TypeError, "float64.*float32", lambda: nn.Linear(3, 2)(np.ones((2, 3)))),
    (TypeError, "int64.*float32", lambda: nn.Conv2d(1, 1, 1)(np.ones((1, 1, 2, 2), int))),
    (TypeError, "dtype must be float32 or float64", lambda: nn.Linear(3, 2, dtype=np.float16)),
    (ValueError, "groups=3 must divide", lambda: nn.Conv2d(4, 6, 3, groups=3)),
    (ValueError, "padding_mode", lambda: nn.Conv2d(1, 1, 3, padding_mode="mirror")),
    (ValueError, "'same' needs stride 1", lambda: nn.Conv1d(1, 1, 3, stride=2, padding="same")),
    (ValueError, "padding", lambda: nn.Conv1d(1, 1, 3, padding="full")),
    (ValueError, "padding must be at least 0", lambda: nn.Conv2d(1, 1, 3, padding=-1)),
    (TypeError, "padding must be an int", lambda: nn.Conv2d(1, 1, 3, padding=1.5)),
    (ValueError, "padding must be .* got \\(1, 2, 3\\)", lambda: nn.Conv2d(1, 1, 3, padding=(1, 2, 3))),
    (ValueError, "kernel_size", lambda: nn.Conv2d(1, 1, 0)),
    (ValueError, "input", lambda: nn.Conv2d(2, 1, 3)(np.ones((1, 1, 5, 5), np.float32))),
    (ValueError, "at most half", lambda: nn.MaxPool2d(2, padding=2)),
    (ValueError, r"MaxPool2d.*\(5, 5\)", lambda: nn.MaxPool2d(2)(np.ones((5, 5)))),
    (ValueError, "larger than the padded axis", lambda: nn.AvgPool1d(6)(np.ones((1, 1, 5)))),
    (TypeError, "int64", lambda: nn.ReLU()(np.arange(3))),
    (ValueError, "no axes", lambda: nn.Flatten()(np.ones(3))),
    (ValueError, "between 0 and 1", lambda: nn.Dropout(1.5)),
    (ValueError, r"\(N, 3\) or \(N, 3, L\).*\(2, 4\)", lambda: nn.BatchNorm1d(3)(np.ones((2, 4), np.float32))),
    (ValueError, "more than one value", lambda: nn.BatchNorm1d(3)(np.ones((1, 3), np.float32))),
    (ValueError, "multiples of 2", lambda: nn.AdaptivePolyphase2d()(np.ones((1, 1, 5, 4)))),
    (ValueError, "at least 1", lambda: nn.AdaptivePolyphase2d(p=0.5)),
    (ValueError, "average", lambda: nn.GlobalAvgPool()(np.ones((3, 4)))),
]


@pytest.mark.parametrize(("kind", "words", "call"), ERRORS, ids=[words for _, words, _ in ERRORS])
def test_errors(kind: type[Exception], words: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=words):
        call()
