"""The first link of the chain of trust: torch, and finite differences, check the reference."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastconv as fc
from fastconv.geometry import conv_geometry

MODES = ("zeros", "reflect", "replicate", "circular")


@pytest.fixture(autouse=True)
def _reference() -> Any:
    with fc.use_backend("reference"):
        yield


def torch_conv(
    torch: Any,
    x: Any,
    w: Any,
    b: Any,
    pads: Any,
    mode: str = "zeros",
    stride: Any = 1,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """conv1d or conv2d with any padding: F.pad first. An untied bias is added to the result."""
    functional = torch.nn.functional
    axes = w.dim() - 2
    flat = [n for pair in reversed(pads[-axes:]) for n in pair]
    padded = functional.pad(x, flat, mode="constant" if mode == "zeros" else mode)
    tied = b if b is None or b.dim() == 1 else None
    y = getattr(functional, f"conv{axes}d")(padded, w, tied, stride, 0, dilation, groups)
    return y if b is None or b.dim() == 1 else y + b


def tolerance(dtype: str, terms: int, scale: float) -> float:
    """Two sums of that many products in any order, each with its own rounding."""
    return 2 * (terms + 2) * float(np.finfo(dtype).eps) * max(scale, 1e-30)


def assert_close(got: np.ndarray | None, expected: Any, terms: int, what: str) -> None:
    assert got is not None
    right = expected.detach().numpy() if hasattr(expected, "detach") else expected
    assert got.shape == right.shape, what
    assert got.dtype == right.dtype, what
    if got.size:
        scale = float(np.abs(right).max()) + 1
        assert np.abs(got - right).max() <= tolerance(got.dtype.name, min(terms, 30), scale), what


def check_against_torch(
    torch: Any, case: cases.Case, dtype: str, bias: str, mode: str = "zeros", batched: bool = True
) -> None:
    """Forward and all gradients of one case, with bias none, tied or untied."""
    g, pads = conv_geometry(case.axes, case.x_shape, case.w_shape, **case.arguments, padding_mode=mode)
    plane = g.y_shape[-case.axes :]
    bias_shape = {"none": None, "tied": (g.K,), "untied": (g.K, *plane)}[bias]
    x = cases.normal(case.x_shape if batched else case.x_shape[1:], dtype, "x", case.name)
    w = cases.normal(case.w_shape, dtype, "w", case.name)
    b = None if bias_shape is None else cases.normal(bias_shape, dtype, "b", case.name)
    leaves = [None if a is None else torch.from_numpy(a).requires_grad_() for a in (x, w, b)]
    y = torch_conv(torch, *leaves, pads, mode, case.stride, case.dilation, case.groups)
    gy = cases.normal(tuple(y.shape), dtype, "y", case.name)
    y.backward(torch.from_numpy(gy))

    conv, backward = getattr(fc, f"conv{case.axes}d"), getattr(fc, f"conv{case.axes}d_backward")
    assert_close(conv(x, w, b, **case.arguments, padding_mode=mode), y, cases.terms("forward", g), "forward")
    got = backward(gy, x, w, **case.arguments, padding_mode=mode, bias_shape=bias_shape)
    for name, operation, gradient, leaf in zip(
        ("grad_input", "grad_weight", "grad_bias"),
        ("backward_input", "backward_weight", "backward_weight"),
        got,
        leaves,
        strict=True,
    ):
        if leaf is not None:
            assert_close(gradient, leaf.grad, cases.terms(operation, g), name)


@pytest.mark.parametrize("case", cases.CASES, ids=str)
def test_matches_torch(torch: Any, case: cases.Case) -> None:
    bias = ("none", "tied", "untied")[sum(map(ord, case.name)) % 3]
    for dtype in ("float32", "float64"):
        check_against_torch(torch, case, dtype, bias)


@pytest.mark.parametrize("bias", ["none", "tied", "untied"])
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("name", ["groups_2", "kernel_is_input", "plane_stride_2", "kernel_is_plane"])
def test_biases_and_ranks_match_torch(torch: Any, name: str, batched: bool, bias: str, dtype: str) -> None:
    case = cases.BY_NAME[name]
    single = cases.Case(case.name, case.size, case.c_in, case.c_out, case.k, 1, **case.arguments)
    check_against_torch(torch, case if batched else single, dtype, bias, batched=batched)


PADDINGS: dict[int, tuple[Any, ...]] = {
    1: (0, 2, (2,), [1], ((1, 3),), ((0, 2),), [[4, 0]], "valid", "same"),
    2: (0, 2, (2,), (1, 3), [0, 2], ((1, 3), (0, 2)), [(2, 0), [0, 4]], ((1, 2),), "valid", "same"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("axes", "padding"), [(a, p) for a in PADDINGS for p in PADDINGS[a]], ids=str)
@pytest.mark.parametrize("kernel", [3, 4])
def test_padding_forms_and_modes_match_torch(torch: Any, axes: int, padding: Any, mode: str, kernel: int) -> None:
    for stride in (1,) if padding == "same" else (1, 3):
        case = cases.c("padded", (7, 8)[:axes], 2, 3, kernel, n=2, padding=padding, stride=stride, dilation=2)
        if padding == "valid" or padding == 0:
            case = cases.c("padded", (9, 10)[:axes], 2, 3, kernel, n=2, padding=padding, stride=stride, dilation=2)
        for dtype in ("float32", "float64"):
            check_against_torch(torch, case, dtype, "untied", mode)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_same_is_torchs_own_same(torch: Any, axes: int, kernel: int, dilation: int) -> None:
    x = cases.integers((2, 2, *(9, 11)[:axes]), "float64", "x")
    w = cases.integers((3, 2, *(kernel, kernel + 1)[:axes]), "float64", "w")
    arguments = {"padding": "same", "dilation": dilation}
    right = getattr(torch.nn.functional, f"conv{axes}d")(torch.from_numpy(x), torch.from_numpy(w), **arguments)
    np.testing.assert_array_equal(getattr(fc, f"conv{axes}d")(x, w, **arguments), right.numpy())


@pytest.mark.parametrize("mode", MODES[1:])
def test_modes_are_those_of_torchs_layers(torch: Any, axes: int, mode: str) -> None:
    layer = getattr(torch.nn, f"Conv{axes}d")(3, 4, 3, stride=2, padding=2, padding_mode=mode, dtype=torch.float64)
    x = torch.randn(2, 3, *(7, 8)[:axes], dtype=torch.float64)
    right = layer(x).detach().numpy()
    weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
    got = getattr(fc, f"conv{axes}d")(x.numpy(), weight, bias, stride=2, padding=2, padding_mode=mode)
    np.testing.assert_allclose(got, right, atol=1e-13)


TRANSPOSED = [
    # size, c_in, c_out, kernel, stride, padding, output_padding, groups, dilation
    ((9,), 3, 4, (3,), 1, 0, 0, 1, 1),
    ((9,), 4, 6, (4,), 3, 1, 2, 2, 1),
    ((9,), 4, 4, (3,), 2, 4, 3, 4, 4),
    ((1,), 2, 3, (5,), 5, 0, 4, 1, 1),
    ((7,), 2, 3, (2,), 1, 1, 2, 1, 3),
    ((5, 6), 3, 4, (3, 3), 1, 1, 0, 1, 1),
    ((5, 6), 4, 6, (4, 3), (2, 3), (1, 2), (1, 2), 2, 1),
    ((5, 6), 4, 4, (3, 2), (2, 1), 0, (2, 1), 4, (3, 2)),
    ((1, 1), 2, 3, (2, 5), (2, 5), 0, (1, 4), 1, 1),
]


@pytest.mark.parametrize("arguments", TRANSPOSED, ids=str)
@pytest.mark.parametrize("bias", ["none", "tied", "untied"])
def test_transposed_matches_torch(torch: Any, arguments: Any, bias: str, dtype: str) -> None:
    size, c_in, c_out, kernel, *steps = arguments
    axes = len(size)
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    named = dict(zip(names, steps, strict=True))
    for batched in (True, False):
        x = cases.normal((3, c_in, *size)[0 if batched else 1 :], dtype, "x")
        w = cases.normal((c_in, c_out // named["groups"], *kernel), dtype, "w")
        tx, tw = (torch.from_numpy(a).requires_grad_() for a in (x, w))
        function = getattr(torch.nn.functional, f"conv_transpose{axes}d")
        right = function(tx, tw, None, *steps)
        plane = right.shape[-axes:]
        b = {"none": None, "tied": (c_out,), "untied": (c_out, *plane)}[bias]
        b = None if b is None else cases.normal(b, dtype, "b")
        if b is not None:
            right = right + torch.from_numpy(b if bias == "untied" else b.reshape(-1, *[1] * axes))
        terms = c_in * 30
        assert_close(getattr(fc, f"conv_transpose{axes}d")(x, w, b, *steps), right, terms, "positional, torch's order")
        assert_close(getattr(fc, f"conv_transpose{axes}d")(x, w, b, **named), right, terms, "by name")
        gy = cases.normal(tuple(right.shape), dtype, "y")
        right.backward(torch.from_numpy(gy))
        gradients = getattr(fc, f"conv_transpose{axes}d_backward")(gy, x, w, **named)
        assert_close(gradients[0], tx.grad, terms, "grad_input")
        assert_close(gradients[1], tw.grad, 30, "grad_weight")
        summed = gy.sum(axis=tuple(i for i in range(gy.ndim) if i != gy.ndim - axes - 1), dtype=np.float64)
        np.testing.assert_allclose(gradients[2], summed, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", cases.SOME_CASES, ids=str)
def test_grad_matches_torch(torch: Any, case: cases.Case, dtype: str) -> None:
    if not isinstance(case.padding, int) and not all(isinstance(p, int) for p in case.padding):
        case = cases.Case(case.name, case.size, case.c_in, case.c_out, case.k, case.n, 1, 2, case.dilation, case.groups)
    x, w, y = (cases.normal(s, dtype, s) for s in (case.x_shape, case.w_shape, case.y_shape))
    tx, tw, ty = map(torch.from_numpy, (x, w, y))
    g, steps = case.geometry, (case.stride, case.padding, case.dilation, case.groups)
    for side, mine, theirs in (
        ("input", (x.shape, w, y), (tx.shape, tw, ty)),
        ("weight", (x, w.shape, y), (tx, tw.shape, ty)),
    ):
        name = f"conv{case.axes}d_{side}"
        terms = cases.terms(f"backward_{side}", g)
        assert_close(getattr(fc.grad, name)(*mine, *steps), getattr(torch.nn.grad, name)(*theirs, *steps), terms, name)


@settings(max_examples=50)
@given(data=st.data())
def test_random_cases_match_torch(torch: Any, axes: int, data: st.DataObject) -> None:
    draw = data.draw
    groups, n = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    per_axis = [
        (draw(st.integers(6, 14)), draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 2)))
        for _ in range(axes)
    ]
    size, kernel, stride, dilation = zip(*per_axis, strict=True)
    padding = tuple((draw(st.integers(0, 5)), draw(st.integers(0, 5))) for _ in range(axes))
    case = cases.Case(
        "random", size, groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3)), kernel, n, stride, padding,
        dilation, groups,
    )  # fmt: skip
    mode = draw(st.sampled_from(MODES))
    if any(d * (k - 1) >= n_x + sum(p) for n_x, k, d, p in zip(size, kernel, dilation, padding, strict=True)):
        return
    check_against_torch(torch, case, "float64", draw(st.sampled_from(["none", "tied", "untied"])), mode)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_those_of_finite_differences(axes: int, mode: str) -> None:
    """The map is linear in each argument, so a central difference has no error but rounding."""
    x = cases.normal((2, 2, *(5, 6)[:axes]), "float64", "x")
    w = cases.normal((4, 1, *(3, 2)[:axes]), "float64", "w")
    conv, backward = getattr(fc, f"conv{axes}d"), getattr(fc, f"conv{axes}d_backward")
    arguments = {"stride": 2, "padding": ((1, 2), (2, 0))[:axes], "groups": 2, "padding_mode": mode}
    b = cases.normal(conv(x, w, **arguments).shape[1:], "float64", "b")
    gy = cases.normal((2, *b.shape), "float64", "y")
    gradients = backward(gy, x, w, **arguments, bias_shape=b.shape)
    for array, gradient in zip((x, w, b), gradients, strict=True):
        for index in np.ndindex(array.shape):
            kept = array[index]
            losses = []
            for value in (kept + 0.5, kept - 0.5):
                array[index] = value
                losses.append((conv(x, w, b, **arguments) * gy).sum())
            array[index] = kept
            assert abs(losses[0] - losses[1] - gradient[index]) < 1e-10


def test_the_three_operations_are_one_bilinear_map() -> None:
    """<y, forward(x, w)> = <x, backward_input(y, w)> = <w, backward_weight(x, y)>, exactly on integers."""
    for name, g in cases.GEOMETRIES.items():
        arrays = {letter: cases.integers(cases.shape_of(letter, g), "float64", letter, name) for letter in "xwy"}
        sides = [
            (arrays[cases.target(operation)] * cases.by_definition(operation, g, arrays)).sum()
            for operation in ("forward", "backward_input", "backward_weight")
        ]
        assert sides[0] == sides[1] == sides[2], name
