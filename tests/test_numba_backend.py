"""The Numba backend beside Numba's own settings: its threading layers, no compilation, no folder for the cache."""

from __future__ import annotations

import hashlib
import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_sets import Kernels, all_kernels

import fastconv as fc
from fastconv.backends import load
from fastconv.geometry import Geometry, conv_geometry

if "numba" not in fc.backends():
    pytest.skip("the numba backend cannot be used here", allow_module_level=True)

LAYERS = """
import os, signal, threading
import numba, numpy as np, fastconv as fc

x, w = np.arange(4 * 16 * 40 * 40, dtype=np.float32).reshape(4, 16, 40, 40) % 7, np.ones((16, 16, 1, 1), np.float32)

@numba.njit(parallel=True)
def doubled(a):
    out = np.empty_like(a)
    for i in numba.prange(a.size):
        out[i] = 2 * a[i]
    return out

def compute():
    return fc.conv2d(x, w)

right, failures = compute(), []
flat = np.arange(10000.0)
doubled(flat)
print(numba.threading_layer())

def work():
    for _ in range(10):
        if not (compute() == right).all():
            failures.append("wrong result")

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(10):  # somebody's own parallel code, meanwhile
    assert (doubled(flat) == 2 * flat).all()
for thread in threads:
    thread.join()
assert not failures
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    fine = (compute() == right).all()
    alone = "fastconv" not in [thread.name for thread in threading.enumerate()]
    told = any("forked" in note for note in fc.explain((2, 8, 9, 9), (8, 8, 3, 3)).notes)
    os._exit(0 if fine and alone and told else 1)
assert not any("forked" in note for note in fc.explain((2, 8, 9, 9), (8, 8, 3, 3)).notes)
assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_beside_every_threading_layer(run_python: Any, layer: str) -> None:
    if layer == "tbb" and importlib.util.find_spec("tbb") is None:
        pytest.skip("tbb is not installed")
    done = run_python(LAYERS, NUMBA_THREADING_LAYER=layer, FASTCONV_BACKEND="numba", FASTCONV_NUM_THREADS="2")
    assert done.stdout.strip() == layer


SHARES = """
import os, signal, sys, threading
import numpy as np, fastconv as fc
from fastconv.backends.numba import workers

rng = np.random.default_rng(0)
layers = [  # winograd, depthwise, direct, fft, a weight gradient of few channels
    (rng.standard_normal(x, np.float32), rng.standard_normal(w, np.float32), groups)
    for x, w, groups in (
        ((2, 16, 28, 28), (16, 16, 3, 3), 1), ((2, 32, 28, 28), (32, 1, 3, 3), 32),
        ((2, 64, 14, 14), (64, 64, 1, 1), 1), ((4, 2, 1, 6000), (3, 2, 1, 700), 1), ((1, 1, 200, 200), (3, 1, 5, 5), 1),
    )
]

def compute(x, w, groups):
    y = fc.conv2d(x, w, groups=groups)
    return [y, *fc.conv2d_backward(y, x, w, groups=groups)[:2]]

def same(found):
    return all(a.tobytes() == b.tobytes() for one, other in zip(found, right) for a, b in zip(one, other))

workers.forked = True  # so the caller runs every share
right = [compute(*layer) for layer in layers]
workers.forked = False
assert threading.active_count() == 1

def refuse(thread):
    raise RuntimeError("can't start new thread")

start, threading.Thread.start = threading.Thread.start, refuse
assert same([compute(*layer) for layer in layers])  # the system has no thread left
threading.Thread.start = start
assert same([compute(*layer) for layer in layers])
assert [thread.name for thread in threading.enumerate()][1:] == ["fastconv"] * (fc.get_num_threads() - 1)

failures = []
def work():
    for _ in range(20):
        if not same([compute(*layer) for layer in layers]):
            failures.append("wrong")

several = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in several]; [thread.join() for thread in several]
assert not failures

def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
caught = 0
while caught < 20:
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0001, 0.002))
        while True:
            compute(*layers[caught % len(layers)])
    except KeyboardInterrupt:
        caught += 1
assert same([compute(*layer) for layer in layers])
print("numba" in sys.modules)

def forever():
    while True:
        compute(*layers[0])
for _ in range(2):  # the process ends while they compute
    threading.Thread(target=forever, daemon=True).start()
compute(*layers[0])
"""


@pytest.mark.parametrize("threads", [2, 3])
def test_shares_are_the_same_bits_whoever_runs_them(run_python: Any, threads: int) -> None:
    """Without a thread to be had, several callers at once, interrupts, the end of the process; with the files alone."""
    done = [run_python(SHARES, FASTCONV_BACKEND="numba", FASTCONV_NUM_THREADS=str(threads)) for _ in range(2)]
    assert done[1].stdout.strip() == "False", "numba was imported although all is compiled"
    assert not done[0].stderr + done[1].stderr


def test_without_compilation_it_says_that_it_cannot_be_used(run_python: Any) -> None:
    code = """
        import fastconv as fc
        assert "numba" not in fc.backends()
        try:
            fc.use_backend("numba")
        except RuntimeError as error:
            print(error)
    """
    assert "NUMBA_DISABLE_JIT" in run_python(code, NUMBA_DISABLE_JIT="1").stdout


def test_without_a_cache_it_works_and_says_so_once(run_python: Any, tmp_path: Path) -> None:
    code = """
        import warnings, numpy as np, fastconv as fc
        from fastconv.backends.numba import compiled

        def locked(folder):
            raise OSError(f"{folder} is read-only")

        compiled._locked = locked
        x, w = np.arange(8, dtype=np.float32).reshape(1, 1, 8), np.ones((1, 1, 3), np.float32)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            y = fc.conv1d(x, w)
            assert (fc.conv1d(x, w, padding=1)[..., 1:-1] == y).all()
        assert y.tolist() == [[[3, 6, 9, 12, 15, 18]]]
        print([str(w.message) for w in caught if "cannot be cached" in str(w.message)])
    """
    done = run_python(code, FASTCONV_BACKEND="numba", NUMBA_CACHE_DIR=str(tmp_path))  # where no code lies yet
    assert done.stdout.count("read-only") == 1


def test_a_later_process_needs_the_files_alone_and_damaged_ones_are_made_again(run_python: Any, tmp_path: Path) -> None:
    code = """
        import sys, numpy as np, fastconv as fc
        x, w = np.arange(8, dtype=np.float32).reshape(1, 1, 8), np.ones((1, 1, 3), np.float32)
        assert fc.conv1d(x, w).tolist() == [[[3, 6, 9, 12, 15, 18]]]
        print("numba" in sys.modules)
    """

    def numba_imported() -> str:
        return str(run_python(code, FASTCONV_BACKEND="numba", NUMBA_CACHE_DIR=str(tmp_path)).stdout.strip())

    assert [numba_imported() for _ in range(2)] == ["True", "False"]
    (file,) = tmp_path.rglob("*.code")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert [numba_imported() for _ in range(2)] == ["True", "False"]
    assert file.read_bytes()[:32] == hashlib.sha256(file.read_bytes()[32:]).digest()


def test_kernels_refuse_what_is_no_number_or_too_few_arguments() -> None:
    from fastconv.backends.numba import compiled, cpu

    kernel = compiled.kernel("batch", np.dtype("f4"), cpu.current())
    arrays = [np.zeros(1, np.int64) for _ in range(7)]
    with pytest.raises(TypeError, match="bad argument"):
        kernel(*arrays)
    with pytest.raises(TypeError, match="integer"):
        kernel(*arrays, "share")


def random_geometries(count: int) -> list[Geometry]:
    draw = random.Random(2)
    found: list[Geometry] = []
    while len(found) < count:
        axes, groups = draw.choice([1, 2]), draw.choice([1, 1, 2, 3, 8])
        size = [draw.choice([1, 5, 9, 28, 70, 300]) for _ in range(axes)]
        kernel = [draw.choice([1, 2, 3, 5, 7, 8, 16, 40]) for _ in range(axes)]
        channels, outputs = (draw.choice([1, 1, 1, 2, 5, 16, 33, 64]) for _ in range(2))
        arguments = (draw.choice([1, 1, 2, 3, 8]), draw.randint(0, 2), draw.choice([1, 1, 2]), groups)
        shapes = (draw.choice([1, 3]), channels * groups, *size), (outputs * groups, channels, *kernel)
        try:
            found.append(conv_geometry(axes, *shapes, *arguments)[0])
        except ValueError:  # a kernel larger than the input
            continue
    return found


def geometries_of_several_outputs(count: int) -> list[Geometry]:
    """3x3 planes, most of them of stride 1, whose channels have one output or many."""
    draw = random.Random(3)
    found: list[Geometry] = []
    while len(found) < count:
        groups, outputs = draw.choice([1, 3]), draw.choice([1, 5, 12, 13, 40])
        size = draw.choice([3, 5, 20]), draw.choice([3, 4, 5, 7, 8, 9, 15, 16, 17, 40])
        arguments = draw.choice([1, 1, 1, 2]), draw.randint(0, 3), draw.choice([1, 1, 1, 2]), groups
        try:
            found.append(conv_geometry(2, (2, groups, *size), (outputs * groups, 1, 3, 3), *arguments)[0])
        except ValueError:
            continue
    return found


@pytest.mark.skipif("cython" not in fc.backends(), reason="the extension was not built: nothing to compare with")
@pytest.mark.parametrize("kernels", [k for k in all_kernels() if k.backend == "numba"], ids=str)
@pytest.mark.parametrize(
    ("operation", "name", "geometries"),
    [
        ("backward_weight", "gemm", random_geometries),
        ("backward_weight", "depthwise", random_geometries),
        ("backward_input", "depthwise", geometries_of_several_outputs),
    ],
)
def test_gradients_are_chosen_as_in_c(
    kernels: Kernels, operation: str, name: str, geometries: Callable[[int], list[Geometry]]
) -> None:
    """The rule is written twice, as this backend works without the extension."""
    modules = load("cython"), load("numba")
    before = [module.isa() for module in modules]
    for module in modules:
        module.use_isa(kernels.isa)
    try:
        pair = [next(a for a in module.ALGORITHMS if a.name == name) for module in modules]
        chosen = 0
        for g in geometries(400):
            for dtype, threads in (("float32", 1), ("float64", 2)):
                question = operation, g, np.dtype(dtype)
                answers = [a.unsupported(*question) or a.unwise(*question, threads) for a in pair]
                assert (answers[0] is None) == (answers[1] is None), (g, dtype, threads, answers)
                chosen += answers[0] is None
        assert 40 < chosen < 760, "both answers should have been asked for"
    finally:
        for module, isa in zip(modules, before, strict=True):
            module.use_isa(isa)
