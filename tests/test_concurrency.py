"""Several Python threads at once, the GIL, and fork."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import cases
import numpy as np
import pytest
from kernel_sets import Kernels

import fastconv as fc

HAS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def test_four_threads_at_once_are_all_right(kernels: Kernels) -> None:
    """Different sizes, forward and backward, two threads each; the pool has one owner at a time."""
    names = ("suite_cifar_resnet", "suite_tcn_64", "suite_ecg_15", "depthwise_5")
    problems = []
    for name in names:
        case = cases.BY_NAME[name]
        arrays = [cases.integers(s, "float32", s) for s in (case.x_shape, case.w_shape, case.y_shape)]
        results = [
            cases.by_definition(operation, case.geometry, dict(zip("xwy", four_d(case, arrays), strict=True)))
            for operation in ("forward", "backward_input", "backward_weight")
        ]
        problems.append((case, arrays, results))
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(problems))
    rounds = 3 if kernels.backend == "reference" else 40

    def work(case: cases.Case, arrays: list[np.ndarray], results: list[np.ndarray]) -> None:
        x, w, y = arrays
        conv, backward = getattr(fc, f"conv{case.axes}d"), getattr(fc, f"conv{case.axes}d_backward")
        try:
            barrier.wait(60)
            with fc.num_threads(2), fc.use_backend(kernels.backend):
                for _ in range(rounds):
                    got = [conv(x, w, **case.arguments), *backward(y, x, w, **case.arguments)[:2]]
                    for a, b in zip(got, results, strict=True):
                        # what the planner's inexact algorithms may err; a race would be off by whole integers
                        np.testing.assert_allclose(a, b.reshape(a.shape), rtol=0, atol=1e-5 * np.abs(b).max())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=problem) for problem in problems]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]


def four_d(case: cases.Case, arrays: list[np.ndarray]) -> list[np.ndarray]:
    shapes = (case.geometry.x_shape, case.geometry.w_shape, case.geometry.y_shape)
    return [a.reshape(shape) for a, shape in zip(arrays, shapes, strict=True)]


def test_first_calls_at_once(run_python: Any, backend: str) -> None:
    """Four threads make the process's first calls together: settings, ISA and compilation are set up once and right."""
    code = f"""
    import threading, numpy as np, fastconv as fc
    x, w = np.arange(300.0, dtype=np.float32).reshape(1, 3, 100), np.ones((4, 3, 5), np.float32)
    results, barrier = [], threading.Barrier(4)
    def work():
        barrier.wait()
        results.append(fc.conv1d(x, w))
    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]; [t.join() for t in threads]
    right = fc.conv1d(x, w, backend="reference")
    assert len(results) == 4 and all((r == right).all() for r in results)
    assert fc.explain(x.shape, w.shape).backend == {backend!r}
    """
    run_python(code, FASTCONV_BACKEND=backend, FASTCONV_NUM_THREADS="2")


@pytest.mark.parametrize("operation", ["forward", "backward_input", "backward_weight"])
def test_other_threads_run_during_a_call(fast_kernels: Kernels, operation: str) -> None:
    x, w = np.ones((4, 64, 48, 48), np.float32), np.ones((64, 64, 3, 3), np.float32)
    y = np.ones((4, 64, 46, 46), np.float32)
    call = {
        "forward": lambda: fc.conv2d(x, w),
        "backward_input": lambda: fc.grad.conv2d_input(x.shape, w, y),
        "backward_weight": lambda: fc.grad.conv2d_weight(x, w.shape, y),
    }[operation]
    call()  # whatever a first call compiles or starts
    spans: list[tuple[float, float]] = []

    def work() -> None:
        with fc.num_threads(1), fc.use_backend(fast_kernels.backend):
            for _ in range(5):
                start = time.perf_counter()
                call()
                spans.append((start, time.perf_counter()))

    ticks: list[float] = []
    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.0002)
    thread.join()
    # With the GIL held, the loop above could tick at the start and at the end of a call, never in its middle half.
    inside = [sum(start + (end - start) / 4 < tick < end - (end - start) / 4 for tick in ticks) for start, end in spans]
    assert max(inside) >= 3, f"{inside} ticks in the middle of calls of {[end - start for start, end in spans]} s"


FORK = """
import os, signal, sys
import numpy as np, fastconv as fc
x, w = np.arange(4 * 16 * 40 * 40, dtype=np.float32).reshape(4, 16, 40, 40) % 7, np.ones((16, 16, 3, 3), np.float32)
y = np.ones((4, 16, 38, 38), np.float32)
def compute():
    return [fc.conv2d(x, w), *fc.conv2d_backward(y, x, w)]
right = compute()
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        signal.alarm(100)
        fine = all((a == b).all() for a, b in zip(compute(), right))
        again = os.fork()  # a grandchild, after a parallel call of the child's own
        if again == 0:
            os._exit(0 if all((a == b).all() for a, b in zip(compute(), right)) else 1)
        os._exit(0 if fine and os.waitpid(again, 0)[1] == 0 else 1)
    assert all((a == b).all() for a, b in zip(compute(), right))  # the parent goes on meanwhile
    assert os.waitpid(pid, 0)[1] == 0
"""

FORK_POOL = """
import multiprocessing, threading
import numpy as np, fastconv as fc
x, w = np.arange(2 * 8 * 30 * 30, dtype=np.float32).reshape(2, 8, 30, 30) % 5, np.ones((8, 8, 3, 3), np.float32)
def compute(i):
    return float(fc.conv2d(x + i, w).sum())
if __name__ == "__main__":
    right = [compute(i) for i in range(6)]
    stop = threading.Event()
    def busy():
        while not stop.is_set():
            compute(0)
    thread = threading.Thread(target=busy)
    thread.start()  # another thread is in the middle of parallel calls while the pool forks
    with multiprocessing.get_context("fork").Pool(2) as pool:
        got = pool.map_async(compute, range(6)).get(120)
    stop.set()
    thread.join()
    assert got == right, (got, right)
"""


@HAS_FORK
@pytest.mark.parametrize("code", [FORK, FORK_POOL], ids=["fork", "pool"])
def test_it_works_after_fork(run_python: Any, backend: str, code: str) -> None:
    run_python(code, FASTCONV_BACKEND=backend, FASTCONV_NUM_THREADS="2", timeout=200)


@HAS_FORK
def test_settings_survive_fork(run_python: Any) -> None:
    code = """
    import os, fastconv as fc
    fc.set_num_threads(3)
    with fc.precision("strict"), fc.num_threads(2):
        pid = os.fork()
        if pid == 0:
            here = (fc.get_num_threads(), fc.explain((1, 1, 4), (1, 1, 3)).precision)
            os._exit(0 if here == (2, "strict") else 1)
        assert os.waitpid(pid, 0)[1] == 0
    assert fc.get_num_threads() == 3
    """
    run_python(code)
