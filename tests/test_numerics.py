"""NaN and infinity, denormals, and the error of long sums."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_sets import Kernels

import fastconv as fc
from fastconv.geometry import OPERATIONS

SPECIAL = [
    cases.BY_NAME[name]
    for name in [
        "width_17",
        "plane_width_9",
        "out_channels_17",
        "pointwise_16",
        "depthwise_7",
        "kernel_is_padded_input",
        "padding_beyond_kernel",
        "even_kernel_same",
        "stride_3",
        "stride_leaves_a_rest",
        "dilation_and_stride",
        "groups_2",
        "row_kernel",
        "column_kernel_strided",
        "asymmetric_plane_strided",
        "plane_strides_differ",
        "depthwise_plane_strided",
        "groups_plane_strided",
        "winograd_size",
        "winograd_5x5",
        "winograd_stride_2",
        "winograd_row_stride_2",
        "winograd_row_4",
        "winograd_row_dilated",
        "depthwise_long",
        "long_filter",
        "suite_seed_conv2",
        "suite_tiny_2d",
        "suite_wavenet_d64",
        "tall_and_narrow_3x3",
        "padded_pixels_of_several_blocks",
        "wide_stride_2",
        "batch_rows_and_columns_left_out",
    ]
]


def kinds(array: np.ndarray) -> np.ndarray:
    """0 finite, 1 NaN, 2 inf, 3 -inf, element by element."""
    return np.where(np.isnan(array), 1, np.where(np.isposinf(array), 2, np.where(np.isneginf(array), 3, 0)))


def run(algorithm: Any, operation: str, g: Any, arrays: dict[str, np.ndarray], threads: int = 2) -> np.ndarray:
    dtype = arrays["w"].dtype
    written = np.full(cases.shape_of(cases.target(operation), g), 7, dtype)
    x, w, y = ({**arrays, cases.target(operation): written}[letter] for letter in "xwy")
    algorithm.run(operation, g, x, w, y, None, threads, False)
    return written


# ---- NaN and infinity


@pytest.mark.parametrize("case", SPECIAL, ids=str)
def test_they_reach_what_depends_on_them_and_nothing_else(fast_kernels: Kernels, case: cases.Case, dtype: str) -> None:
    """One NaN, inf or -inf anywhere, also in a weight that meets the padding (0 * inf is NaN there, as in torch)."""
    g = case.geometry
    for operation in OPERATIONS:
        algorithms = [a for a in fast_kernels.module.ALGORITHMS if not a.unsupported(operation, g, np.dtype(dtype))]
        for letter in cases.operands(operation):
            for value in (np.nan, np.inf, -np.inf):
                arrays = {a: cases.normal(cases.shape_of(a, g), dtype, a, case.name) for a in "xwy"}
                flat = arrays[letter].reshape(-1)
                flat[int(cases.seed(case.name, operation, letter, value).integers(flat.size))] = value
                with np.errstate(all="ignore"):
                    right = cases.by_definition(operation, g, arrays)
                for algorithm in algorithms:
                    got = run(algorithm, operation, g, arrays)
                    label = f"{algorithm.name} {operation}: {value} in {letter}"
                    if algorithm.exact:
                        np.testing.assert_array_equal(kinds(got), kinds(right), label)
                    else:  # a transform spreads them over a tile, but may not lose one
                        assert (kinds(got)[kinds(right) > 0] > 0).all(), label
                        assert np.isfinite(got).all() == np.isfinite(right).all(), label


@settings(max_examples=30)
@given(data=st.data())
def test_several_at_random_places(fast_kernels: Kernels, data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(SPECIAL))
    operation = data.draw(st.sampled_from(OPERATIONS))
    g, dtype = case.geometry, data.draw(st.sampled_from(["float32", "float64"]))
    arrays = {a: cases.integers(cases.shape_of(a, g), dtype, a, case.name) for a in "xwy"}
    for letter in cases.operands(operation):
        flat = arrays[letter].reshape(-1)
        for _ in range(data.draw(st.integers(0, 4))):
            flat[data.draw(st.integers(0, flat.size - 1))] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    with np.errstate(all="ignore"):
        right = cases.by_definition(operation, g, arrays)
    for algorithm in fast_kernels.module.ALGORITHMS:
        if algorithm.exact and algorithm.unsupported(operation, g, np.dtype(dtype)) is None:
            np.testing.assert_array_equal(run(algorithm, operation, g, arrays), right, algorithm.name)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("name", ["plane_stride_2", "width_17", "padding_beyond_kernel", "groups_plane"])
def test_they_spread_as_in_torch(torch: Any, backend: str, name: str, value: float) -> None:
    """In float64, where torch sums directly; the gradients of the input too, where padding is no place to meet one."""
    case = cases.BY_NAME[name]
    for letter in "xwy":
        arrays = [cases.normal(s, "float64", s, name) for s in (case.x_shape, case.w_shape, case.y_shape)]
        x, w, y = arrays
        flat = arrays["xwy".index(letter)].reshape(-1)
        flat[flat.size // 2] = value
        tx, tw = (torch.from_numpy(a).requires_grad_() for a in (x, w))
        right = getattr(torch.nn.functional, f"conv{case.axes}d")(tx, tw, **case.arguments)
        got = getattr(fc, f"conv{case.axes}d")(x, w, **case.arguments)
        np.testing.assert_array_equal(kinds(got), kinds(right.detach().numpy()))
        right.backward(torch.from_numpy(y))
        gradients = getattr(fc, f"conv{case.axes}d_backward")(y, x, w, **case.arguments)
        np.testing.assert_array_equal(kinds(gradients[0]), kinds(tx.grad.numpy()))
        np.testing.assert_array_equal(kinds(gradients[1]), kinds(tw.grad.numpy()))


def test_in_biases_and_their_gradients(backend: str, dtype: str) -> None:
    x, w = np.ones((2, 1, 5), dtype), np.ones((2, 1, 3), dtype)
    got = fc.conv1d(x, w, np.array([np.nan, 1], dtype))
    np.testing.assert_array_equal(np.isnan(got), [[[True] * 3, [False] * 3]] * 2)
    untied = np.zeros((2, 3), dtype)
    untied[1, 2] = np.inf
    np.testing.assert_array_equal(np.argwhere(np.isinf(fc.conv1d(x, w, untied))), [[0, 1, 2], [1, 1, 2]])
    y = np.ones((2, 2, 3), dtype)
    y[1, 0, 1] = np.nan
    np.testing.assert_array_equal(np.isnan(fc.conv1d_backward(y, x, w)[2]), [True, False])
    np.testing.assert_array_equal(
        np.isnan(fc.conv1d_backward(y, x, w, bias_shape=(2, 3))[2]), [[False, True, False], [False] * 3]
    )


def test_overflow_gives_inf_and_large_numbers_stay(backend: str, dtype: str) -> None:
    largest = np.finfo(dtype).max
    x = np.full((1, 1, 40), largest / 4, dtype)
    assert np.isposinf(fc.conv1d(x, np.full((1, 1, 20), 2, dtype))).all()
    assert np.isneginf(fc.conv1d(x, np.full((1, 1, 20), -2, dtype))).all()
    np.testing.assert_allclose(fc.conv1d(x, np.full((1, 1, 1), 2, dtype)), largest / 2)
    assert np.isfinite(
        fc.conv1d_backward(x, x, np.full((1, 1, 1), 2, dtype), output_mask=(True, False, False))[0]
    ).all()


# ---- denormals


def denormal_arithmetic_works() -> bool:
    """NumPy's own, in this thread, in both types: neither flushed as operand nor as result."""
    right = True
    for kind in (np.float32, np.float64):
        tiny = np.full(64, np.finfo(kind).tiny, kind)
        half = tiny * kind(0.5)
        right &= bool((half > 0).all() and (half + half == tiny).all())
    return right


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("mode", ["default", "strict"])
@pytest.mark.parametrize("name", ["suite_tiny_2d", "suite_cifar_resnet", "suite_tcn_64", "depthwise_long"])
def test_the_callers_floating_point_mode_is_kept(
    kernels: Kernels, name: str, mode: str, threads: int, dtype: str
) -> None:
    case = cases.BY_NAME[name]
    x, w, y = (cases.normal(s, dtype, s) for s in (case.x_shape, case.w_shape, case.y_shape))
    assert denormal_arithmetic_works()
    with fc.num_threads(threads), fc.precision(mode):
        getattr(fc, f"conv{case.axes}d")(x, w, **case.arguments)
        assert denormal_arithmetic_works()
        getattr(fc, f"conv{case.axes}d_backward")(y, x, w, **case.arguments)
        assert denormal_arithmetic_works()
        with pytest.raises(ValueError, match="channels"):
            getattr(fc, f"conv{case.axes}d")(x, w[:, :0], **case.arguments)
        assert denormal_arithmetic_works()


@pytest.mark.parametrize("case", cases.SOME_CASES, ids=str)
def test_strict_keeps_denormals(fast_kernels: Kernels, case: cases.Case, dtype: str) -> None:
    """Small integers times the smallest denormal: exact, unless one is flushed on its way in or out."""
    smallest = np.finfo(dtype).smallest_subnormal
    scaled = {"forward": "w", "backward_input": "w", "backward_weight": "y"}
    g = case.geometry
    for operation in OPERATIONS:
        arrays = {a: cases.integers(cases.shape_of(a, g), dtype, a, case.name) for a in "xwy"}
        right = cases.by_definition(operation, g, arrays)
        arrays[scaled[operation]] = arrays[scaled[operation]] * np.dtype(dtype).type(smallest)
        for algorithm in fast_kernels.module.ALGORITHMS:
            if not algorithm.exact or algorithm.unsupported(operation, g, np.dtype(dtype)):
                continue
            for threads in (1, 2):
                written = np.full(cases.shape_of(cases.target(operation), g), np.nan, dtype)
                x, w, y = ({**arrays, cases.target(operation): written}[letter] for letter in "xwy")
                algorithm.run(operation, g, x, w, y, None, threads, True)
                # integer bits of a denormal are the multiple of the smallest one
                bits = np.abs(written).view(np.int32 if dtype == "float32" else np.int64) * np.sign(written)
                np.testing.assert_array_equal(bits, right, f"{algorithm.name} {operation}")
                assert denormal_arithmetic_works()


def test_strict_keeps_denormals_in_the_public_functions(kernels: Kernels, dtype: str) -> None:
    smallest = np.finfo(dtype).smallest_subnormal
    x = np.full((2, 3, 40), smallest, dtype)
    w = np.ones((4, 3, 5), dtype)
    with fc.precision("strict"):
        np.testing.assert_array_equal(fc.conv1d(x, w), np.full((2, 4, 36), 15 * smallest, dtype), strict=True)
        y = np.full((2, 4, 36), smallest, dtype)
        assert (fc.conv1d_backward(y, w[None, 0].repeat(8, -1).repeat(2, 0), w)[0] > 0).all()
        assert (fc.conv_transpose1d(y, w) > 0).all()
        assert (fc.conv1d_backward(y, np.ones_like(x), w)[1] == 72 * smallest).all()
        assert (fc.conv1d_backward(y, np.ones_like(x), w)[2] == 72 * smallest).all()


def test_default_may_flush_denormals_and_nothing_else(kernels: Kernels, dtype: str) -> None:
    """Each result is what strict gives, or one whose denormal operands or results are zero."""
    tiny = np.finfo(dtype).tiny
    w = np.ones((1, 1, 1), dtype)
    x = np.array([[[tiny / 2, tiny, 2 * tiny, 1, -tiny, -tiny / 4, 0]]], dtype)
    got = fc.conv1d(x, w)
    flushed = np.where(np.abs(x) < tiny, 0, x)
    assert ((got == x) | (got == flushed)).all()


# ---- accuracy

LONG = [
    cases.c("long_channels", (9, 9), 512, 4, 3, padding=1),
    cases.c("long_filter", 9000, 1, 2, 4095),
    cases.c("pointwise_long", (7, 7), 2048, 8, 1),
    cases.c("long_weight_sum", (80, 80), 2, 3, 3, n=8, padding=1),
    cases.c("long_depthwise", 20000, 3, 3, 31, groups=3, padding=15),
    cases.c("many_outputs_to_one_input", (9, 9), 4, 512, 3, padding=1),
]


@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("case", LONG, ids=str)
def test_direct_summation_within_three_times_torchs_error(
    torch: Any, fast_kernels: Kernels, case: cases.Case, kind: str
) -> None:
    """float32 against the same numbers in float64, the largest error and the root of the mean square."""
    x, w, y = (cases.normal(s, "float32", s, case.name) for s in (case.x_shape, case.w_shape, case.y_shape))
    if kind == "positive":
        x, w, y = np.abs(x), np.abs(w), np.abs(y)
    conv, backward = getattr(fc, f"conv{case.axes}d"), getattr(fc, f"conv{case.axes}d_backward")

    def by_torch(dtype: Any) -> list[np.ndarray]:
        tx, tw = (torch.from_numpy(a).to(dtype).requires_grad_() for a in (x, w))
        result = getattr(torch.nn.functional, f"conv{case.axes}d")(tx, tw, **case.arguments)
        result.backward(torch.from_numpy(y).to(dtype))
        bias = torch.from_numpy(y).to(dtype).sum(dim=[i for i in range(y.ndim) if i != 1])
        return [a.detach().numpy() for a in (result, tx.grad, tw.grad, bias)]

    with fc.precision("strict"):  # direct summation
        got = [conv(x, w, **case.arguments), *backward(y, x, w, **case.arguments)]
    names = ("forward", "grad_input", "grad_weight", "grad_bias")
    for name, mine, theirs, right in zip(names, got, by_torch(torch.float32), by_torch(torch.float64), strict=True):
        # One rounding of the largest result is granted on top: torch may be lucky and exact.
        floor = float(np.abs(right).max()) * float(np.finfo(np.float32).eps) / 2
        for measure in (lambda e: np.abs(e).max(), lambda e: np.sqrt(np.mean(np.square(e)))):
            mine_error, theirs_error = measure(mine - right), measure(theirs - right)
            assert mine_error <= 3 * theirs_error + floor, (
                f"{name}: {mine_error / theirs_error:.1f} times torch's error"
            )


def test_default_precision_errs_by_at_most_1e_5_of_the_largest(fast_kernels: Kernels) -> None:
    names = (
        "winograd_size",
        "winograd_5x5",
        "winograd_stride_2",
        "winograd_row_stride_2",
        *(f"winograd_row_{k}" for k in (2, 3, 5, 7)),
        "long_filter",
    )
    many = cases.c("many_channels_to_a_row", 200, 1024, 8, 3, padding=1)
    for case in (*LONG, many, *(cases.BY_NAME[name] for name in names)):
        x, w, y = (cases.normal(s, "float32", s, case.name) for s in (case.x_shape, case.w_shape, case.y_shape))
        conv, backward = getattr(fc, f"conv{case.axes}d"), getattr(fc, f"conv{case.axes}d_backward")
        got = [conv(x, w, **case.arguments), *backward(y, x, w, **case.arguments)]
        wide = [a.astype(np.float64) for a in (x, w, y)]
        with fc.use_backend("reference"):
            right = [conv(*wide[:2], **case.arguments), *backward(wide[2], *wide[:2], **case.arguments)]
        for a, b in zip(got, right, strict=True):
            assert a is not None
            assert b is not None
            assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()
