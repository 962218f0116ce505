"""The kernels as machine code: compiled at first use, once for each element type and ISA, and kept on disk.

Numba keeps compiled code beside the source or, where that cannot be written, in the user's cache folder
(``NUMBA_CACHE_DIR`` overrides both). Its index and data files are replaced one by one, so two processes that compile at
once, or one that reads while another writes, could pair an index with the wrong data. A lock file in the same folder
keeps them apart; the second process then finds the first one's code. Without any folder to write to, or with one
that cannot be written, everything works and is compiled anew by each process, with one warning; damaged files are
removed and made again.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np

from . import vector
from .cpu import Isa

# Kernel -> the module of this package that has it: `BUILDERS`, which names its builder, `SIGNATURES`, its types for an
# element type, `HELPERS`, the functions that its kernels call, callees first, and `SOURCES`, the files that its machine
# code depends on.
MODULES = {
    "small_forward": "small_kernels",
    "small_backward_input": "small_kernels",
    "small_backward_weight": "small_kernels",
    "batch": "batch_kernels",
    "correlate": "kernels",
    "gradient": "kernels",
    "gemm_weight": "gemm_weight_kernels",
    "winograd": "winograd_kernels",
    "winograd_strided": "winograd_kernels",
    "fft": "fft_kernels",
    "fft_weight": "fft_kernels",
    "depthwise": "depthwise_kernels",
    "depthwise_rows": "depthwise_kernels",
    "depthwise_row_weights": "depthwise_kernels",
    "depthwise_weights": "depthwise_weight_kernels",
}

_lock = threading.Lock()
_ready: dict[tuple[str, np.dtype[Any], Isa], Callable[..., int]] = {}
_warned = False


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it at the fork


os.register_at_fork(after_in_child=_renew_lock)


def kernel(name: str, dtype: np.dtype[Any], isa: Isa) -> Callable[..., int]:
    """The kernel `name` of :data:`MODULES` for arrays of `dtype` and the vectors of `isa`."""
    found = _ready.get((name, dtype, isa))
    if found is None:
        with _lock:
            found = _ready.get((name, dtype, isa))
            if found is None:
                found = _ready[name, dtype, isa] = _compile(name, dtype, isa)
    return found


def entry_point(name: str, dtype: np.dtype[Any], isa: Isa) -> int:
    """The address of that kernel, to be called as Numba's compiled functions call each other."""
    (compiled,) = kernel(name, dtype, isa).overloads.values()  # type: ignore[attr-defined]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def builtin(name: str, dtype: np.dtype[Any], isa: Isa) -> Callable[..., int]:
    """That kernel as a built-in function, without Numba's look at the types: for arguments of :mod:`.objects`."""
    (compiled,) = kernel(name, dtype, isa).overloads.values()  # type: ignore[attr-defined]
    function: Callable[..., int] = compiled.entry_point
    return function


def _module(name: str) -> ModuleType:
    return importlib.import_module(f".{MODULES[name]}", __package__)


def _fingerprint(isa: Isa, sources: Iterable[str]) -> str:
    digest = hashlib.sha256(repr(isa).encode())
    for name in ("vector.py", "cpu.py", *sources):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()


def signature(name: str, dtype: np.dtype[Any]) -> Any:
    """Numba's types of that kernel's arguments and result."""
    return _module(name).SIGNATURES[name](numba.from_dtype(dtype))


_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}


def _compile(name: str, dtype: np.dtype[Any], isa: Isa) -> Callable[..., int]:
    module = _module(name)
    function = module.BUILDERS[name](_fingerprint(isa, module.SOURCES))
    # The linker knows functions by name. Numba's names tell types of records apart by a number that each process gives
    # anew, and ISAs not at all: code from the cache and code just compiled could take each other's place.
    function.__qualname__ = f"_{name}.{isa.name}"
    kinds = signature(name, dtype)
    vector.target = isa
    # Fresh callees, as their code depends on the target too. They are global names of the kernels, not free variables,
    # since Numba's cache would take a new function object in a closure for new code.
    for helper in module.HELPERS:
        plain = getattr(module, helper)
        plain = getattr(plain, "py_func", plain)
        plain.__qualname__ = f"{helper}.{name}.{isa.name}"
        setattr(module, helper, numba.njit(**_OPTIONS, no_cpython_wrapper=True)(plain))
    for attempt in range(2):
        try:
            cached = numba.njit(**_OPTIONS, cache=True)(function)
            folder = cached.stats.cache_path
            with _locked(folder):
                if attempt:
                    _remove(name, folder)
                cached.compile(kinds)
            cached.disable_compile()
            return cached
        except numba.core.errors.NumbaError:
            raise
        except Exception as error:  # no folder, a full disk, a damaged file: whatever reading and unpickling may raise
            failure = error
    _warn(failure)
    uncached = numba.njit(**_OPTIONS)(function)
    uncached.compile(kinds)
    uncached.disable_compile()
    return uncached


def _remove(name: str, folder: str) -> None:
    """Removes the kernel's files from the cache, as one of them cannot be read."""
    for path in Path(folder).glob(f"{MODULES[name]}._{name}.*.nb[ci]"):
        path.unlink(missing_ok=True)


def _warn(error: Exception) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"fastconv: Numba's compiled code cannot be cached ({error}); each process will compile it again. "
            "Set NUMBA_CACHE_DIR to a folder that can be written to.",
            RuntimeWarning,
            stacklevel=2,
        )


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    import fcntl

    with open(os.path.join(folder, "fastconv.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            # A file system without locks: Numba's own replacing of whole files is then all there is.
            yield
            return
        yield  # closing the file gives the lock back, and so does the end of the process
