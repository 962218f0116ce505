"""The sets of kernels that the tests go through: every backend, and every instruction set of each."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import fastconv as fc
from fastconv.backends import load


class Kernels(NamedTuple):
    """One backend, with one of its instruction sets where it has several."""

    backend: str
    isa: str | None

    def __str__(self) -> str:
        return f"{self.backend}-{self.isa}" if self.isa else self.backend

    @property
    def module(self) -> Any:
        return load(self.backend)


def all_kernels() -> list[Kernels]:
    """Every usable backend, and every instruction set of it that this CPU runs; the reference is last."""
    found = []
    for backend in fc.backends():
        module = importlib.import_module(f"fastconv.backends.{backend}")
        isas = [name for name, usable in module.isas() if usable] if hasattr(module, "use_isa") else [None]
        found += [Kernels(backend, isa) for isa in isas]
    return found


# Numba compiles for most of a minute for each instruction set, so all but the best one have a test of their own.
OTHER_COMPILED_KERNELS = [k for k in all_kernels() if k.backend == "numba"][1:]
ALL_KERNELS = [k for k in all_kernels() if k not in OTHER_COMPILED_KERNELS]
FAST_KERNELS = [k for k in ALL_KERNELS if k.backend != "reference"]
