"""Cython over the C SIMD kernels of csrc: one table of algorithms per instruction set, chosen at run time."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..geometry import OPERATIONS, Geometry
from . import isa_changed

try:
    from . import _kernels

    kernels: ModuleType | None = _kernels
    _missing = ""
except ImportError as error:
    kernels = None
    _missing = str(error)

NAME = "cython"


def unavailable() -> str | None:
    if kernels is not None:
        return None
    try:  # setup.py leaves its reason here where the extension could not be built
        return Path(__file__).with_name("not_built.txt").read_text(encoding="utf-8").strip()
    except OSError:
        return f"the extension module cannot be imported ({_missing}); was it built?"


# ---- the instruction set: FASTCONV_ISA, or the best that this CPU has


def isas() -> list[tuple[str, bool]]:
    """(name, usable on this CPU) of every instruction set that the extension was built for, best first."""
    return _kernels.isas() if kernels is not None else []


def isa() -> str:
    """The instruction set in use.

    Raises ValueError where FASTCONV_ISA names an unknown one, RuntimeError where it names one that this CPU or build
    does not have.
    """
    selected = _kernels.selected_isa()
    if selected is not None:
        return selected
    wanted = os.environ.get("FASTCONV_ISA") or None
    selected = _kernels.select_isa(wanted)
    if selected is None:
        known = dict(isas())
        listed = ", ".join(f"{name} ({'usable' if usable else 'not on this CPU'})" for name, usable in known.items())
        if wanted is not None and wanted not in _ALL_ISAS:
            raise ValueError(f"FASTCONV_ISA={wanted!r} is unknown: this build has {listed}")
        raise RuntimeError(f"FASTCONV_ISA={wanted!r} cannot be used here: this build has {listed}")
    return selected


# Known in principle, whether this machine's build holds them or not: decides the kind of error alone.
_ALL_ISAS = ("avx512", "avx2", "neon", "baseline")


def use_isa(name: str | None) -> str:
    """Use instruction set `name` from now on (None: the best), process-wide; returns the one in use. For tests.

    Raises as :func:`isa`, and leaves the one in use as it is.
    """
    selected = _kernels.select_isa(name)
    if selected is None:
        known = dict(isas())
        kind = RuntimeError if name in _ALL_ISAS else ValueError
        raise kind(f"ISA {name!r} is not to be had here: {known}")
    isa_changed()
    return selected


# ---- the algorithms: a view of the C table

_DTYPES = {"float32": 0, "float64": 1}


class _Algorithm:
    def __init__(self, name: str, exact: bool):
        self.name, self.exact = name, exact

    def unsupported(self, operation: str, g: Geometry, dtype: np.dtype[Any]) -> str | None:
        return _kernels.unsupported(self.name, OPERATIONS.index(operation), g, _DTYPES[dtype.name])

    def unwise(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> str | None:
        return _kernels.unwise(self.name, OPERATIONS.index(operation), g, _DTYPES[dtype.name], threads)

    def workspace(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
        return _kernels.workspace(self.name, OPERATIONS.index(operation), g, _DTYPES[dtype.name], threads)

    def run(
        self,
        operation: str,
        g: Geometry,
        x: np.ndarray,
        w: np.ndarray,
        y: np.ndarray,
        bias: np.ndarray | None,
        threads: int,
        strict: bool,
    ) -> None:
        _kernels.run(self.name, OPERATIONS.index(operation), g, x, w, y, bias, threads, strict)


def __getattr__(name: str) -> Any:
    if name == "ALGORITHMS":  # the table is that of the instruction set in use, so it is looked up when asked for
        isa()
        return tuple(_Algorithm(*row) for row in _kernels.algorithm_names())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
