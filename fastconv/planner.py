"""Which backend and algorithm carry out an operation, and why: :func:`choose` for calls, :func:`explain` for people.

Every backend lists its algorithms best first, and each says of itself what it cannot do and where it would be a poor
choice. The planner takes the first that does not refuse; there is no other rule.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import settings
from .backends import NAMES, Algorithm, load, on_isa_change, unavailable, usable
from .geometry import OPERATIONS, Geometry, conv_geometry, folded, shape, transposed_geometry


@dataclass(frozen=True)
class Plan:
    """How one operation on one geometry would be carried out. ``print(plan)`` shows it as a small table."""

    operation: str
    geometry: Geometry
    dtype: str
    backend: str
    isa: str
    algorithm: str
    threads: int
    precision: str
    flops: int  # of direct summation
    bytes: int  # x, w and y read or written once
    workspace: int  # bytes beyond those: an upper bound
    refused: tuple[tuple[str, str], ...]  # (backend or algorithm, reason), in the order in which they were asked
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        g = self.geometry
        rows = [
            ("operation", self.operation),
            ("shapes", f"x {g.x_shape}  w {g.w_shape}  y {g.y_shape}"),
            ("geometry", f"stride {g.stride}  pad {g.pad}  dilation {g.dilation}  groups {g.groups}"),
            ("dtype", f"{self.dtype}, precision {self.precision}"),
            ("backend", f"{self.backend} ({self.isa}), threads <= {self.threads}"),
            ("algorithm", self.algorithm),
            ("work", f"{self.flops:,} FLOP, {self.bytes:,} bytes, {self.flops / max(self.bytes, 1):.1f} FLOP/byte"),
            ("workspace", f"{self.workspace:,} bytes at most"),
        ]
        rows += [("refused", f"{name}: {reason}") for name, reason in self.refused]
        rows += [("note", note) for note in self.notes]
        return "\n".join(f"{label:<10} {text}" for label, text in rows)


def check_names(backend: Any, algorithm: Any) -> None:
    """ValueError for names that are no strings: :func:`choose` keeps its answers by name, so they must be hashable."""
    for what, name in (("backend", backend), ("algorithm", algorithm)):
        if name is not None and not isinstance(name, str):
            raise ValueError(f"unknown {what} {name!r}: a name is a str")


@functools.lru_cache(maxsize=4096)
def choose(
    operation: str,
    g: Geometry,
    dtype: np.dtype[Any],
    backend: str,
    algorithm: str | None,
    threads: int,
    strict: bool,
) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """The algorithm to run, and (name, reason) of each one refused before it.

    Raises ValueError for an algorithm that no backend knows, or one that `strict` forbids; RuntimeError for one that
    this backend has not, or that cannot do this operation.
    """
    module = load(backend)
    module.isa()  # raises where an ISA was asked for that is not to be had
    if algorithm is not None:
        return _named(module, operation, g, dtype, algorithm, strict), ()
    refused: list[tuple[str, str]] = []
    fallback = None
    for candidate in module.ALGORITHMS:
        reason = "not direct summation, which precision('strict') asks for" if strict and not candidate.exact else None
        reason = reason or candidate.unsupported(operation, g, dtype)
        if reason is None:
            reason = candidate.unwise(operation, g, dtype, threads)
            if reason is None:
                return candidate, tuple(refused)
            fallback = fallback or candidate
        refused.append((candidate.name, reason))
    if fallback is None:
        raise RuntimeError(f"no algorithm of the {backend} backend can do {operation} on {g}: {refused}")
    return fallback, tuple(entry for entry in refused if entry[0] != fallback.name)


on_isa_change(choose.cache_clear)


def _named(module: Any, operation: str, g: Geometry, dtype: np.dtype[Any], algorithm: str, strict: bool) -> Algorithm:
    for candidate in module.ALGORITHMS:
        if candidate.name == algorithm:
            if strict and not candidate.exact:
                raise ValueError(f"algorithm={algorithm!r} is not direct summation: not under precision('strict')")
            reason = candidate.unsupported(operation, g, dtype)
            if reason:
                raise RuntimeError(
                    f"algorithm={algorithm!r} of the {module.NAME} backend cannot do this {operation}: {reason}"
                )
            return candidate
    known = {name: [a.name for a in load(name).ALGORITHMS] for name in usable()}
    if any(algorithm in names for names in known.values()):
        raise RuntimeError(f"the {module.NAME} backend has no algorithm {algorithm!r}: it has {known[module.NAME]}")
    listed = "; ".join(f"{name}: {', '.join(names)}" for name, names in known.items())
    raise ValueError(f"unknown algorithm {algorithm!r} (known: {listed})")


def padded_copy_bytes(g: Geometry, padding_mode: str, dtype: np.dtype[Any]) -> int:
    """The copy of the input that any padding mode but zeros needs."""
    return 0 if padding_mode == "zeros" else dtype.itemsize * g.N * g.C * g.H * g.W


def explain(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    operation: str = "forward",
    dtype: Any = "float32",
    transposed: bool = False,
    output_padding: Any = 0,
    backend: str | None = None,
    algorithm: str | None = None,
) -> Plan:
    """How a convolution would be carried out with the settings in force here and now, and why.

    Parameters
    ----------
    input_shape, weight_shape : sequence of int
        As in :func:`conv1d` (3 axes, or 2 unbatched) or :func:`conv2d` (4, or 3).
    stride, padding, dilation, groups, padding_mode, backend, algorithm
        As in :func:`conv2d`.
    operation : {"forward", "backward_input", "backward_weight"}
    dtype : {"float32", "float64"}
    transposed, output_padding
        With ``transposed=True``, the plan of :func:`conv_transpose1d` / ``2d``.

    Returns
    -------
    Plan
        Backend, ISA, algorithm, threads, FLOPs, bytes, workspace, and every choice refused with its reason.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As the call itself would.

    Examples
    --------
    >>> import fastconv as fc
    >>> plan = fc.explain((1, 64, 56, 56), (64, 64, 3, 3), padding=1, backend="reference")
    >>> plan.flops, plan.algorithm
    (231211008, 'direct')
    """
    if operation not in OPERATIONS:
        raise ValueError(f"operation must be one of {', '.join(OPERATIONS)}, got {operation!r}")
    if dtype is None:  # np.dtype(None) is float64
        raise TypeError("dtype must be float32 or float64, got None")
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    input_shape, weight_shape = shape("input_shape", input_shape), shape("weight_shape", weight_shape)
    axes = len(weight_shape) - 2
    if axes not in (1, 2):
        raise ValueError(f"weight_shape must have 3 axes (conv1d) or 4 (conv2d), got {weight_shape}")
    if not transposed and np.any(output_padding):
        raise ValueError(f"output_padding={output_padding!r} is for transposed=True alone")
    if len(input_shape) == axes + 1:
        input_shape = (1, *input_shape)
    if transposed:
        if padding_mode != "zeros":
            raise ValueError("a transposed convolution takes padding_mode='zeros' alone")
        g = transposed_geometry(axes, input_shape, weight_shape, stride, padding, output_padding, groups, dilation)
        operation = {"forward": "backward_input", "backward_input": "forward"}.get(operation, operation)
    else:
        g, _ = conv_geometry(axes, input_shape, weight_shape, stride, padding, dilation, groups, padding_mode)
    here = settings.current()
    name = here.backend if backend is None else backend
    check_names(name, algorithm)
    notes = []
    refused: tuple[tuple[str, str], ...] = ()
    if backend is None:  # what the automatic choice of a backend passed over
        for other in NAMES[: NAMES.index(name)]:
            reason = unavailable(other) or f"{name} was chosen by use_backend or FASTCONV_BACKEND"
            refused += ((other, reason),)
    module = load(name)
    if 0 in (g.N, g.C):
        notes.append("nothing to compute: no kernel is called")
        chosen_name, space = "none", 0
    else:
        flat = folded(g)
        if flat.C != g.C:
            notes.append(f"the kernel covers whole axes, which are computed as channels: {flat.C} in place of {g.C}")
        chosen, passed = choose(operation, flat, dtype, name, algorithm, here.threads, here.precision == "strict")
        refused += passed
        chosen_name, space = chosen.name, chosen.workspace(operation, flat, dtype, here.threads)
    copy = padded_copy_bytes(g, padding_mode, dtype)
    if copy:
        notes.append(f"{padding_mode} padding: the workspace holds a padded copy of the input, {copy:,} bytes")
    notes += getattr(module, "notes", list)()
    return Plan(
        operation=operation,
        geometry=g,
        dtype=dtype.name,
        backend=name,
        isa=module.isa(),
        algorithm=chosen_name,
        threads=here.threads,
        precision=here.precision,
        flops=g.flops,
        bytes=dtype.itemsize * g.elements,
        workspace=space + copy,
        refused=refused,
        notes=tuple(notes),
    )
