"""FFT convolution: blocks and lanes that do not come out even, what must not spread, and who chooses it.

Small cases of every kind are in test_backends.py and test_numerics.py, which go through all algorithms; here are those
that need more than one block, batch of blocks, pass or thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cases
import numpy as np
import pytest
from cases import c
from kernel_sets import ALL_KERNELS, FAST_KERNELS, Kernels

import fastconv as fc
from fastconv.geometry import OPERATIONS

CASES = [
    # one channel: outputs around multiples of a block, and of the blocks that fill all lanes
    *(c(f"outputs_{n}", n + 16, k=17) for n in (16, 47, 48, 49, 112, 113, 48 * 8 - 1, 48 * 8 + 1, 112 * 16 + 1)),
    *(c(f"taps_{s}", 700, k=s, padding=s // 2) for s in (2, 3, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 129, 257)),
    c("kernel_beyond_signal", 40, k=200, padding=199),
    c("kernel_beyond_signal_depthwise", 40, 9, 9, 300, padding=299, groups=9, n=2),
    c("causal", 300, 2, 3, 64, padding=((63, 0),)),
    c("output_is_all_of_it", 90, 1, 1, 39, padding=38),
    c("padding_beyond_everything", 5, 1, 2, 30, padding=100),
    c("batch", 130, 1, 1, 33, n=23),
    c("batch_of_several_blocks", 900, 2, 2, 65, n=3, padding=10),
    c("dense", 260, 5, 11, 40, n=2, padding=20),
    c("dense_many_out", 150, 2, 35, 70, padding=35),
    c("dense_many_in", 150, 35, 2, 70, padding=35),
    c("depthwise", 500, 19, 19, 90, padding=45, groups=19),
    c("depthwise_long_signal", 3000, 3, 3, 90, padding=45, groups=3),
    c("depthwise_multiplier", 200, 9, 27, 50, n=2, groups=9),
    c("groups", 400, 12, 6, 50, n=2, groups=3, padding=49),
    c("rows_of_images", (5, 90), 3, 4, (1, 40), n=2, padding=(0, 20)),
    c("long", 9000, k=1025, padding=512),
    c("long_depthwise", 1030, 9, 9, 1023, padding=1022, groups=9),
]
# Of the largest output; measured 1e-7 to 7e-7, and 3e-16 to 2e-14 (sums over few outputs that nearly cancel).
LARGEST_ERROR = {"float32": 2e-6, "float64": 1e-13}


@pytest.fixture(params=FAST_KERNELS, ids=str)
def fft_kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    kernels: Kernels = request.param
    before = kernels.module.isa()
    kernels.module.use_isa(kernels.isa)
    yield kernels
    kernels.module.use_isa(before)


def fft(kernels: Kernels) -> Any:
    return next(a for a in kernels.module.ALGORITHMS if a.name == "fft")


def run(kernels: Kernels, operation: str, g: Any, arrays: dict[str, np.ndarray], bias: Any, threads: int) -> np.ndarray:
    written = np.full(cases.shape_of(cases.target(operation), g), np.nan, arrays["w"].dtype)
    x, w, y = ({**arrays, cases.target(operation): written}[letter] for letter in "xwy")
    fft(kernels).run(operation, g, x, w, y, bias, threads, False)
    return written


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_the_definition_in_float64(fft_kernels: Kernels, case: cases.Case) -> None:
    g = case.geometry
    wide = {letter: cases.normal(cases.shape_of(letter, g), "float64", letter, case.name) for letter in "xwy"}
    for operation in OPERATIONS:
        right = cases.by_definition(operation, g, wide)
        for dtype, allowed in LARGEST_ERROR.items():
            arrays = {letter: array.astype(dtype) for letter, array in wide.items()}
            rounded = right if dtype == "float64" else cases.by_definition(operation, g, arrays)
            for threads in (1, 2, 3):
                got = run(fft_kernels, operation, g, arrays, None, threads)
                error = np.abs(got - rounded).max() / np.abs(rounded).max()
                assert error <= allowed, f"{operation} {dtype} threads={threads}: {error}"
                again = run(fft_kernels, operation, g, arrays, None, threads)
                assert got.tobytes() == again.tobytes()


@pytest.mark.parametrize("name", ["dense", "depthwise", "groups", "rows_of_images", "batch_of_several_blocks"])
def test_biases(fft_kernels: Kernels, name: str, dtype: str) -> None:
    g = next(case for case in CASES if case.name == name).geometry
    arrays = {letter: cases.normal(cases.shape_of(letter, g), dtype, letter, name) for letter in "xwy"}
    plain = run(fft_kernels, "forward", g, arrays, None, 2).astype(np.float64)
    for shape in ((g.K,), (g.K, g.P, g.Q)):
        bias = cases.normal(shape, dtype, "bias")
        for threads in (1, 3):
            got = run(fft_kernels, "forward", g, arrays, bias, threads)
            right = plain + bias.reshape(g.K, g.P if len(shape) > 1 else 1, -1)
            assert np.abs(got - right).max() <= 2 * LARGEST_ERROR[dtype] * np.abs(right).max(), f"threads={threads}"


@pytest.mark.parametrize("name", ["taps_65", "dense", "depthwise", "kernel_beyond_signal", "batch_of_several_blocks"])
@pytest.mark.parametrize("value", [np.nan, np.inf, "huge"])
def test_what_is_not_finite_reaches_what_depends_on_it_and_nothing_else(
    fft_kernels: Kernels, name: str, value: Any, dtype: str
) -> None:
    """A "huge" value overflows in the spectrum, where every result is finite."""
    g = next(case for case in CASES if case.name == name).geometry
    for operation in OPERATIONS:
        for letter in cases.operands(operation):
            arrays = {a: cases.normal(cases.shape_of(a, g), dtype, a, name) for a in "xwy"}
            flat = arrays[letter].reshape(-1)
            at = int(cases.seed(name, operation, letter).integers(flat.size))
            if value == "huge":
                other = next(a for a in cases.operands(operation) if a != letter)
                arrays[other] *= 1e-3
                flat[...] = np.finfo(dtype).max / 4
                flat[1::2] *= -1
            else:
                flat[at] = value
            with np.errstate(all="ignore"):
                right = cases.by_definition(operation, g, arrays)
                if value == "huge":
                    right[np.abs(right) > np.finfo(dtype).max] = np.inf
            got = run(fft_kernels, operation, g, arrays, None, 2)
            label = f"{operation}: {value} in {letter}"
            if value == "huge":
                near = np.isfinite(right) & (np.abs(right) < np.finfo(dtype).max / 8)
                assert np.isfinite(got[near]).all(), label
            else:
                np.testing.assert_array_equal(np.isnan(got), np.isnan(right), label)
                np.testing.assert_array_equal(np.isposinf(got), np.isposinf(right), label)


def test_unsupported_says_why(fft_kernels: Kernels) -> None:
    for case, reason in (
        (c("plane", (40, 40), k=(3, 30)), "rows"),
        (c("strided", 400, k=64, stride=2), "stride"),
        (c("dilated", 400, k=64, dilation=2), "dilation"),
    ):
        for operation in OPERATIONS:
            assert reason in fft(fft_kernels).unsupported(operation, case.geometry, np.dtype("float32"))


LONG_LAYERS = [((1, 1, 20000), (1, 1, 511), 1), ((1, 16, 4096), (16, 1, 1023), 16), ((1, 8, 6000), (8, 8, 255), 1)]


@pytest.mark.parametrize(("x", "w", "groups"), LONG_LAYERS, ids=["one_channel", "depthwise", "dense"])
def test_planner_takes_it_for_long_filters_unless_strict(
    fft_kernels: Kernels, x: tuple[int, ...], w: tuple[int, ...], groups: int
) -> None:
    with fc.use_backend(fft_kernels.backend):
        for operation in OPERATIONS:
            plan = fc.explain(x, w, padding=w[2] // 2, groups=groups, operation=operation)
            assert plan.algorithm == "fft", str(plan)
            with fc.precision("strict"):
                plan = fc.explain(x, w, padding=w[2] // 2, groups=groups, operation=operation)
                assert plan.algorithm in [a.name for a in fft_kernels.module.ALGORITHMS if a.exact]
                assert "strict" in dict(plan.refused)["fft"]
        for size, taps in ((4, 3), (100000, 3), (100, 100)):
            assert fc.explain((1, 1, size), (1, 1, taps)).algorithm != "fft"
        with fc.precision("strict"), pytest.raises(ValueError, match="strict"):
            fc.conv1d(np.ones((1, 1, 99)), np.ones((1, 1, 50)), algorithm="fft")


def test_compiled_backends_choose_it_alike() -> None:
    """The rule is written twice, in C and in Python, as the Numba backend works without the extension."""
    widths = {backend: [k for k in ALL_KERNELS if k.backend == backend] for backend in ("cython", "numba")}
    pairs = [(one, other) for one in widths["cython"] for other in widths["numba"] if one.isa == other.isa]
    if not pairs:
        pytest.skip("no two compiled backends with the same instruction set here")
    rng = cases.seed("who takes fft")
    geometries = [case.geometry for case in CASES]
    for _ in range(300):
        taps, size = (int(2 ** rng.uniform(low, high)) for low, high in ((3.5, 12), (5, 17)))
        groups, share, multiplier = (int(2 ** rng.uniform(0, high)) for high in (6, 3, 3))
        shape = (int(rng.integers(1, 5)), groups * share, size)
        if taps <= size:
            weights = (groups * multiplier, share, taps)
            geometries.append(
                fc.explain(shape, weights, padding=taps // 2, groups=groups, backend="reference").geometry
            )
    chosen = 0
    for pair in pairs:
        modules = [kernels.module for kernels in pair]
        before = [module.isa() for module in modules]
        for kernels in pair:
            kernels.module.use_isa(kernels.isa)
        for g in geometries:
            for operation in OPERATIONS:
                for threads in (1, 2):
                    answers = [fft(k).unwise(operation, g, np.dtype("float32"), threads) for k in pair]
                    assert (answers[0] is None) == (answers[1] is None), (operation, threads, g, answers)
                    chosen += answers[0] is None
        for module, isa in zip(modules, before):
            module.use_isa(isa)
    assert chosen > 100


def test_workspace_does_not_grow_with_the_signal(fft_kernels: Kernels) -> None:
    with fc.use_backend(fft_kernels.backend):
        for operation in OPERATIONS:
            short, long = (
                fc.explain((1, 1, n), (1, 1, 511), operation=operation, algorithm="fft").workspace
                for n in (1_000_000, 100_000_000)
            )
            assert long <= 2 * short, operation
