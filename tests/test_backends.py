"""Every backend x ISA x algorithm x operation x dtype x case against the reference, at the interface of the backends.

Below the public functions, so that the arrays can be laid traps: what is written starts as NaN and lies between guard
values, what is read lies between NaNs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_sets import FAST_KERNELS, OTHER_COMPILED_KERNELS, Kernels

from fastconv.geometry import OPERATIONS, Geometry, conv_geometry, transposed_geometry

DTYPES = ("float32", "float64")
GUARD = 31  # elements before and after each array: odd, so that arrays are aligned to the element and no more


def between(array: np.ndarray, trap: float) -> tuple[np.ndarray, np.ndarray]:
    """A copy of the array in the middle of a block filled with `trap`, and the block."""
    block = np.full(array.size + 2 * GUARD, trap, array.dtype)
    block[GUARD : GUARD + array.size] = array.ravel()
    return block[GUARD : GUARD + array.size].reshape(array.shape), block


def carry_out(
    algorithm: Any,
    operation: str,
    g: Geometry,
    arrays: dict[str, np.ndarray],
    bias: np.ndarray | None,
    threads: int = 1,
    strict: bool = False,
) -> np.ndarray:
    """What the algorithm computes, after checks that it wrote its array, nothing else, and each element of it."""
    dtype = arrays["w"].dtype
    laid = {letter: between(arrays[letter], np.nan)[0] for letter in cases.operands(operation)}
    for array in laid.values():
        array.flags.writeable = False
    written = cases.target(operation)
    laid[written], block = between(np.full(cases.shape_of(written, g), np.nan, dtype), 12345)
    algorithm.run(operation, g, laid["x"], laid["w"], laid["y"], bias, threads, strict)
    assert (block[:GUARD] == 12345).all(), f"{algorithm.name} {operation} wrote before its array"
    assert (block[-GUARD:] == 12345).all(), f"{algorithm.name} {operation} wrote past its array"
    return laid[written]


def able(kernels: Kernels, operation: str, g: Geometry, dtype: str) -> list[Any]:
    """The algorithms of this backend and ISA that say they can do it; there has to be a direct one."""
    found = [a for a in kernels.module.ALGORITHMS if a.unsupported(operation, g, np.dtype(dtype)) is None]
    assert any(a.exact for a in found), f"no direct summation for {operation} on {g}"
    return found


def biases(g: Geometry, make: Callable[..., np.ndarray], dtype: str) -> list[np.ndarray | None]:
    return [None, make((g.K,), dtype, "bias"), make((g.K, g.P, g.Q), dtype, "untied")]


@functools.cache
def problem(kind: str, name: str, dtype: str) -> dict[str, np.ndarray]:
    g = cases.GEOMETRIES[name]
    make = {"integers": cases.integers, "normal": cases.normal}[kind]
    return {letter: make(cases.shape_of(letter, g), dtype, letter, name) for letter in "xwy"}


@functools.cache
def answer(kind: str, name: str, dtype: str, operation: str) -> np.ndarray:
    """The reference's result without a bias; for kind "magnitude", on the absolute values of "normal"."""
    arrays = problem("normal" if kind == "magnitude" else kind, name, dtype)
    if kind == "magnitude":
        arrays = {letter: np.abs(array) for letter, array in arrays.items()}
    return cases.by_definition(operation, cases.GEOMETRIES[name], arrays)


def add_bias(result: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    if bias is None:
        return result
    return result + (bias[:, None, None] if bias.ndim == 1 else bias).astype(np.float64)


@pytest.mark.parametrize("name", cases.GEOMETRIES)
def test_small_integers_are_exact(fast_kernels: Kernels, name: str) -> None:
    g = cases.GEOMETRIES[name]
    for dtype in DTYPES:
        arrays = problem("integers", name, dtype)
        for operation in OPERATIONS:
            expected = answer("integers", name, dtype, operation)
            for algorithm in able(fast_kernels, operation, g, dtype):
                for bias in biases(g, cases.integers, dtype) if operation == "forward" else [None]:
                    right = add_bias(expected, bias)
                    for threads in (1, 3):  # the next test takes 2
                        got = carry_out(algorithm, operation, g, arrays, bias, threads)
                        label = f"{algorithm.name} {operation} {dtype} threads={threads}"
                        if algorithm.exact:
                            np.testing.assert_array_equal(got, right, label)
                        else:
                            assert np.abs(got - right).max() <= 1e-5 * np.abs(right).max(), label


@pytest.mark.parametrize("name", cases.GEOMETRIES)
def test_random_data_within_the_rounding_bound(fast_kernels: Kernels, name: str) -> None:
    g = cases.GEOMETRIES[name]
    for dtype in DTYPES:
        arrays = problem("normal", name, dtype)
        for operation in OPERATIONS:
            expected = answer("normal", name, dtype, operation)
            allowed = cases.bound(operation, g, dtype, answer("magnitude", name, dtype, operation))
            for algorithm in able(fast_kernels, operation, g, dtype):
                got = carry_out(algorithm, operation, g, arrays, None, 2)
                assert got.dtype == dtype
                error = np.abs(got - expected)
                if algorithm.exact:
                    worst = np.unravel_index(np.argmax(error - allowed), error.shape)
                    assert error[worst] <= allowed[worst], f"{algorithm.name} {operation} {dtype} at {worst}"
                else:
                    assert error.max() <= 1e-5 * np.abs(expected).max(), f"{algorithm.name} {operation}"


@pytest.mark.parametrize("name", ["kernel_5", "suite_tcn_64", "depthwise_long", "plane_strides_differ", "batch_33"])
def test_same_bits_again_for_the_same_threads(fast_kernels: Kernels, name: str, dtype: str) -> None:
    g = cases.GEOMETRIES[name]
    arrays = problem("normal", name, dtype)
    for operation in OPERATIONS:
        for algorithm in able(fast_kernels, operation, g, dtype):
            for threads in (1, 2, 3):
                first = carry_out(algorithm, operation, g, arrays, None, threads)
                for _ in range(10):
                    again = carry_out(algorithm, operation, g, arrays, None, threads)
                    assert first.tobytes() == again.tobytes(), f"{algorithm.name} {operation} threads={threads}"


@pytest.mark.parametrize("case", cases.SOME_CASES, ids=str)
def test_strict_gives_the_same_ordinary_numbers(fast_kernels: Kernels, case: cases.Case, dtype: str) -> None:
    arrays = problem("integers", case.name, dtype)
    for operation in OPERATIONS:
        for algorithm in able(fast_kernels, operation, case.geometry, dtype):
            if algorithm.exact:
                got = carry_out(algorithm, operation, case.geometry, arrays, None, 2, strict=True)
                np.testing.assert_array_equal(got, answer("integers", case.name, dtype, operation))


# ---- random geometries


def sizes(most: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(1, most), st.sampled_from([n for n in cases.LANES if n <= most]))


@st.composite
def axis(draw: st.DrawFn, most: int) -> tuple[int, int, int, int, tuple[int, int]]:
    """One axis of a convolution: (size, kernel, stride, dilation, padding), with at least one output."""
    kernel, dilation = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    before, after = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    least = max(1, dilation * (kernel - 1) + 1 - before - after)
    return draw(st.integers(least, least + most)), kernel, draw(st.integers(1, 5)), dilation, (before, after)


@st.composite
def geometries(draw: st.DrawFn, axes: int) -> Geometry:
    """A forward convolution's geometry, or a transposed one's with any output_padding."""
    groups = draw(st.integers(1, 4))
    c_in, c_out = groups * draw(sizes(9)), groups * draw(sizes(9))
    n = draw(sizes(5 if axes == 2 else 17))
    drawn = [draw(axis(40 if axes == 1 else 20)) for _ in range(axes)]
    size, kernel, stride, dilation, padding = zip(*drawn, strict=True)
    if draw(st.booleans()):
        shapes = (n, c_in, *size), (c_out, c_in // groups, *kernel)
        return conv_geometry(axes, *shapes, stride, padding, dilation, groups)[0]
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    # One more than the convolution would give, so that something is left after the cropping.
    out = [
        (n_x + sum(p) - d * (k - 1) - 1) // s + 2
        for n_x, k, s, d, p in zip(size, kernel, stride, dilation, padding, strict=True)
    ]
    shapes = (n, c_in, *out), (c_in, c_out // groups, *kernel)
    return transposed_geometry(axes, *shapes, stride, padding, extra, groups, dilation)


@pytest.mark.parametrize("operation", OPERATIONS)
@settings(max_examples=40)
@given(data=st.data())
def test_random_geometries(fast_kernels: Kernels, axes: int, operation: str, data: st.DataObject) -> None:
    g = data.draw(geometries(axes))
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    threads = data.draw(st.integers(1, 3))
    arrays = {letter: cases.integers(cases.shape_of(letter, g), dtype, letter) for letter in "xwy"}
    bias = data.draw(st.sampled_from(biases(g, cases.integers, dtype))) if operation == "forward" else None
    expected = cases.by_definition(operation, g, arrays, bias)
    for algorithm in able(fast_kernels, operation, g, dtype):
        got = carry_out(algorithm, operation, g, arrays, bias, threads)
        if algorithm.exact:
            np.testing.assert_array_equal(got, expected, algorithm.name)
        else:
            # The products are whole numbers, and their sum may be nothing.
            assert np.abs(got - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


# ---- reading beyond an array

GUARD_PAGES = """
import ctypes, mmap, sys
sys.path[:0] = {path!r}
import numpy as np
import cases
from fastconv.backends import load
from fastconv.geometry import OPERATIONS

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE = mmap.PAGESIZE
blocks = []

def at_the_edge(array, end):
    '''A copy that ends (or starts) exactly at a page that may not be touched.'''
    pages = -(-array.nbytes // PAGE)
    block = mmap.mmap(-1, (pages + 2) * PAGE)
    blocks.append(block)
    start = ctypes.addressof(ctypes.c_char.from_buffer(block))
    for forbidden in (start, start + (pages + 1) * PAGE):
        assert libc.mprotect(forbidden, PAGE, 0) == 0
    offset = (pages + 1) * PAGE - array.nbytes if end else PAGE
    copy = np.frombuffer(block, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    return copy

module = load({backend!r})
if {isa!r} is not None:
    module.use_isa({isa!r})
for name in {names!r}:
    g = cases.GEOMETRIES[name]
    for dtype in ("float32", "float64"):
        for end in (False, True):
            arrays = {{l: at_the_edge(cases.integers(cases.shape_of(l, g), dtype, l), end) for l in "xwy"}}
            bias = at_the_edge(cases.integers((g.K,), dtype, "bias"), end)
            for operation in OPERATIONS:
                expected = cases.by_definition(operation, g, arrays, bias)
                for algorithm in module.ALGORITHMS:
                    if algorithm.unsupported(operation, g, np.dtype(dtype)) is None:
                        print(name, dtype, end, operation, algorithm.name, flush=True)
                        written = at_the_edge(np.empty(expected.shape, dtype), end)
                        x, w, y = ({{**arrays, cases.target(operation): written}}[l] for l in "xwy")
                        b = bias if operation == "forward" else None
                        algorithm.run(operation, g, x, w, y, b, 2, False)
                        allowed = 0 if algorithm.exact else 1e-5 * np.abs(expected).max()
                        np.testing.assert_allclose(written, expected, rtol=0, atol=allowed)
print("done")
"""


@pytest.fixture(params=FAST_KERNELS, ids=str)
def guarded(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_touches_no_byte_outside_its_arrays(guarded: Kernels, run_python: Any) -> None:
    """Arrays that begin or end at a page without access: a read beyond them kills the (other) process."""
    names = [case.name for case in (*cases.SOME_CASES, *cases.LANE_CASES[::5])] + list(cases.TRANSPOSED_GEOMETRIES)
    path = [str(p) for p in (cases.__file__.rpartition("/")[0],)]
    code = GUARD_PAGES.format(path=path, backend=guarded.backend, isa=guarded.isa, names=names)
    done = run_python(code, check=False)
    assert done.returncode == 0, f"exit code {done.returncode} after: {done.stdout[-200:]}\n{done.stderr[-2000:]}"
    assert done.stdout.endswith("done\n")


# ---- what takes long to compile


@pytest.mark.slow
@pytest.mark.parametrize("kernels", OTHER_COMPILED_KERNELS, ids=str)
def test_other_instruction_sets_of_a_compiling_backend(run_python: Any, kernels: Kernels) -> None:
    """The narrower vectors that Numba can be told to use: every kind of case, in a process that forces them."""
    names = [case.name for case in (*cases.SOME_CASES, *cases.LANE_CASES[::3])] + list(cases.TRANSPOSED_GEOMETRIES)
    path = [str(p) for p in (cases.__file__.rpartition("/")[0],)]
    code = GUARD_PAGES.format(path=path, backend=kernels.backend, isa=kernels.isa, names=names)
    done = run_python(code, check=False, FASTCONV_ISA=str(kernels.isa), timeout=600)
    assert done.returncode == 0, f"exit code {done.returncode} after: {done.stdout[-200:]}\n{done.stderr[-2000:]}"
    assert done.stdout.endswith("done\n")
