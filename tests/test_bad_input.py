"""What bad input gets: an error of the right kind that names what is wrong, from every function and backend."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import fastconv as fc

F4, F8 = np.float32, np.float64


def ones(*shape: int, dtype: Any = F4) -> np.ndarray:
    return np.ones(shape, dtype)


def calls(
    axes: int, x: Any, w: Any, bias: Any = None, grad_output: Any = None, **arguments: Any
) -> list[tuple[str, Any]]:
    """The forward, both gradients and each single gradient for the same arguments, as (name, call)."""
    y = ones(1, 1, *[1] * axes) if grad_output is None else grad_output
    conv, backward = getattr(fc, f"conv{axes}d"), getattr(fc, f"conv{axes}d_backward")
    found = [
        ("conv", lambda: conv(x, w, bias, **arguments)),
        ("conv by backend name", lambda: conv(x, w, bias, **arguments, backend="reference")),
        ("backward", lambda: backward(y, x, w, **arguments)),
    ]
    if "padding_mode" not in arguments:
        single_input, single_weight = getattr(fc.grad, f"conv{axes}d_input"), getattr(fc.grad, f"conv{axes}d_weight")
        found += [
            ("grad input", lambda: single_input(np.shape(x), w, y, **arguments)),
            ("grad weight", lambda: single_weight(x, np.shape(w), y, **arguments)),
        ]
    return found


def raises_everywhere(
    error: Any, mentions: tuple[str, ...], axes: int, x: Any, w: Any, only: tuple[str, ...] = (), **arguments: Any
) -> None:
    for name, call in calls(axes, x, w, **arguments):
        if only and name not in only:
            continue
        with pytest.raises(error) as caught:
            call()
        assert isinstance(caught.value, error)
        for mention in mentions:
            assert mention in str(caught.value), f"{name}: {mention!r} is not in {str(caught.value)!r}"


# ---- shapes


@pytest.mark.parametrize(
    ("axes", "x", "w", "arguments", "mentions"),
    [
        (1, (5,), (1, 1, 3), {}, ("(5,)",)),
        (1, (1, 1, 5, 5), (1, 1, 3), {}, ("(1, 1, 5, 5)",)),
        (2, (5, 5), (1, 1, 3, 3), {}, ("(5, 5)",)),
        (2, (1, 1, 1, 5, 5), (1, 1, 3, 3), {}, ("(1, 1, 1, 5, 5)",)),
        (1, (1, 1, 5), (3,), {}, ("(3,)",)),
        (1, (1, 1, 5), (1, 1, 3, 3), {}, ("(1, 1, 3, 3)",)),
        (2, (1, 1, 5, 5), (1, 1, 3), {}, ("(1, 1, 3)",)),
        (1, (1, 2, 5), (1, 3, 3), {}, ("(1, 2, 5)", "(1, 3, 3)")),
        (2, (1, 2, 5, 5), (1, 3, 3, 3), {}, ("(1, 2, 5, 5)", "(1, 3, 3, 3)")),
        (1, (1, 4, 5), (4, 4, 3), {"groups": 2}, ("(1, 4, 5)", "(4, 4, 3)", "groups=2")),
        (1, (1, 3, 5), (4, 1, 3), {"groups": 2}, ("(1, 3, 5)", "(4, 1, 3)", "groups=2")),
        (1, (1, 4, 5), (3, 2, 3), {"groups": 2}, ("(1, 4, 5)", "(3, 2, 3)", "groups=2")),
        (1, (1, 1, 5), (1, 1, 6), {}, ("(1, 1, 5)", "(1, 1, 6)", "larger")),
        (1, (1, 1, 5), (1, 1, 3), {"dilation": 3}, ("(1, 1, 5)", "(1, 1, 3)", "larger", "dilation")),
        (2, (1, 1, 5, 9), (1, 1, 8, 3), {"padding": 1}, ("(1, 1, 5, 9)", "(1, 1, 8, 3)", "larger")),
        (1, (1, 1, 5), (1, 1, 0), {}, ("(1, 1, 0)",)),
        (2, (1, 1, 5, 5), (1, 1, 3, 0), {}, ("(1, 1, 3, 0)",)),
        (1, (1, 1, 5), (0, 1, 3), {}, ("(0, 1, 3)",)),
        (2, (1, 1, 5, 5), (0, 1, 3, 3), {}, ("(0, 1, 3, 3)",)),
        (1, (1, 1, 0), (1, 1, 3), {"padding": 3}, ("(1, 1, 0)",)),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit(backend: str, axes: int, x: Any, w: Any, arguments: Any, mentions: Any) -> None:
    raises_everywhere(ValueError, mentions, axes, ones(*x), ones(*w), **arguments)


@pytest.mark.parametrize("name", ["stride", "dilation", "groups"])
@pytest.mark.parametrize("value", [0, -1])
def test_less_than_one(backend: str, axes: int, name: str, value: int) -> None:
    x, w = ones(1, 2, *[9] * axes), ones(2, 2, *[3] * axes)
    raises_everywhere(ValueError, (name, str(value)), axes, x, w, **{name: value})
    if name != "groups":
        raises_everywhere(ValueError, (name,), axes, x, w, **{name: (1, value)[-axes:]})
    with pytest.raises(ValueError, match=name):
        getattr(fc, f"conv_transpose{axes}d")(x, w, **{name: value})
    with pytest.raises(ValueError, match=name):
        fc.explain(x.shape, w.shape, **{name: value})


@pytest.mark.parametrize("value", [-1, (-1,), ((0, -1),), ((-2, 3),)], ids=str)
def test_negative_padding(backend: str, axes: int, value: Any) -> None:
    x, w = ones(1, 2, *[9] * axes), ones(2, 2, *[3] * axes)
    raises_everywhere(ValueError, ("padding",), axes, x, w, padding=value)
    with pytest.raises(ValueError, match="padding"):
        getattr(fc, f"conv_transpose{axes}d")(x, w, padding=value)


@pytest.mark.parametrize("value", ["", "SAME", "full", "zeros", "same "])
def test_padding_strings(backend: str, axes: int, value: str) -> None:
    x, w = ones(1, 2, *[9] * axes), ones(2, 2, *[3] * axes)
    raises_everywhere(ValueError, ("padding", repr(value)), axes, x, w, padding=value)


def test_same_needs_stride_one(backend: str, axes: int) -> None:
    x, w = ones(1, 2, *[9] * axes), ones(2, 2, *[3] * axes)
    raises_everywhere(ValueError, ("same", "stride"), axes, x, w, padding="same", stride=2)


@pytest.mark.parametrize("value", [(1, 2), [0, 0], (1, 2, 3), ((1, 2), (3, 4)), ((1, 2, 3),), ((1,),)], ids=str)
def test_padding_of_the_wrong_length_1d(backend: str, value: Any) -> None:
    raises_everywhere(ValueError, ("padding",), 1, ones(1, 1, 9), ones(1, 1, 3), padding=value)


@pytest.mark.parametrize("value", [(1, 2, 3), (), ((1, 2), (3, 4), (5, 6)), ((1, 2), (3,))], ids=str)
def test_padding_of_the_wrong_length_2d(backend: str, value: Any) -> None:
    raises_everywhere(ValueError, ("padding",), 2, ones(1, 1, 9, 9), ones(1, 1, 3, 3), padding=value)


@pytest.mark.parametrize("name", ["stride", "dilation"])
def test_steps_of_the_wrong_length(backend: str, axes: int, name: str) -> None:
    x, w = ones(1, 2, *[9] * axes), ones(2, 2, *[3] * axes)
    raises_everywhere(ValueError, (name,), axes, x, w, **{name: (1,) * (axes + 1)})
    raises_everywhere((TypeError, ValueError), (name,), axes, x, w, **{name: ()})


@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups"])
@pytest.mark.parametrize("value", [1.0, 1.5, np.float64(1), None, (1.0,), True, np.bool_(True), 1j], ids=str)
def test_not_an_int(backend: str, axes: int, name: str, value: Any) -> None:
    x, w = ones(1, 2, *[9] * axes), ones(2, 2, *[3] * axes)
    raises_everywhere((TypeError, ValueError), (name,), axes, x, w, **{name: value})
    with pytest.raises((TypeError, ValueError), match=name):
        getattr(fc, f"conv_transpose{axes}d")(x, w, **{name: value})


@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [{1}, {1: 2}, b"\x01\x01"], ids=str)
def test_no_sequence_of_ints(backend: str, axes: int, name: str, value: Any) -> None:
    """Iterable, and made of ints, but in no order that a user could have meant."""
    raises_everywhere(TypeError, (name,), axes, ones(1, 2, *[9] * axes), ones(2, 2, *[3] * axes), **{name: value})


def test_groups_are_one_int(backend: str) -> None:
    x, w = ones(1, 2, 9), ones(2, 2, 3)
    raises_everywhere(TypeError, ("groups must be an int, got 1.0",), 1, x, w, groups=1.0)
    raises_everywhere(ValueError, ("groups must be an int, got (1, 1)",), 1, x, w, groups=(1, 1))


def test_padding_as_an_array(backend: str) -> None:
    """As np.pad takes it; a bare pair is as ambiguous in 1-D as it is in a tuple."""
    x, w = ones(1, 1, 5, 6), ones(1, 1, 3, 3)
    pairs = ((1, 0), (2, 1))
    np.testing.assert_array_equal(fc.conv2d(x, w, padding=np.array(pairs)), fc.conv2d(x, w, padding=pairs))
    raises_everywhere(ValueError, ("ambiguous",), 1, ones(1, 1, 9), ones(1, 1, 3), padding=np.array([1, 2]))


@pytest.mark.parametrize("value", [None, True, 1, "abc", {1, 2, 3}, {0: 1, 1: 1, 2: 1}, ([1, 2], 1, 1)], ids=str)
def test_output_mask_that_is_none(backend: str, value: Any) -> None:
    for call in (fc.conv1d_backward, fc.conv_transpose1d_backward):
        with pytest.raises(TypeError, match="output_mask must hold three bools"):
            call(ones(1, 1, 9), ones(1, 1, 9), ones(1, 1, 1), output_mask=value)


@pytest.mark.parametrize("value", [2, "2", (2.0,), (True,)], ids=str)
def test_bias_shape_that_is_none(backend: str, value: Any) -> None:
    with pytest.raises(TypeError, match="bias_shape must be a sequence of ints"):
        fc.conv1d_backward(ones(1, 2, 9), ones(1, 1, 9), ones(2, 1, 1), bias_shape=value)


@pytest.mark.parametrize("value", ["constant", "", "Reflect", None, 0, ["zeros"]], ids=str)
def test_padding_mode(backend: str, axes: int, value: Any) -> None:
    x, w = ones(1, 2, *[9] * axes), ones(2, 2, *[3] * axes)
    raises_everywhere((TypeError, ValueError), ("padding_mode",), axes, x, w, padding=1, padding_mode=value)


@pytest.mark.parametrize(("mode", "most"), [("reflect", 4), ("circular", 5)])
def test_padding_longer_than_the_axis(backend: str, axes: int, mode: str, most: int) -> None:
    x, w = ones(1, 1, *(5, 9)[:axes]), ones(1, 1, *[3] * axes)
    getattr(fc, f"conv{axes}d")(x, w, padding=most, padding_mode=mode)
    getattr(fc, f"conv{axes}d")(x, w, padding=most + 20, padding_mode="replicate")
    mentions = (mode, str(x.shape))
    raises_everywhere(ValueError, mentions, axes, x, w, padding=most + 1, padding_mode=mode)
    pairs = ((0, most + 1), (0, 0))[:axes]
    raises_everywhere(ValueError, mentions, axes, x, w, padding=pairs, padding_mode=mode)


@pytest.mark.parametrize("shape", [(), (3,), (1,), (2, 1), (2, 4), (1, 2, 3), (2, 3, 1), (3, 2), (2, 2)], ids=str)
def test_bias_shapes_are_exact(backend: str, axes: int, shape: Any) -> None:
    x, w = ones(1, 2, *(5, 5)[:axes]), ones(2, 2, *[3] * axes)
    with pytest.raises(ValueError, match="bias") as caught:
        getattr(fc, f"conv{axes}d")(x, w, ones(*shape))
    assert str(shape) in str(caught.value)
    assert "(2,)" in str(caught.value)
    with pytest.raises(ValueError, match="bias"):
        getattr(fc, f"conv_transpose{axes}d")(x, w, ones(*shape))


@pytest.mark.parametrize("shape", [(1, 3, 6), (1, 2, 7), (2, 2, 6), (2, 6), (1, 2, 1), (1, 1, 6), (12,)], ids=str)
def test_grad_output_that_does_not_fit(backend: str, shape: Any) -> None:
    x, w, y = ones(1, 3, 8), ones(2, 3, 3), ones(*shape)
    for call in (
        lambda: fc.conv1d_backward(y, x, w),
        lambda: fc.conv2d_backward(y[..., None, :], x[:, :, None], w[:, :, None]),
        lambda: fc.grad.conv1d_input(x.shape, w, y),
        lambda: fc.grad.conv1d_weight(x, w.shape, y),
    ):
        with pytest.raises(ValueError, match="grad_output") as caught:
            call()
        assert "6" in str(caught.value)
        assert str(shape[-1]) in str(caught.value)
    with pytest.raises(ValueError, match="grad_output"):
        fc.conv_transpose1d_backward(y, ones(1, 2, 9), ones(2, 3, 3))


@pytest.mark.parametrize("size", [(1, 3, 9), (1, 2, 8), (2, 3, 8), (3, 8), (8,), (), (1, 3, -8), (1, 3, 8, 1)], ids=str)
def test_input_size_that_does_not_fit(backend: str, size: Any) -> None:
    with pytest.raises(ValueError, match=r"\("):
        fc.grad.conv1d_input(size, ones(2, 3, 3), ones(1, 2, 6))


@pytest.mark.parametrize("size", [(1, 3, 3), (2, 2, 3), (2, 3, 4), (2, 3), (), (2, 3, 3, 1), (2, 3, -3)], ids=str)
def test_weight_size_that_does_not_fit(backend: str, size: Any) -> None:
    with pytest.raises(ValueError, match=r"\("):
        fc.grad.conv1d_weight(ones(1, 3, 8), size, ones(1, 2, 6))


@pytest.mark.parametrize("size", [8, None, 2.5, (1, 3, 8.0), "138"], ids=str)
def test_sizes_are_sequences_of_ints(backend: str, size: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="input_size"):
        fc.grad.conv1d_input(size, ones(2, 3, 3), ones(1, 2, 6))
    with pytest.raises((TypeError, ValueError), match="weight_size"):
        fc.grad.conv1d_weight(ones(1, 3, 8), size, ones(1, 2, 6))


# ---- transposed


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        ({"output_padding": 1}, ("output_padding", "stride", "dilation")),
        ({"output_padding": 2, "stride": 2}, ("output_padding",)),
        ({"output_padding": 3, "dilation": 3, "stride": 2}, ("output_padding",)),
        ({"output_padding": -1, "stride": 2}, ("output_padding",)),
        ({"padding": 4}, ("(1, 4, 5)", "(4, 3, 3)")),
        ({"groups": 3}, ("(1, 4, 5)", "groups=3")),
    ],
    ids=str,
)
def test_transposed(backend: str, arguments: Any, mentions: Any) -> None:
    for call in (
        lambda: fc.conv_transpose1d(ones(1, 4, 5), ones(4, 3, 3), **arguments),
        lambda: fc.conv_transpose1d_backward(ones(1, 3, 7), ones(1, 4, 5), ones(4, 3, 3), **arguments),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the mentions are checked below)
            call()
        for mention in mentions:
            assert mention in str(caught.value)
    for value in (1.0, (0.0,), "same"):
        with pytest.raises(TypeError, match="output_padding"):
            fc.conv_transpose1d(ones(1, 4, 5), ones(4, 3, 3), output_padding=value)


@pytest.mark.parametrize(
    ("x", "w"),
    [((1, 3, 5), (4, 3, 3)), ((5,), (4, 3, 3)), ((1, 4, 5), (4, 3)), ((1, 4, 5), (4, 3, 0)), ((1, 4, 5), (4, 0, 3))],
    ids=str,
)
def test_transposed_shapes(backend: str, x: Any, w: Any) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        fc.conv_transpose1d(ones(*x), ones(*w))
    assert str(x) in str(caught.value) or str(w) in str(caught.value)


# ---- dtypes


@pytest.mark.parametrize(
    "dtype", ["int64", "int32", "uint8", "bool", "complex64", "complex128", "object", "float16", "longdouble", "U1"]
)
def test_dtypes_other_than_float32_and_float64(backend: str, axes: int, dtype: str) -> None:
    x, w = ones(1, 2, *[9] * axes), ones(2, 2, *[3] * axes)
    y = getattr(fc, f"conv{axes}d")(x, w)
    b = ones(2)
    shown = str(np.dtype(dtype))
    transpose = getattr(fc, f"conv_transpose{axes}d")
    for arrays in ((x.astype(dtype), w, b, y), (x, w.astype(dtype), b, y), [a.astype(dtype) for a in (x, w, b, y)]):
        for name, call in calls(axes, *arrays):
            if name == "grad input" and arrays[1] is w and arrays[3] is y:
                continue  # takes no input
            if name == "grad weight" and arrays[0] is x and arrays[3] is y:
                continue
            with pytest.raises(TypeError) as caught:
                call()
            assert shown in str(caught.value)
            assert "float32" in str(caught.value)
            assert "astype" in str(caught.value)
        with pytest.raises(TypeError, match="astype"):
            transpose(*arrays[:2])
    for function in (getattr(fc, f"conv{axes}d"), transpose):
        with pytest.raises(TypeError, match="bias") as caught:
            function(x, w, b.astype(dtype))
        assert shown in str(caught.value)
        assert "float32" in str(caught.value)


def test_mixed_dtypes(backend: str, axes: int) -> None:
    shapes = (1, 2, *[9] * axes), (2, 2, *[3] * axes), (2,), (1, 2, *[7] * axes)
    x, w, b, y = (ones(*shape) for shape in shapes)
    conv, backward = getattr(fc, f"conv{axes}d"), getattr(fc, f"conv{axes}d_backward")
    for call in (
        lambda: conv(x, w.astype(F8)),
        lambda: conv(x.astype(F8), w),
        lambda: conv(x, w, b.astype(F8)),
        lambda: conv(x.astype(F8), w.astype(F8), b),
        lambda: backward(y.astype(F8), x, w),
        lambda: backward(y, x.astype(F8), w),
        lambda: backward(y, x, w.astype(F8), output_mask=(False, True, False)),
        lambda: getattr(fc.grad, f"conv{axes}d_input")(x.shape, w, y.astype(F8)),
        lambda: getattr(fc.grad, f"conv{axes}d_weight")(x, w.shape, y.astype(F8)),
        lambda: getattr(fc, f"conv_transpose{axes}d")(y, w.astype(F8)),
        lambda: getattr(fc, f"conv_transpose{axes}d_backward")(x.astype(F8), y, w),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        for mention in ("float32", "float64", "astype"):
            assert mention in str(caught.value)


# ---- names


def test_unknown_names(backend: str) -> None:
    x, w, y = ones(1, 1, 4), ones(1, 1, 3), ones(1, 1, 2)
    for call in (
        lambda **k: fc.conv1d(x, w, **k),
        lambda **k: fc.conv1d_backward(y, x, w, **k),
        lambda **k: fc.conv_transpose1d(y, w, **k),
        lambda **k: fc.grad.conv1d_input(x.shape, w, y, **k),
        lambda **k: fc.grad.conv1d_weight(x, w.shape, y, **k),
        lambda **k: fc.explain(x.shape, w.shape, **k),
    ):
        with pytest.raises(ValueError, match="nonsense"):
            call(backend="nonsense")
        with pytest.raises(ValueError, match="nonsense"):
            call(algorithm="nonsense")
        for no_name in ("", 1, ["direct"]):
            with pytest.raises(ValueError, match="unknown backend"):
                call(backend=no_name)
            with pytest.raises(ValueError, match="unknown algorithm"):
                call(algorithm=no_name)
    with pytest.raises(ValueError, match="nonsense"):
        fc.use_backend("nonsense")
    assert fc.conv1d(x, w).shape == (1, 1, 2)


# ---- sizes beyond the machine


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": 1 << 40},
        {"padding": 1 << 62},
        {"padding": 10**30},
        {"padding": ((0, 1 << 50),)},
        {"padding": 1 << 40, "stride": 1 << 5},
        {"padding": (1 << 63) - 1},
        {"padding": 1 << 41, "padding_mode": "replicate"},
    ],
    ids=str,
)
def test_sizes_that_fit_no_memory(backend: str, arguments: Any) -> None:
    with pytest.raises((MemoryError, ValueError)):
        fc.conv1d(ones(1, 1, 4), ones(1, 1, 3), **arguments)


def test_gradients_that_fit_no_memory(backend: str) -> None:
    huge = 1 << 42
    for call in (
        lambda: fc.grad.conv1d_input((1, 1, huge), ones(1, 1, 1), ones(1, 1, 4), stride=huge // 4),
        lambda: fc.grad.conv1d_input((1, 1, 10**25), ones(1, 1, 1), ones(1, 1, 1), stride=10**25),
        lambda: fc.grad.conv2d_input((1, 1, huge, huge), ones(1, 1, 1, 1), ones(1, 1, 1, 1), stride=huge),
        lambda: fc.grad.conv1d_weight(ones(1, 1, 4), (1, 1, huge), ones(1, 1, 1), padding=huge),
        lambda: fc.conv_transpose1d(ones(1, 1, 4), ones(1, 1, 3), stride=huge),
        lambda: fc.conv_transpose1d(ones(1, 1, 4), ones(1, 1, 3), dilation=10**25),
        lambda: fc.conv_transpose2d(ones(1, 1, 4, 4), ones(1, 1, 3, 3), stride=1 << 21),
    ):
        with pytest.raises((MemoryError, ValueError)):
            call()


def test_a_copy_that_fits_no_memory(backend: str) -> None:
    """One number seen as 2**44 of them: the copy that the kernels would need is refused."""
    view = np.broadcast_to(np.float32(1), (1, 1, 1 << 22, 1 << 22))
    with pytest.raises((MemoryError, ValueError)):
        fc.conv2d(view, ones(1, 1, 1, 1))


@pytest.mark.parametrize("columns", [3, 16, 40])
@pytest.mark.parametrize("less", [0, 1, 8, 16])
def test_a_padded_image_whose_bytes_overflow(backend: str, columns: int, less: int) -> None:
    """Counted in 64 bits, the workspace of some of these would be a few hundred bytes (once a crash)."""
    x, w = ones(1, 1, 16, columns), ones(1, 1, 3, 3)
    steps: dict[str, Any] = {"padding": ((1 << 31) - less, 1 << 31), "dilation": ((1 << 31) - less, 1 << 31)}
    raises_everywhere(ValueError, ("channel(s) of", "can be handled"), 2, x, w, **steps)
    with pytest.raises(ValueError, match="can be handled"):
        fc.explain(x.shape, w.shape, **steps)


def test_huge_steps_with_little_to_do(backend: str) -> None:
    """Numbers without effect may be as large as they like."""
    x, w = np.arange(4, dtype=F8).reshape(1, 1, 4), np.ones((1, 1, 1))
    np.testing.assert_array_equal(fc.conv1d(x, w, stride=10**30), x[..., :1])
    np.testing.assert_array_equal(fc.conv1d(x, w, dilation=10**30), x)
    np.testing.assert_array_equal(fc.conv1d(x, np.ones((1, 1, 3)), stride=1 << 40), [[[3.0]]])
    np.testing.assert_array_equal(fc.conv1d(x, w, stride=1 << 22), x[..., :1])


def test_no_warning_for_ordinary_or_extraordinary_numbers(backend: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = np.array([[[1.0, np.inf, np.nan, 1e300, 1e-320, 2.0]]])
        fc.conv1d(x, x[..., :3], padding=2)
        fc.conv1d_backward(x, x, x[..., :1])
        fc.conv1d(x[:0], x[..., :3])
