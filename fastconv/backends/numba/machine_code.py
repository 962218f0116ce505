"""Machine code of a kernel, as bytes, made callable: an object file goes into memory and its entry becomes a built-in.

llvmlite alone does this. Importing numba takes longer than all the rest of a process's first call, and compiled code
has no need of it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import binding

# Names in every object file.
ENTRY = "fastconv.entry"  # takes Python's objects
KERNEL = "fastconv.kernel"  # takes what Numba's compiled functions hand to each other

_FASTCALL = 0x80  # METH_FASTCALL: (self, arguments, how many)


class _MethodDef(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class Loaded(NamedTuple):
    """A kernel in memory, for as long as the process lives."""

    call: Callable[..., int]
    address: int  # of KERNEL


_kept: list[Any] = []  # what the code in memory belongs to


@functools.cache
def _target() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_triple(binding.get_process_triple())


def load(name: str, code: bytes) -> Loaded:
    """The kernel `name` from its object file. The caller vouches for the types of what it then calls it with."""
    machine = _target().create_target_machine(codemodel="jitdefault", jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    method = _MethodDef(name.encode(), engine.get_function_address(ENTRY), _FASTCALL, None)
    _kept.extend((engine, method))
    create = ctypes.pythonapi.PyCFunction_NewEx
    create.restype, create.argtypes = ctypes.py_object, [ctypes.c_void_p] * 3
    return Loaded(create(ctypes.addressof(method), None, None), engine.get_function_address(KERNEL))


def target() -> tuple[str, str, str]:
    """LLVM's names of the platform, the CPU and its features, as Numba chooses them."""
    name, features, avx = _numba_settings()
    if features is None:
        try:
            found = binding.get_host_cpu_features()
        except RuntimeError:
            found = {}
        features = ",".join(
            ("+" if has and (avx or not feature.startswith("avx")) else "-") + feature
            for feature, has in sorted(found.items())
        )
    return binding.get_process_triple(), name or binding.get_host_cpu_name(), features


def _numba_settings() -> tuple[str | None, str | None, bool]:
    """CPU_NAME, CPU_FEATURES and ENABLE_AVX of Numba's configuration: numba is imported only where a file has it."""
    config = getattr(sys.modules.get("numba"), "config", None)
    if config is None and os.path.isfile(".numba_config.yaml"):
        config = importlib.import_module("numba").config
    if config is not None:
        return config.CPU_NAME, config.CPU_FEATURES, bool(config.ENABLE_AVX)
    name = os.environ.get("NUMBA_CPU_NAME")
    features = os.environ.get("NUMBA_CPU_FEATURES", "" if (name or "").lower() == "generic" else None)
    return name, features, os.environ.get("NUMBA_ENABLE_AVX", "1") != "0"
