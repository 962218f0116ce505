"""The Numba backend beside Numba's own settings: its threading layers, no compilation, no folder for the cache."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

import fastconv as fc

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


def test_without_a_cache_it_works_and_says_so_once(run_python: Any) -> None:
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
    assert run_python(code, FASTCONV_BACKEND="numba").stdout.count("read-only") == 1
