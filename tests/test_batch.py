"""Images in lanes: the two compiled backends choose them alike, and what the Numba one takes arrays for."""

from __future__ import annotations

import ctypes
from typing import Any

import cases
import numpy as np
import pytest
from kernel_sets import FAST_KERNELS

import fastconv as fc
from fastconv.backends import load
from fastconv.geometry import Geometry, conv_geometry

# What the C kernels leave to their own direct summation, which the Numba one is slower at.
C_ALONE = ("strided", "pixels are used too little", "short rows with few products to a sum")


def batch(backend: str) -> Any:
    (found,) = [a for a in load(backend).ALGORITHMS if a.name == "batch"]
    return found


def random_geometries(count: int) -> list[Geometry]:
    draw, found = np.random.default_rng(7), []
    while len(found) < count:
        axes, groups = int(draw.integers(1, 3)), int(draw.choice([1, 1, 2]))
        images, c, k = (int(2 ** draw.uniform(0, most)) for most in (7, 6, 6))
        size, kernel = [int(n) for n in draw.integers(1, 40, axes)], [int(n) for n in draw.integers(1, 6, axes)]
        try:
            shapes = (images, c * groups, *size), (k * groups, c, *kernel)
            steps = int(draw.integers(1, 3)), int(draw.integers(0, 3)), int(draw.integers(1, 3))
            found.append(conv_geometry(axes, *shapes, *steps, groups)[0])
        except ValueError:  # a kernel larger than the input
            continue
    return found


@pytest.mark.skipif(not {"cython", "numba"} <= set(fc.backends()), reason="needs both compiled backends")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_backends_choose_them_alike(dtype: str) -> None:
    """The rule is written twice, in C and in Python; but for what the C kernels leave to their direct summation."""
    isas = {k.isa for k in FAST_KERNELS if k.backend == "cython"} & {
        k.isa for k in FAST_KERNELS if k.backend == "numba"
    }
    assert isas
    modules = [load("cython"), load("numba")]
    before = [module.isa() for module in modules]
    answers = set()
    try:
        for isa in isas:
            for module in modules:
                module.use_isa(isa)
            for g in (*random_geometries(400), *(case.geometry for case in cases.CASES)):
                for operation in ("forward", "backward_input"):
                    theirs, ours = (
                        a.unsupported(operation, g, np.dtype(dtype)) or a.unwise(operation, g, np.dtype(dtype), 1)
                        for a in (batch("cython"), batch("numba"))
                    )
                    if not (theirs or "").startswith(C_ALONE) or (theirs == ours):
                        assert ours == theirs, f"{operation} on {g}"
                        answers.add(ours)
    finally:
        for module, isa in zip(modules, before):
            module.use_isa(isa)
    assert len(answers) >= 6, f"nearly each answer should have been asked for: {answers}"


@pytest.mark.skipif("numba" not in fc.backends(), reason="the numba backend cannot be used here")
def test_arrays_lie_in_memory_as_numpys_c_interface_says() -> None:
    """The kernels that take arrays as objects read the address of their elements behind the object's header."""
    from fastconv.backends.numba.objects import DATA

    for array in (np.zeros(3), np.zeros((2, 3), np.float32)[:, 1:], np.zeros((), np.int64)):
        assert ctypes.c_void_p.from_address(id(array) + DATA).value == array.ctypes.data
