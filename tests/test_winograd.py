"""Winograd's algorithm: one rule for the backends that have it, and outputs that are not finite."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from kernel_sets import FAST_KERNELS, Kernels

import fastconv as fc
from fastconv.backends import load, usable
from fastconv.geometry import Geometry, conv_geometry

WITH_ISAS = [k for k in FAST_KERNELS if k.isa is not None and k.backend == "numba"]


def winograd(backend: str) -> Any:
    return next(a for a in load(backend).ALGORITHMS if a.name == "winograd")


def random_geometries(count: int) -> list[Geometry]:
    draw = random.Random(1)
    found = []
    while len(found) < count:
        axes, size = draw.choice([1, 2]), draw.choice([4, 9, 17, 30, 60])
        kernel = draw.randint(1, 8) if axes == 1 else draw.choice([(3, 3), (5, 5), (3, 5), (1, 4), (1, 1), (17, 17)])
        channels, groups = [draw.choice([1, 3, 6, 8, 12, 32, 64]) for _ in range(2)], draw.choice([1, 1, 2])
        arguments = (draw.choice([1, 1, 1, 2, 3]), draw.randint(0, 2), draw.choice([1, 1, 2, 5, 65]), groups)
        shapes = (draw.choice([1, 3]), channels[0] * groups, *[size] * axes), (channels[1] * groups, channels[0])
        try:
            found.append(conv_geometry(axes, shapes[0], (*shapes[1], *np.atleast_1d(kernel)), *arguments)[0])
        except ValueError:  # a kernel larger than the input
            continue
    return found


@pytest.mark.skipif("cython" not in usable(), reason="the extension was not built: nothing to compare with")
@pytest.mark.parametrize("kernels", WITH_ISAS, ids=str)
def test_backends_answer_alike_where_it_serves(kernels: Kernels) -> None:
    compiled, numba, dtype = load("cython"), load("numba"), np.dtype("f4")
    before = compiled.isa(), numba.isa()
    compiled.use_isa(kernels.isa)
    numba.use_isa(kernels.isa)
    try:
        answers = set()
        for g in random_geometries(600):
            for operation in ("forward", "backward_input", "backward_weight"):
                ours, theirs = (
                    a.unsupported(operation, g, dtype) or a.unwise(operation, g, dtype, 1)
                    for a in (winograd("numba"), winograd("cython"))
                )
                assert ours == theirs, f"{operation} on {g}"
                answers.add(theirs)
        assert len(answers) == 12, "each answer should have been asked for"
    finally:
        compiled.use_isa(before[0])
        numba.use_isa(before[1])


STRIDED = [
    (axes, kernel, size, padding, batch)
    for axes, kernel, sizes in (
        (1, (3,), [(s,) for s in (3, 4, 13, 14, 15, 28, 29, 30, 1600)]),
        (2, (3, 3), [(3, 3), (4, 9), (8, 7), (9, 10), (16, 17), (15, 58), (60, 61)]),
        (2, (1, 3), [(2, 29), (5, 30)]),
    )
    for size in sizes
    for padding in (0, 1, (2,) if axes == 1 else (1, 2))
    for batch in (1, 3)
]


@pytest.mark.parametrize("threads", [1, 2])
def test_stride_2_on_odd_sizes_and_paddings(fast_kernels: Kernels, threads: int, dtype: str) -> None:
    """Against direct summation in float64, with a bias for each channel or each position."""
    algorithm, direct = winograd(fast_kernels.backend), load("reference").ALGORITHMS[0]
    for number, (axes, kernel, size, padding, batch) in enumerate(STRIDED):
        stride = (1, 2) if kernel == (1, 3) else 2
        shapes = (batch, 18, *size), (22, 9, *kernel)
        g, _ = conv_geometry(axes, *shapes, stride=stride, padding=padding, groups=2)
        rng = np.random.default_rng(number)
        bias = rng.standard_normal(g.K if number % 2 else (g.K, g.P, g.Q)).astype(dtype)
        if 1 in (g.P, g.Q) and axes == 2 and kernel == (3, 3):  # one output of an axis: its stride counts as 1
            continue
        for operation, at in ("forward", 2), ("backward_input", 0), ("backward_weight", 1):
            arrays = [rng.standard_normal(shape).astype(dtype) for shape in (g.x_shape, g.w_shape, g.y_shape)]
            arrays[at][:] = np.nan
            added = bias if operation == "forward" else None
            wide = [a.astype(np.float64) for a in arrays]
            direct.run(operation, g, *wide, None if added is None else added.astype(np.float64), 1, False)
            algorithm.run(operation, g, *arrays, added, threads, False)
            error = np.abs(arrays[at] - wide[at]).max() / np.abs(wide[at]).max()
            assert error <= (3e-6 if dtype == "float32" else 1e-14), f"{operation} on {g}"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_what_is_not_finite_stays_where_it_belongs(fast_kernels: Kernels, bad: float, stride: int) -> None:
    g, _ = conv_geometry(2, (1, 8, 20, 20), (8, 8, 3, 3), padding=1, stride=stride)
    rng = np.random.default_rng(3)
    x, w, y = (rng.standard_normal(shape).astype(np.float32) for shape in (g.x_shape, g.w_shape, g.y_shape))
    x[0, 3, 10, 10] = bad  # 3e38 overflows in the transform, not in the sums
    w[:, 3] *= 0.01
    winograd(fast_kernels.backend).run("forward", g, x, w, y, None, 1, False)
    near = abs(np.arange(g.P) * stride - 10) <= 1
    touched = np.outer(near, near) & (not np.isfinite(bad))
    assert (np.isfinite(y[0]) == ~touched).all()


# axes, N, C, size, K, kernel, arguments; channels that fill no vector. The first four have tiles of several blocks.
WEIGHTS: list[tuple[int, int, int, tuple[int, ...], int, Any, dict[str, Any]]] = [
    (2, 3, 20, (61, 58), 42, 3, {"padding": 1, "groups": 2}),
    (2, 1, 9, (101, 95), 25, 3, {"padding": (1, 0)}),
    (2, 1, 8, (47, 131), 8, 3, {"padding": 3, "dilation": (3, 2)}),
    (1, 1, 11, (4001,), 17, 3, {"padding": 5, "dilation": 5}),
    (2, 2, 9, (11, 13), 17, 5, {"padding": 2}),
    (2, 2, 8, (5, 30), 9, (1, 4), {"padding": (1, 2)}),
    *((1, 2, 9, (83,), 10, k, {"padding": k // 2}) for k in (2, 3, 4, 5, 6, 7)),
    (1, 1, 100, (50,), 30, 3, {}),
]


@pytest.mark.parametrize("threads", [1, 2])
def test_gradient_of_weights(fast_kernels: Kernels, threads: int, dtype: str) -> None:
    algorithm, direct = winograd(fast_kernels.backend), load("reference").ALGORITHMS[0]
    for axes, n, c, size, k, kernel, arguments in WEIGHTS:
        taps = (kernel,) * axes if isinstance(kernel, int) else kernel
        g, _ = conv_geometry(axes, (n, c, *size), (k, c // arguments.get("groups", 1), *taps), **arguments)
        rng = np.random.default_rng(n)
        x, y = (rng.standard_normal(shape).astype(dtype) for shape in (g.x_shape, g.y_shape))
        w, right = np.full(g.w_shape, np.nan, dtype), np.zeros(g.w_shape)
        assert algorithm.unsupported("backward_weight", g, w.dtype) is None
        algorithm.run("backward_weight", g, x, w, y, None, threads, False)
        direct.run("backward_weight", g, x.astype(np.float64), right, y.astype(np.float64), None, 1, False)
        error = np.abs(w - right).max() / np.abs(right).max()
        assert error <= (5e-6 if dtype == "float32" else 1e-14), g


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_weights_that_are_not_finite_stay_where_they_belong(fast_kernels: Kernels, bad: float) -> None:
    g, _ = conv_geometry(2, (1, 8, 20, 20), (8, 8, 3, 3), padding=1)
    rng = np.random.default_rng(3)
    x, w, y = (rng.standard_normal(shape).astype(np.float32) for shape in (g.x_shape, g.w_shape, g.y_shape))
    x[0, 3, 0, 0] = bad  # meets an output under four of the nine taps
    y *= 0.01
    winograd(fast_kernels.backend).run("backward_weight", g, x, w, y, None, 1, False)
    touched = np.zeros((8, 3, 3), bool)
    touched[3, :2, :2] = not np.isfinite(bad)
    assert (np.isfinite(w) == ~touched).all()


@pytest.mark.parametrize("backend", [name for name in ("cython", "numba") if name in usable()])
def test_weights_are_taken_where_tiles_are_many_and_never_when_strict(backend: str) -> None:
    def chosen(channels: int, size: int) -> str:
        shapes = (1, channels, size, size), (channels, channels, 3, 3)
        return fc.explain(*shapes, padding=1, operation="backward_weight", backend=backend).algorithm

    assert chosen(64, 56) == "winograd"
    assert chosen(256, 14) == "winograd"
    assert chosen(512, 7) != "winograd"
    assert chosen(4, 56) != "winograd"
    with fc.precision("strict"):
        assert chosen(64, 56) != "winograd"
