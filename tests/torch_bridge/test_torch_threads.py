"""Convolutions on PyTorch's own OpenMP threads."""

from __future__ import annotations

import os
from typing import Any

import pytest

from fastconv.torch import openmp

ADOPTED = pytest.mark.skipif(not openmp.adopt(), reason="no extension, or this build of PyTorch has no GOMP_parallel")

SAME_THREADS = """
import os, torch, fastconv.torch as ft
torch.set_num_threads(2)
x, w = torch.randn(4, 16, 64, 64, requires_grad=True), torch.randn(16, 16, 3, 3, requires_grad=True)
def both(convolve):
    y = convolve(x, w)
    return [y, *torch.autograd.grad(y.sum(), (x, w))]
right = both(torch.nn.functional.conv2d)  # PyTorch has its threads from here on
before = len(os.listdir("/proc/self/task"))
for _ in range(5):
    for one, other in zip(both(ft.conv2d), right):
        assert float((one - other).abs().max() / other.abs().max()) < 1e-5
after = len(os.listdir("/proc/self/task"))
assert after == before, (before, after)
"""

FORK = """
import os, signal
import numpy as np, torch, fastconv as fc, fastconv.torch as ft
fc.set_num_threads(2)
torch.set_num_threads(2)
x, w = np.arange(4 * 16 * 40 * 40, dtype=np.float32).reshape(4, 16, 40, 40) % 7, np.ones((16, 16, 3, 3), np.float32)
right = fc.conv2d(x, w)
assert (ft.conv2d(torch.from_numpy(x), torch.from_numpy(w)).numpy() == right).all()
pid = os.fork()
if pid == 0:  # without those threads: the pool's own
    signal.alarm(100)
    same = all((fc.conv2d(x, w) == right).all() for _ in range(5))
    os._exit(0 if same and len(os.listdir("/proc/self/task")) == 2 else 1)
assert os.waitpid(pid, 0)[1] == 0
assert (fc.conv2d(x, w) == right).all()
"""

MANY_CALLERS = """
import threading
import numpy as np, torch, fastconv.torch as ft
torch.set_num_threads(2)
x, w = torch.randn(4, 16, 40, 40), torch.randn(16, 16, 3, 3)
right = ft.conv2d(x, w)
wrong = []
def compute():
    for _ in range(30):
        if not torch.equal(ft.conv2d(x, w), right):
            wrong.append(1)
threads = [threading.Thread(target=compute) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join(100)
assert not wrong and not any(thread.is_alive() for thread in threads)
"""


@ADOPTED
@pytest.mark.parametrize(
    "code", [SAME_THREADS, FORK, MANY_CALLERS], ids=["no more threads", "fork", "several callers at once"]
)
def test_calls_run_on_pytorchs_threads(run_python: Any, code: str) -> None:
    run_python(code, timeout=200)


def test_a_build_without_gnu_openmp_keeps_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise OSError("not loaded")

    monkeypatch.setattr(openmp.ctypes, "CDLL", missing)
    assert not openmp.adopt()


def test_systems_that_cannot_ask_for_loaded_libraries_keep_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "RTLD_NOLOAD", raising=False)
    assert not openmp.adopt()
