"""The public functions, as every backend carries them out: arguments, forms of input, out=, empty arrays, masks."""

from __future__ import annotations

import itertools
from typing import Any

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_sets import FAST_KERNELS, Kernels

import fastconv as fc
from fastconv.geometry import OPERATIONS, conv_geometry

MODES = ("zeros", "reflect", "replicate", "circular")


def both(backend: str, function: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """What the function gives with the backend in use, and with the reference.

    Under strict precision: small integers are exact in direct summation, not in Winograd's.
    """
    with fc.use_backend(backend), fc.precision("strict"):
        got = function(*args, **kwargs)
    with fc.use_backend("reference"):
        return got, function(*args, **kwargs)


def assert_same(got: Any, right: Any) -> None:
    for a, b in zip(got, right, strict=True) if isinstance(right, tuple) else [(got, right)]:
        assert (a is None) == (b is None)
        if b is not None:
            assert a.dtype == b.dtype
            assert a.flags.c_contiguous
            assert a.flags.writeable
            assert a.flags.owndata or a.base is not None
            np.testing.assert_array_equal(a, b, strict=True)


# ---- every function through its public name, with and without the common-case shortcut


@pytest.mark.parametrize("case", cases.SOME_CASES, ids=str)
def test_public_functions(fast_kernels: Kernels, case: cases.Case, dtype: str) -> None:
    axes, name, g = case.axes, case.name, case.geometry
    x, w, y = (cases.integers(s, dtype, s, name) for s in (case.x_shape, case.w_shape, case.y_shape))
    tied = cases.integers((g.K,), dtype, "b", name)
    untied = cases.integers(case.y_shape[1:], dtype, "u", name)
    conv, backward = getattr(fc, f"conv{axes}d"), getattr(fc, f"conv{axes}d_backward")
    arguments = case.arguments
    for bias in (None, tied, untied):
        assert_same(*both(fast_kernels.backend, conv, x, w, bias, **arguments))
        shape = None if bias is None else bias.shape
        assert_same(*both(fast_kernels.backend, backward, y, x, w, **arguments, bias_shape=shape))
    assert_same(*both(fast_kernels.backend, conv, x[0], w, untied, **arguments))
    assert_same(*both(fast_kernels.backend, backward, y[0], x[0], w, **arguments, bias_shape=untied.shape))
    for side, mine in (("input", (x.shape, w, y)), ("weight", (x, w.shape, y))):
        function = getattr(fc.grad, f"conv{axes}d_{side}")
        assert_same(*both(fast_kernels.backend, function, *mine, **arguments))
    assert_same(*both(fast_kernels.backend, getattr(fc.grad, f"conv{axes}d_input"), x.shape[1:], w, y[0], **arguments))
    assert_same(*both(fast_kernels.backend, getattr(fc.grad, f"conv{axes}d_weight"), x[0], w.shape, y[0], **arguments))


@pytest.mark.parametrize("case", [case for case in cases.SOME_CASES if case.padding != "same"], ids=str)
def test_public_transposed_functions(fast_kernels: Kernels, case: cases.Case, dtype: str) -> None:
    axes, name = case.axes, case.name
    y, w = (cases.integers(s, dtype, s, name) for s in (case.y_shape, case.w_shape))
    function = getattr(fc, f"conv_transpose{axes}d")
    for extra in (0, 1):
        steps = np.maximum(np.broadcast_to(case.stride, axes), np.broadcast_to(case.dilation, axes))
        arguments = {**case.arguments, "output_padding": tuple(int(min(extra, s - 1)) for s in steps)}
        plain, right = both(fast_kernels.backend, function, y, w, **arguments)
        assert_same(plain, right)
        tied = cases.integers(plain.shape[1:2], dtype, "b")
        untied = cases.integers(plain.shape[1:], dtype, "u")
        for bias in (tied, untied):
            assert_same(*both(fast_kernels.backend, function, y, w, bias, **arguments))
        assert_same(*both(fast_kernels.backend, function, y[0], w, untied, **arguments))
        gradients = getattr(fc, f"conv_transpose{axes}d_backward")
        gy = cases.integers(plain.shape, dtype, "g")
        assert_same(*both(fast_kernels.backend, gradients, gy, y, w, **arguments))
        assert_same(*both(fast_kernels.backend, gradients, gy[0], y[0], w, **arguments))


PADDINGS: dict[int, tuple[Any, ...]] = {
    1: (0, 2, (2,), [1], np.int64(1), ((1, 3),), ((0, 2),), [[4, 0]], "valid", "same"),
    2: (0, 2, (2,), (1, 3), [0, 2], np.int64(1), ((1, 3), (0, 2)), [(2, 0), [0, 4]], ((1, 2),), "valid", "same"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("axes", "padding"), [(a, p) for a in PADDINGS for p in PADDINGS[a]], ids=str)
def test_padding_forms_and_modes(fast_kernels: Kernels, axes: int, padding: Any, mode: str, dtype: str) -> None:
    x = cases.integers((2, 4, *(7, 8)[:axes]), dtype, "x")
    for kernel, stride in ((3, 1), (4, 1), (3, 2)):
        if padding == "same" and stride != 1:
            continue
        w = cases.integers((6, 2, *(kernel, kernel - 1)[:axes]), dtype, "w")
        arguments = {"padding": padding, "padding_mode": mode, "stride": stride, "groups": 2}
        got, right = both(fast_kernels.backend, getattr(fc, f"conv{axes}d"), x, w, **arguments)
        assert_same(got, right)
        y = cases.integers(got.shape, dtype, "y")
        backward = getattr(fc, f"conv{axes}d_backward")
        assert_same(*both(fast_kernels.backend, backward, y, x, w, **arguments, bias_shape=got.shape[1:]))


@pytest.mark.parametrize("mode", MODES)
def test_padding_modes_pad_as_numpy_does(backend: str, axes: int, mode: str) -> None:
    """An identity kernel shows the padded input itself; circular may be as long as the axis."""
    x = cases.integers((2, 1, *(4, 5)[:axes]), "float64", "x")
    pairs = ((3, 2), (1, 4))[:axes]
    if mode == "circular":
        pairs = ((4, 2), (1, 5))[:axes]
    names: dict[str, Any] = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    got = getattr(fc, f"conv{axes}d")(x, np.ones((1, 1, *[1] * axes)), padding=pairs, padding_mode=mode)
    np.testing.assert_array_equal(got, np.pad(x, ((0, 0), (0, 0), *pairs), names[mode]))


def test_a_tuple_of_one_stands_for_both_axes(backend: str) -> None:
    x, w = cases.integers((1, 2, 9, 9), "float64", "x"), cases.integers((3, 2, 3, 3), "float64", "w")
    got = fc.conv2d(x, w, stride=(2,), padding=(1,), dilation=(2,))
    np.testing.assert_array_equal(got, fc.conv2d(x, w, stride=2, padding=1, dilation=2))
    y = cases.integers((1, 3, 4, 4), "float64", "y")
    got = fc.conv_transpose2d(y, w, stride=(2,), padding=(1,), dilation=(2,), output_padding=(1,))
    np.testing.assert_array_equal(got, fc.conv_transpose2d(y, w, stride=2, padding=1, dilation=2, output_padding=1))


def test_numbers_may_be_numpys_own(backend: str) -> None:
    x, w = cases.integers((1, 2, 9, 9), "float32", "x"), cases.integers((2, 1, 3, 3), "float32", "w")
    two = np.int32(2)
    got = fc.conv2d(x, w, None, two, np.array([1, 1]), [two, two], np.int64(2))
    np.testing.assert_array_equal(got, fc.conv2d(x, w, None, 2, 1, 2, 2))


# ---- forms of input


def forms(array: np.ndarray) -> dict[str, Any]:
    """The same numbers in every form that an array may come in."""
    stepped = np.zeros((*array.shape[:-1], array.shape[-1] * 2), array.dtype)
    stepped[..., ::2] = array
    raw = np.zeros(array.nbytes + 1, np.uint8)
    misaligned = raw[1:].view(array.dtype).reshape(array.shape)
    misaligned[...] = array
    read_only = array.copy()
    read_only.flags.writeable = False

    class Subclass(np.ndarray):
        pass

    class WithArray:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return array

    class WithDlpack:
        def __dlpack__(self, **options: Any) -> Any:
            return array.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return array.__dlpack_device__()

    return {
        "every second element": stepped[..., ::2],
        "negative strides": np.flip(np.ascontiguousarray(np.flip(array))),
        "Fortran order": np.asfortranarray(array),
        "transposed": np.ascontiguousarray(np.swapaxes(array, 0, 1)).swapaxes(0, 1),
        "read-only": read_only,
        "misaligned": misaligned,
        "byte-swapped": array.astype(array.dtype.newbyteorder()),
        "subclass": array.view(Subclass),
        "__array__": WithArray(),
        "__dlpack__": WithDlpack(),
        "list": array.tolist() if array.dtype == np.float64 else array,
    }


FORMS = list(forms(np.zeros((2, 2, 2))))


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_input(backend: str, form: str, axes: int, dtype: str) -> None:
    case = cases.c("forms", (7, 9)[:axes], 4, 6, 3, n=3, padding=1, stride=2, groups=2)
    x, w, y = (cases.integers(s, dtype, s) for s in (case.x_shape, case.w_shape, case.y_shape))
    untied = cases.integers(case.y_shape[1:], dtype, "u")
    kept = [a.copy() for a in (x, w, y, untied)]
    fx, fw, fy, fu = (forms(a)[form] for a in (x, w, y, untied))
    conv, backward = getattr(fc, f"conv{axes}d"), getattr(fc, f"conv{axes}d_backward")
    transpose = getattr(fc, f"conv_transpose{axes}d")
    arguments = case.arguments
    right = conv(x, w, untied, **arguments)
    assert_same(conv(fx, fw, fu, **arguments), right)
    assert_same(conv(x, fw, untied, **arguments), right)
    assert_same(conv(fx, w, untied, **arguments), right)
    assert_same(conv(x, w, fu, **arguments), right)
    gradients = backward(y, x, w, **arguments)
    assert_same(backward(fy, fx, fw, **arguments), gradients)
    assert_same(transpose(fy, fw, **arguments), transpose(y, w, **arguments))
    assert_same(getattr(fc.grad, f"conv{axes}d_input")(x.shape, fw, fy, **arguments), gradients[0])
    assert_same(getattr(fc.grad, f"conv{axes}d_weight")(fx, w.shape, fy, **arguments), gradients[1])
    for array, before in zip((x, w, y, untied), kept, strict=True):
        np.testing.assert_array_equal(array, before, "an input was written to")


def test_torch_tensors_are_inputs(torch: Any, backend: str) -> None:
    x, w = torch.randn(2, 3, 8), torch.randn(4, 3, 3)
    got = fc.conv1d(x, w, torch.ones(4), padding=1)
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, fc.conv1d(x.numpy(), w.numpy(), np.ones(4, np.float32), padding=1))
    np.testing.assert_array_equal(
        fc.grad.conv1d_input(x.shape, w, torch.from_numpy(got), padding=1),
        fc.grad.conv1d_input(tuple(x.shape), w.numpy(), got, padding=1),
    )


def test_ndarray_subclasses_give_plain_arrays(backend: str) -> None:
    x = np.ones((1, 1, 4)).view(np.recarray)
    assert type(fc.conv1d(x, np.ones((1, 1, 3)))) is np.ndarray


# ---- out=


@pytest.mark.parametrize("batched", [True, False])
def test_out_is_overwritten_and_returned(backend: str, axes: int, batched: bool, dtype: str) -> None:
    x = cases.integers((2, 3, *(6, 7)[:axes])[0 if batched else 1 :], dtype, "x")
    w, b = cases.integers((3, 3, *(3, 3)[:axes]), dtype, "w"), cases.integers((3,), dtype, "b")
    for name in (f"conv{axes}d", f"conv_transpose{axes}d"):
        right = getattr(fc, name)(x, w, b)
        for bias in (b, cases.integers(right.shape[-axes - 1 :], dtype, "u")):
            out = np.full(right.shape, np.nan, dtype)
            assert getattr(fc, name)(x, w, bias, out=out) is out
            assert_same(out, getattr(fc, name)(x, w, bias))


@pytest.mark.parametrize("mode", MODES[1:])
def test_out_with_padding_modes(backend: str, mode: str) -> None:
    x, w = cases.integers((2, 3, 6), "float32", "x"), cases.integers((3, 3, 3), "float32", "w")
    out = np.full((2, 3, 6), np.nan, np.float32)
    assert fc.conv1d(x, w, padding=1, padding_mode=mode, out=out) is out
    assert_same(out, fc.conv1d(x, w, padding=1, padding_mode=mode))


@pytest.mark.parametrize("function", ["conv1d", "conv_transpose1d"])
def test_out_that_does_not_do(backend: str, function: str) -> None:
    x, w, b = np.ones((2, 3, 6), np.float32), np.ones((3, 3, 1), np.float32), np.ones(3, np.float32)
    kept = x.copy()
    call = getattr(fc, function)
    read_only = np.empty((2, 3, 6), np.float32)
    read_only.flags.writeable = False
    memory = np.ones(2 * 3 * 6 + 3, np.float32)
    for wrong, error in (
        (np.empty((2, 3, 5), np.float32), ValueError),
        (np.empty((3, 6), np.float32), ValueError),
        (np.empty((2, 3, 6), np.float64), TypeError),
        (np.empty((2, 3, 6), np.int32), TypeError),
        (np.empty((2, 3, 6), np.dtype(np.float32).newbyteorder()), TypeError),
        (np.empty((2, 3, 6), np.float32, order="F"), ValueError),
        (np.empty((2, 3, 12), np.float32)[..., ::2], ValueError),
        (read_only, ValueError),
        ([[0.0]], TypeError),
        (x, ValueError),
        (x[:], ValueError),
    ):
        with pytest.raises(error, match="out"):
            call(x, w, b, out=wrong)
    view = memory[: 2 * 3 * 6].reshape(2, 3, 6)
    with pytest.raises(ValueError, match="overlap"):
        call(x, w, memory[-5:-2], out=view)
    assert call(x, w, memory[-3:], out=view) is view
    with pytest.raises(ValueError, match="overlap"):
        call(memory[3:].reshape(2, 3, 6), w, out=view)
    np.testing.assert_array_equal(x, kept)


def test_out_that_shares_a_tensors_memory(torch: Any, backend: str) -> None:
    tensor = torch.ones(1, 1, 4)
    with pytest.raises(ValueError, match="overlap"):
        fc.conv1d(tensor, np.ones((1, 1, 1), np.float32), out=tensor.numpy())


# ---- backward: masks and bias shapes


@pytest.mark.parametrize("mask", list(itertools.product([True, False], repeat=3)), ids=str)
def test_output_mask_decides_alone(backend: str, axes: int, mask: tuple[bool, bool, bool]) -> None:
    x, w = (
        cases.integers((2, 2, *(6, 7)[:axes]), "float64", "x"),
        cases.integers((3, 2, *(3, 3)[:axes]), "float64", "w"),
    )
    y = cases.integers(getattr(fc, f"conv{axes}d")(x, w).shape, "float64", "y")
    t = cases.integers(getattr(fc, f"conv_transpose{axes}d")(y, w).shape, "float64", "t")
    for function, args in (
        (getattr(fc, f"conv{axes}d_backward"), (y, x, w)),
        (getattr(fc, f"conv_transpose{axes}d_backward"), (t, y, w)),
    ):
        everything = function(*args)
        for form in (mask, list(mask), np.array(mask)):
            got = function(*args, output_mask=form)
            assert [g is not None for g in got] == list(mask)
            assert_same(got, tuple(g if wanted else None for g, wanted in zip(everything, mask, strict=True)))
    for wrong in ((True, True), (True,) * 4):
        with pytest.raises(ValueError, match="output_mask"):
            getattr(fc, f"conv{axes}d_backward")(y, x, w, output_mask=wrong)


def test_grad_bias_has_the_shape_of_the_bias(backend: str, axes: int, dtype: str) -> None:
    x, w = cases.integers((4, 2, *(6, 7)[:axes]), dtype, "x"), cases.integers((3, 2, *(3, 3)[:axes]), dtype, "w")
    y = cases.integers((4, 3, *(4, 5)[:axes]), dtype, "y")
    backward = getattr(fc, f"conv{axes}d_backward")
    everything = tuple(i for i in range(y.ndim) if i != 1)
    for shape, axes_summed in ((None, everything), ((3,), everything), ([3], everything), (y.shape[1:], (0,))):
        gradient = backward(y, x, w, bias_shape=shape)[2]
        np.testing.assert_array_equal(gradient, y.sum(axis=axes_summed), strict=True)
        gradient = backward(y[1], x[1], w, bias_shape=shape)[2]
        np.testing.assert_array_equal(gradient, y[1:2].sum(axis=axes_summed), strict=True)
    assert backward(y, x, w, bias_shape=(3,), output_mask=(True, True, False))[2] is None
    for wrong in ((4,), (1,), (3, 1), (3, *[1] * axes), (1, *y.shape[2:]), (3, *y.shape[2:], 1), ()):
        with pytest.raises(ValueError, match="bias_shape"):
            backward(y, x, w, bias_shape=wrong)


# ---- empty


def test_empty_batch(backend: str, axes: int, dtype: str) -> None:
    x, w = np.ones((0, 2, *(6, 7)[:axes]), dtype), np.ones((3, 2, *(3, 3)[:axes]), dtype)
    y = getattr(fc, f"conv{axes}d")(x, w, np.ones(3, dtype), padding=1)
    assert y.shape == (0, 3, *(6, 7)[:axes])
    assert y.dtype == dtype
    for mode in MODES:
        grads = getattr(fc, f"conv{axes}d_backward")(y, x, w, padding=1, padding_mode=mode)
        for gradient, shape in zip(grads, (x.shape, w.shape, (3,)), strict=True):
            np.testing.assert_array_equal(gradient, np.zeros(shape, dtype), strict=True)
        assert getattr(fc, f"conv{axes}d")(x, w, padding=1, padding_mode=mode).shape == y.shape
    untied = getattr(fc, f"conv{axes}d_backward")(y, x, w, padding=1, bias_shape=y.shape[1:])[2]
    np.testing.assert_array_equal(untied, np.zeros(y.shape[1:], dtype), strict=True)
    assert getattr(fc.grad, f"conv{axes}d_input")(x.shape, w, y, padding=1).shape == x.shape
    assert not getattr(fc.grad, f"conv{axes}d_weight")(x, w.shape, y, padding=1).any()
    t = getattr(fc, f"conv_transpose{axes}d")(y, w, np.ones(2, dtype), padding=1)
    assert t.shape == x.shape
    grads = getattr(fc, f"conv_transpose{axes}d_backward")(t, y, w, padding=1)
    for gradient, shape in zip(grads, (y.shape, w.shape, (2,)), strict=True):
        np.testing.assert_array_equal(gradient, np.zeros(shape, dtype), strict=True)


def test_no_input_channels_give_the_bias_alone(backend: str, axes: int, dtype: str) -> None:
    x, w = np.ones((2, 0, *(6, 7)[:axes]), dtype), np.ones((3, 0, *(3, 3)[:axes]), dtype)
    shape = (2, 3, *(4, 5)[:axes])
    tied, untied = cases.integers((3,), dtype, "b"), cases.integers(shape[1:], dtype, "u")
    conv = getattr(fc, f"conv{axes}d")
    np.testing.assert_array_equal(conv(x, w), np.zeros(shape, dtype), strict=True)
    np.testing.assert_array_equal(
        conv(x, w, tied), np.broadcast_to(tied.reshape(3, *[1] * axes), shape).copy(), strict=True
    )
    np.testing.assert_array_equal(conv(x, w, untied), np.broadcast_to(untied, shape).copy(), strict=True)
    np.testing.assert_array_equal(conv(x[0], w, untied), untied, strict=True)
    out = np.full(shape, np.nan, dtype)
    np.testing.assert_array_equal(conv(x, w, untied, out=out), np.broadcast_to(untied, shape).copy(), strict=True)
    y = cases.integers(shape, dtype, "y")
    grads = getattr(fc, f"conv{axes}d_backward")(y, x, w)
    assert [g.shape for g in grads] == [x.shape, w.shape, (3,)]
    np.testing.assert_array_equal(grads[2], y.sum(axis=tuple(i for i in range(y.ndim) if i != 1)))


def test_empty_as_torch(torch: Any, backend: str) -> None:
    """Batch, channels or length 0: torch's empty result, or an error where torch has one.

    One thing is not torch's: a batch without input channels gives the bias there is (torch: no output channels).
    """
    ones = np.ones
    for axes, x, w, arguments in (
        (1, (0, 2, 6), (3, 2, 3), {}),
        (1, (2, 1, 0), (3, 1, 3), {"padding": 2}),
        (1, (2, 1, 0), (3, 1, 1), {}),
        (1, (0, 1, 0), (3, 1, 1), {"padding": 1}),
        (1, (2, 1, 6), (0, 1, 3), {}),
        (1, (2, 1, 6), (3, 1, 0), {}),
        (2, (0, 2, 6, 5), (3, 2, 3, 3), {}),
        (2, (2, 1, 6, 0), (3, 1, 3, 3), {"padding": 2}),
        (2, (2, 1, 0, 5), (3, 1, 3, 3), {"padding": 2}),
        (2, (0, 1, 0, 5), (3, 1, 3, 3), {"padding": 2}),
    ):
        try:
            name = f"conv{axes}d"
            right = getattr(torch.nn.functional, name)(torch.ones(x), torch.ones(w), **arguments).numpy()
        except (RuntimeError, ValueError):
            with pytest.raises(ValueError, match=f"conv{axes}d"):
                getattr(fc, name)(ones(x, np.float32), ones(w, np.float32), **arguments)
        else:
            got = getattr(fc, name)(ones(x, np.float32), ones(w, np.float32), **arguments)
            np.testing.assert_array_equal(got, right, strict=True)


# ---- one-dimensional is a row of the two-dimensional


@pytest.mark.parametrize("case", [case for case in cases.SOME_CASES if case.axes == 1], ids=str)
def test_one_dimension_is_one_row_of_two(fast_kernels: Kernels, case: cases.Case, dtype: str) -> None:
    _, pads = conv_geometry(1, case.x_shape, case.w_shape, **case.arguments)
    x, w = (cases.integers(s, dtype, s) for s in (case.x_shape, case.w_shape))
    row = fc.conv2d(x[:, :, None], w[:, :, None], None, (1, case.stride), pads, (1, case.dilation), case.groups)
    np.testing.assert_array_equal(fc.conv1d(x, w, **case.arguments), row[:, :, 0])


# ---- anything at all


@settings(max_examples=40)
@given(data=st.data())
def test_random_calls(axes: int, data: st.DataObject) -> None:
    """Random shapes, padding forms and modes, biases, masks: forward, gradients, transposed, against the reference."""
    draw = data.draw
    kernels = draw(st.sampled_from(FAST_KERNELS))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    groups, n = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    c_in, c_out = groups * draw(st.integers(1, 9)), groups * draw(st.integers(1, 9))
    size = tuple(draw(st.integers(5, 20)) for _ in range(axes))
    kernel = tuple(draw(st.integers(1, 5)) for _ in range(axes))
    dilation = draw(st.integers(1, 2))
    mode = draw(st.sampled_from(MODES))
    stride: Any = draw(st.one_of(st.integers(1, 4), st.tuples(*[st.integers(1, 4)] * axes)))
    pair = st.tuples(st.integers(0, 4), st.integers(0, 4))
    padding: Any = draw(st.one_of(st.integers(0, 4), st.tuples(*[pair] * axes), st.sampled_from(["valid", "same"])))
    if padding == "same":
        stride = 1
        if mode != "zeros" and dilation * (max(kernel) - 1) // 2 + 1 >= min(size):
            dilation = 1
    arguments = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "padding_mode": mode}
    x = cases.integers((n, c_in, *size), dtype, "x")
    w = cases.integers((c_out, c_in // groups, *kernel), dtype, "w")
    try:
        plane = conv_geometry(axes, x.shape, w.shape, **arguments)[0].y_shape[-axes:]
    except ValueError:  # a kernel that does not fit
        with fc.use_backend(kernels.backend), pytest.raises(ValueError, match="kernel is larger"):
            getattr(fc, f"conv{axes}d")(x, w, **arguments)
        return
    bias_shape = draw(st.sampled_from([None, (c_out,), (c_out, *plane)]))
    b = None if bias_shape is None else cases.integers(bias_shape, dtype, "b")
    threads = draw(st.integers(1, 3))
    mask = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    y = cases.integers((n, c_out, *plane), dtype, "y")
    before = kernels.module.isa()
    if kernels.isa:
        kernels.module.use_isa(kernels.isa)
    try:
        with fc.num_threads(threads):
            assert_same(*both(kernels.backend, getattr(fc, f"conv{axes}d"), x, w, b, **arguments))
            backward = getattr(fc, f"conv{axes}d_backward")
            assert_same(*both(kernels.backend, backward, y, x, w, **arguments, bias_shape=bias_shape, output_mask=mask))
    finally:
        if kernels.isa:
            kernels.module.use_isa(before)


def test_operations_have_one_name_everywhere() -> None:
    assert OPERATIONS == ("forward", "backward_input", "backward_weight")
