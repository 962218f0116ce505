"""A call needs no more memory than its result and the workspace that explain states: no im2col matrix anywhere."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from kernel_sets import FAST_KERNELS, Kernels

import fastconv as fc

# The peak of resident memory during one call, less what was there before it, against result + stated workspace.
MEASURE = """
import resource, sys
import numpy as np
import fastconv as fc
from fastconv.backends import load

module = load({backend!r})
if {isa!r} is not None:
    module.use_isa({isa!r})
fc.use_backend({backend!r})
fc.set_num_threads({threads})

x_shape, w_shape, arguments = {x_shape!r}, {w_shape!r}, {arguments!r}
axes = len(w_shape) - 2
conv, backward = getattr(fc, f"conv{{axes}}d"), getattr(fc, f"conv{{axes}}d_backward")
MASKS = {{"backward_input": (True, False, False), "backward_weight": (False, True, False)}}

def carry_out(operation, n):
    shape = (n, *x_shape[1:])
    x, w = np.ones(shape, np.float32), np.ones(w_shape, np.float32)
    if operation == "forward":
        return lambda: conv(x, w, **arguments)
    y = np.ones(conv(x, w, **arguments).shape, np.float32)
    return lambda: backward(y, x, w, **arguments, output_mask=MASKS[operation])

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

operation = {operation!r}
carry_out(operation, 1)()  # compiles, starts threads, touches the code
call = carry_out(operation, x_shape[0])
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew from what is resident
before = resident()
result = call()
grown = peak() - before
plan = fc.explain(x_shape, w_shape, operation=operation, **arguments)
size = result.nbytes if operation == "forward" else sum(r.nbytes for r in result if r is not None)
print(grown, size, plan.workspace)
"""

LAYERS = {
    "dense": ((4, 32, 120, 120), (32, 32, 3, 3), {"padding": 1}),
    "strided": ((4, 16, 160, 160), (32, 16, 5, 5), {"padding": 2, "stride": 2}),
    "long_1d": ((2, 16, 100_000), (16, 16, 31), {"padding": 15}),
    "depthwise": ((2, 64, 120, 120), (64, 1, 7, 7), {"padding": 3, "groups": 64}),
    "circular": ((4, 32, 120, 120), (32, 32, 3, 3), {"padding": 1, "padding_mode": "circular"}),
}
SLACK = 3 << 20  # stacks of threads, pages of code and of the interpreter itself


BEST = {kernels.backend: kernels for kernels in reversed(FAST_KERNELS)}


@pytest.fixture(params=BEST.values(), ids=str)
def best_kernels(request: pytest.FixtureRequest) -> Kernels:
    """Each backend with its best ISA: the others hold the same bounds with narrower vectors."""
    kernels: Kernels = request.param
    return kernels


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the peak of resident memory is read from Linux's /proc"
)
@pytest.mark.parametrize("operation", ["forward", "backward_input", "backward_weight"])
@pytest.mark.parametrize("layer", LAYERS)
def test_peak_stays_within_result_and_workspace(
    run_python: Any, best_kernels: Kernels, layer: str, operation: str
) -> None:
    x_shape, w_shape, arguments = LAYERS[layer]
    for threads in (1, 2) if layer == "dense" else (2,):
        code = MEASURE.format(
            backend=best_kernels.backend, isa=best_kernels.isa, threads=threads, x_shape=x_shape, w_shape=w_shape,
            arguments=arguments, operation=operation,
        )  # fmt: skip
        grown, size, workspace = map(int, run_python(code).stdout.split())
        assert grown <= size + workspace + SLACK, f"{grown:,} > {size:,} + {workspace:,}"
        if operation != "backward_weight":
            assert grown > size // 2, "the measurement saw less than the result itself"


@pytest.mark.parametrize("layer", [name for name in LAYERS if name != "circular"])
def test_workspace_is_no_im2col(backend: str, layer: str) -> None:
    """An im2col matrix repeats the input once a tap; the workspace is far smaller than that."""
    if backend == "reference":
        pytest.skip("the reference makes float64 copies of everything, which it states")
    x_shape, w_shape, arguments = LAYERS[layer]
    for operation in ("forward", "backward_input", "backward_weight"):
        for threads in (1, 2, 8):
            with fc.num_threads(threads):
                plan = fc.explain(x_shape, w_shape, operation=operation, **arguments)  # type: ignore[arg-type]
            g = plan.geometry
            matrix = 4 * g.C * g.R * g.S * g.P * g.Q
            assert plan.workspace < g.N * matrix / 2, operation


def test_a_small_call_allocates_its_result_alone(backend: str) -> None:
    import tracemalloc

    import numpy as np

    if backend == "reference":
        pytest.skip("the reference makes float64 copies of everything, which it states")
    x, w = np.ones((8, 8, 64, 64), np.float32), np.ones((8, 8, 3, 3), np.float32)
    out = fc.conv2d(x, w, padding=1)
    for operation, call in (
        ("forward", lambda: fc.conv2d(x, w, padding=1, out=out)),
        ("backward_input", lambda: fc.grad.conv2d_input(x.shape, w, out, padding=1)),
        ("backward_weight", lambda: fc.grad.conv2d_weight(x, w.shape, out, padding=1)),
    ):
        call()
        tracemalloc.start()
        result = call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        own = 0 if operation == "forward" else result.nbytes
        assert peak <= own + fc.explain(x.shape, w.shape, padding=1, operation=operation).workspace + 20_000, operation
