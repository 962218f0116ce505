"""The kernels ready to be called: compiled at first use, once for each element type and ISA, and kept on disk.

A file holds the machine code of one kernel. Its name tells what the code depends on: the sources, the element type and
ISA, the CPU, and the versions of Python, Numba and llvmlite. It lies in ``NUMBA_CACHE_DIR``, else in ``__pycache__``
beside the sources or, where that cannot be written, in the user's cache folder. A file is put in place whole, so a
reader needs no lock; a lock file keeps a second process from compiling what a first one is about to write. Without any
folder to write to everything works and is compiled anew by each process, with one warning; damaged files are made
again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llvmlite
import numpy as np

from . import machine_code
from .cpu import Isa

# Kernel -> the module of this package that has it: `BUILDERS`, which names its builder, `SIGNATURES`, its types for an
# element type, and `HELPERS`, the functions that its kernels call, callees first.
MODULES = {
    "small_forward": "small_kernels",
    "small_backward_input": "small_kernels",
    "small_backward_weight": "small_kernels",
    "batch": "batch_kernels",
    "correlate": "kernels",
    "gradient": "kernels",
    "columns": "columns_kernels",
    "gemm_weight": "gemm_weight_kernels",
    "winograd": "winograd_kernels",
    "winograd_strided": "winograd_kernels",
    "winograd_weight": "winograd_weight_kernels",
    "winograd_weight_strided": "winograd_weight_kernels",
    "fft": "fft_kernels",
    "fft_weight": "fft_kernels",
    "depthwise": "depthwise_kernels",
    "depthwise_pairs": "depthwise_pair_kernels",
    "depthwise_planes": "depthwise_plane_kernels",
    "depthwise_rows": "depthwise_kernels",
    "depthwise_spread": "depthwise_pair_kernels",
    "depthwise_sums": "depthwise_plane_kernels",
    "depthwise_row_weights": "depthwise_kernels",
    "depthwise_weights": "depthwise_weight_kernels",
    "serve": "workers_kernels",
    "share_out": "workers_kernels",
}

# Such a module -> what its machine code depends on besides itself and _COMMON.
_SOURCES = {
    "small_kernels": (),
    "batch_kernels": ("batch_plan",),
    "kernels": ("plan", "row_blocks"),
    "columns_kernels": ("columns_plan", "depthwise_plane_kernels", "depthwise_plan"),
    "gemm_weight_kernels": ("gemm_weight_plan",),
    "winograd_kernels": ("winograd_blocks", "winograd_plan"),
    "winograd_weight_kernels": (
        *("winograd_kernels", "winograd_blocks", "winograd_weight_blocks", "winograd_plan"),
        *("gemm_weight_kernels", "gemm_weight_plan"),
    ),
    "fft_kernels": ("fft_plan",),
    "depthwise_kernels": ("depthwise_plan",),
    "depthwise_pair_kernels": ("depthwise_plan",),
    "depthwise_plane_kernels": ("depthwise_plan",),
    "depthwise_weight_kernels": ("depthwise_kernels", "depthwise_plan"),
    "workers_kernels": ("atomics", "workers"),
}
_COMMON = ("build", "cpu", "flags", "machine_code", "objects", "vector")

_lock = threading.Lock()
_ready: dict[tuple[str, np.dtype[Any], Isa], machine_code.Loaded] = {}
_warned = False


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it at the fork


os.register_at_fork(after_in_child=_renew_lock)


def kernel(name: str, dtype: np.dtype[Any], isa: Isa) -> Callable[..., int]:
    """The kernel `name` of :data:`MODULES` for arrays of `dtype` and the vectors of `isa`, as a built-in function.

    The caller vouches for the types, dtypes and ranks of what it hands over, and for C order.
    """
    return _loaded(name, dtype, isa).call


def entry_point(name: str, dtype: np.dtype[Any], isa: Isa) -> int:
    """The address of that kernel, to be called as Numba's compiled functions call each other."""
    return _loaded(name, dtype, isa).address


def _loaded(name: str, dtype: np.dtype[Any], isa: Isa) -> machine_code.Loaded:
    found = _ready.get((name, dtype, isa))
    if found is None:
        with _lock:
            found = _ready.get((name, dtype, isa))
            if found is None:
                found = _ready[name, dtype, isa] = machine_code.load(name, _code(name, dtype, isa))
    return found


def _code(name: str, dtype: np.dtype[Any], isa: Isa) -> bytes:
    """The kernel's object file, from the cache or compiled."""
    own, others = _file_names(name, dtype, isa)
    found = None
    try:
        folder = _folder()
        found = _read(folder / own)
        if found is not None:
            return found
        with _locked(folder):
            found = _read(folder / own)
            if found is None:
                found = _compile(name, dtype, isa)
                _write(folder / own, found)
                for path in folder.glob(others):  # of other sources or versions
                    if path.name != own:
                        path.unlink(missing_ok=True)
            return found
    except OSError as error:  # no folder, a full disk, no permission
        _warn(error)
        return found or _compile(name, dtype, isa)


def _compile(name: str, dtype: np.dtype[Any], isa: Isa) -> bytes:
    from .build import object_file

    return object_file(name, dtype, isa)


# ---- the cache


def _file_names(name: str, dtype: np.dtype[Any], isa: Isa) -> tuple[str, str]:
    """The file of a kernel's code, and a pattern for what older sources or versions left of it."""
    cpu = hashlib.sha256(repr((sys.implementation.cache_tag, *machine_code.target())).encode())
    rest = hashlib.sha256(repr((isa, sys.version, llvmlite.__version__)).encode())
    numba = importlib.util.find_spec("numba")
    if numba is not None and numba.origin:
        rest.update(Path(numba.origin).with_name("_version.py").read_bytes())
    module = MODULES[name]
    for source in (*_COMMON, module, *_SOURCES[module]):
        rest.update(Path(__file__).with_name(f"{source}.py").read_bytes())
    start = f"{name}-{dtype.name}-{isa.name}-{cpu.hexdigest()[:12]}"
    return f"{start}-{rest.hexdigest()[:24]}.code", f"{start}-*.code"


def _folder() -> Path:
    """Where the files lie; OSError where no folder can be written."""
    package = Path(__file__).resolve().parent
    own = "fastconv_" + hashlib.sha256(os.fsencode(package)).hexdigest()[:16]
    asked = os.environ.get("NUMBA_CACHE_DIR")
    if asked:
        choices = [Path(asked) / own]
    else:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        choices = [package / "__pycache__", user / own]
    for choice in choices:
        try:
            choice.mkdir(parents=True, exist_ok=True)
            if os.access(choice, os.W_OK | os.X_OK):
                return choice
        except OSError as error:
            failure = error
    raise failure


def _read(path: Path) -> bytes | None:
    """The code in a file; None where there is none, or a damaged one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    code = data[32:]
    return code if hashlib.sha256(code).digest() == data[:32] else None


def _write(path: Path, code: bytes) -> None:
    """Puts a whole file in place."""
    own = path.with_suffix(f".{os.getpid()}")
    try:
        own.write_bytes(hashlib.sha256(code).digest() + code)
        own.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            own.unlink()
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl

    with open(folder / "fastconv.lock", "w") as file:
        # A file system without locks: two processes may then compile the same, which costs time alone.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file gives the lock back, and so does the end of the process


def _warn(error: Exception) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"fastconv: compiled code cannot be cached ({error}); each process will compile it again. "
            "Set NUMBA_CACHE_DIR to a folder that can be written to.",
            RuntimeWarning,
            stacklevel=2,
        )
