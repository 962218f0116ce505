"""What is compared: the one shape that our backends and the rivals share, and our own entries.

A contender says under which terms it computes, whether it can be had here, and prepares one operation on one row: all
that its users would do once (compile, convert weights that it takes as constants) happens there, all that they do for
every call happens in ``run``.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

import fastconv as fc

from ..backends import NAMES, unavailable
from .cases import Arrays, Row


class Unsupported(Exception):
    """This contender cannot do this operation on this row; the message says why."""


class Terms(NamedTuple):
    """Under which conditions a contender's times come about; a comparison is only fair where these are known."""

    layout: str  # of what goes in and comes out
    weights: str  # arguments like any other, or constants that were prepared before
    output: str  # a fresh array each call, or the same memory again


class Prepared(NamedTuple):
    """One operation on one row, ready to be timed."""

    run: Callable[[], Any]
    result: Callable[[Any], np.ndarray]  # what `run` returned, as an array in torch's layout; not timed


def _nothing(threads: int) -> None:
    """Nothing to set before a contender's turn."""


@dataclass(frozen=True)
class Contender:
    """A backend of ours, or a rival."""

    name: str
    about: str
    terms: Terms
    prepare: Callable[[Row, str, Arrays, int], Prepared]  # raises Unsupported; the int is the number of threads
    modules: tuple[str, ...] = ()  # that it imports
    package: str = ""  # whose version is reported
    activate: Callable[[int], None] = field(default=_nothing)  # called with the threads before each turn of its own
    ours: bool = False
    missing: Callable[[], str | None] | None = None  # in place of looking for `modules`

    def unavailable(self) -> str | None:
        """Why it cannot be had here, or None. Imports nothing heavy."""
        if self.missing is not None:
            return self.missing()
        absent = [module for module in self.modules if not _importable(module)]
        return f"not installed: no module {', '.join(absent)}" if absent else None

    @property
    def version(self) -> str:
        """The version of its package, or "" where there is none."""
        from importlib import metadata

        try:
            return metadata.version(self.package) if self.package else ""
        except metadata.PackageNotFoundError:
            return ""


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


# ---- ours


def _prepare_ours(backend: str, row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    if backend == "reference" and row.geometry.flops > 2e9:
        raise Unsupported("the definition in plain NumPy would take minutes")
    x, w, gy = data
    convolve, backward_input, backward_weight = (
        (fc.conv1d, fc.grad.conv1d_input, fc.grad.conv1d_weight)
        if row.axes == 1
        else (fc.conv2d, fc.grad.conv2d_input, fc.grad.conv2d_weight)
    )
    options = row.arguments
    x_shape, w_shape = row.x_shape, row.w_shape
    run: Callable[[], Any]
    if operation == "forward":

        def run() -> Any:
            return convolve(x, w, None, **options)

    elif operation == "backward_input":

        def run() -> Any:
            return backward_input(x_shape, w, gy, **options)

    else:

        def run() -> Any:
            return backward_weight(x, w_shape, gy, **options)

    return Prepared(run, np.asarray)


def _activate_ours(backend: str, threads: int) -> None:
    fc.use_backend(backend)
    fc.set_num_threads(threads)


def _ours(backend: str, about: str) -> Contender:
    return Contender(
        name=backend,
        about=about,
        terms=Terms("NCL / NCHW", "an argument, packed in the call", "fresh"),
        prepare=functools.partial(_prepare_ours, backend),
        package="fastconv",
        activate=functools.partial(_activate_ours, backend),
        ours=True,
        missing=functools.partial(unavailable, backend),
    )


_ABOUT = {
    "cython": "fastconv, Cython over C SIMD",
    "numba": "fastconv, Numba",
    "reference": "fastconv, the definition in plain NumPy",
}
OURS = tuple(_ours(name, _ABOUT.get(name, f"fastconv, {name}")) for name in NAMES)
