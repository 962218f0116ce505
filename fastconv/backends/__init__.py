"""The backends: modules that each carry out the three operations, in one ordered list.

A backend module has

``NAME``
    its name in :data:`NAMES`.
``unavailable() -> str | None``
    why it cannot be used here, or None. Cheap: imports nothing heavy.
``isa() -> str``
    the instruction set in use. Raises RuntimeError or ValueError where one was asked for that is not to be had.
``ALGORITHMS``
    a sequence of :class:`Algorithm`, best first.
``notes() -> list[str]``
    optional: what :func:`fastconv.explain` should add about the state of the backend.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from ..geometry import Geometry

NAMES = ("cython", "numba", "reference")  # best first


class Algorithm(Protocol):
    """One way to carry out some of the operations. "Can it?" and "is it worth it?" are apart from "do it".

    One whose ``run`` looks things up that do not depend on the arrays may also have
    ``prepare(operation, g, dtype, bias_shape, threads, strict)``: see :mod:`fastconv.repeated`. It returns None, or a
    function of (x, w, y, bias) that does what ``run`` does on arrays of any rank that hold the geometry's elements in
    C order.
    """

    name: str
    exact: bool  # direct summation, so allowed under precision("strict")

    def unsupported(self, operation: str, g: Geometry, dtype: np.dtype[Any]) -> str | None:
        """Why it cannot do this, or None."""

    def unwise(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> str | None:
        """Why it would be a poor choice for this, or None."""

    def workspace(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
        """Bytes that it needs beyond x, w and y: an upper bound that ``run`` keeps to."""

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
        """Do it. ``x``, ``w``, ``y`` have the geometry's 4-D shapes, one dtype, and are C-contiguous and aligned; the
        one that the operation writes is overwritten. ``bias`` (forward only): None, (K,) or (K, P, Q). No size is 0."""


def unavailable(name: str) -> str | None:
    """Why backend `name` cannot be used here, or None. Imports nothing heavy."""
    reason: str | None = importlib.import_module(f"{__name__}.{name}").unavailable()
    return reason


def load(name: str) -> ModuleType:
    """The backend module `name`. ValueError where there is no such backend, RuntimeError where it cannot be used."""
    if name not in NAMES:
        raise ValueError(f"unknown backend {name!r}: the backends are {', '.join(NAMES)}")
    reason = unavailable(name)
    if reason:
        raise RuntimeError(f"the {name} backend cannot be used here: {reason}")
    return importlib.import_module(f"{__name__}.{name}")


_listeners: list[Callable[[], None]] = []


def on_isa_change(listener: Callable[[], None]) -> None:
    """Calls `listener` whenever a backend has changed its instruction set: for choices that are kept."""
    _listeners.append(listener)


def isa_changed() -> None:
    for listener in _listeners:
        listener()


def usable() -> list[str]:
    """The names of the backends that can be used here, best first.

    >>> import fastconv as fc
    >>> "reference" in fc.backends()
    True
    """
    return [name for name in NAMES if unavailable(name) is None]
