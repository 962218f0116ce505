"""Calls that repeat: what was decided for one is kept ready for the next one like it.

A small convolution is a microsecond of work behind thirty of checks and choices, and these follow from a few facts: the
operation, the arguments as they were given, the arrays' dtypes, shapes and layouts, the settings. Those are the key of
a table here, and what it holds runs the chosen algorithm on other arrays at once. Only what went the long way without
an error is kept, and only where every fact is of an exact type (True equals 1 and 1.0 equals 1 in a dict, but not
here): whatever is unusual goes the long way each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import planner, settings
from .backends import Algorithm, on_isa_change
from .geometry import Geometry, folded

Run = Callable[[np.ndarray, np.ndarray, np.ndarray, "np.ndarray | None"], Any]


# All that decides how a call is carried out. Plain tuples, as a NamedTuple takes longer to make.
Key = tuple[Any, ...]


class Ready(NamedTuple):
    """One operation that is decided: allocate the result, run."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    run: Run  # on (x, w, y, bias) with the geometry's elements in C order, whatever their ranks


_KEPT = 1024  # calls; more are no repetition
_LARGEST = 1 << 28  # bytes of result and workspace: beyond, each call asks whether there is that much memory
_ndarray = np.ndarray
_READABLE = 0x101  # of ndarray.flags.num: C-contiguous and aligned

_table: dict[Key, Any] = {}
_generation = 0  # of the instruction sets


def _forget() -> None:
    global _generation
    _generation += 1
    _table.clear()


on_isa_change(_forget)


_plain_tuples: dict[int, Any] = {}  # by id: tuples that were found plain, which they stay, as they cannot change


def _plain(value: Any) -> bool:
    kind = type(value)
    if kind is not tuple:
        return kind is int or kind is str or value is None
    for each in value:
        if type(each) is not int and not _plain(each):
            return False
    if len(_plain_tuples) >= _KEPT:
        _plain_tuples.clear()
    _plain_tuples[id(value)] = value
    return True


def find(
    operation: str, numbers: tuple[Any, ...], names: tuple[Any, ...], one: Any, other: Any, third: Any = None
) -> tuple[Key | None, Any]:
    """The call's key, or None where it goes the long way each time; and what is kept of a call like it, or None.

    `numbers`: the arguments that are numbers, or tuples of them; `names`: the others, of which the long way takes equal
    ones for the same. The third array may be None.
    """
    for number in numbers:
        if type(number) is not int and _plain_tuples.get(id(number)) is not number and not _plain(number):
            return None, None
    if type(one) is not _ndarray or type(other) is not _ndarray:
        return None, None
    dtype, more = one.dtype, None
    if other.dtype is not dtype and other.dtype != dtype:
        return None, None
    if third is not None:
        if type(third) is not _ndarray or third.dtype != dtype:
            return None, None
        more = third.shape, third.flags.num
    try:
        key = (
            operation,
            numbers,
            names,
            dtype,  # of all
            one.shape,
            one.flags.num,
            other.shape,
            other.flags.num,
            more,
            settings.current(),
            _generation,
        )
        return key, _table.get(key)
    except (TypeError, ValueError, RuntimeError):  # no hash, or a wrong environment variable, as the long way will say
        return None, None


def prepared(
    found: Key,
    operation: str,
    g: Geometry,
    shape: tuple[int, ...],
    backend: str | None,
    algorithm: str | None,
    bias_shape: tuple[int, ...] | None = None,
) -> Ready | None:
    """One operation of a call that went the long way without an error, decided; None where it has to go it each time.

    `shape` is the result's; `bias_shape` None, (K,) or (K, P, Q).
    """
    dtype, here = found[3], found[-2]
    flags = [found[5], found[7], *([found[8][1]] if found[8] else [])]
    g = folded(g)
    if 0 in (*g.x_shape, *g.w_shape, *g.y_shape):
        return None
    if not dtype.isnative or any(each & _READABLE != _READABLE for each in flags):
        return None
    strict = here.precision == "strict"
    name = here.backend if backend is None else backend
    chosen, _ = planner.choose(operation, g, dtype, name, algorithm, here.threads, strict)
    size = math.prod(shape) * dtype.itemsize + chosen.workspace(operation, g, dtype, here.threads)
    if size > _LARGEST:
        return None
    prepare = getattr(chosen, "prepare", None)
    run = prepare(operation, g, dtype, bias_shape, here.threads, strict) if prepare else None
    if run is None:
        run = _run(chosen, operation, g, bias_shape, here.threads, strict)
    return Ready(shape, dtype, run)


def _run(algorithm: Algorithm, operation: str, g: Geometry, bias_shape: Any, threads: int, strict: bool) -> Run:
    """The algorithm's own run, on arrays of the caller's ranks."""
    x_shape, w_shape, y_shape = g.x_shape, g.w_shape, g.y_shape

    def run(x: np.ndarray, w: np.ndarray, y: np.ndarray, bias: np.ndarray | None) -> None:
        if bias is not None:
            bias = bias.reshape(bias_shape)
        algorithm.run(operation, g, x.reshape(x_shape), w.reshape(w_shape), y.reshape(y_shape), bias, threads, strict)

    return run


def keep(found: Key, decided: Any) -> None:
    """`decided` (None: nothing) is what the next call like this one needs."""
    if decided is None:
        return
    if len(_table) >= _KEPT:
        _table.clear()
    _table[found] = decided
