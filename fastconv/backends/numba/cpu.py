"""Which vectors this CPU has, as Numba compiles for it: one list, best first.

The features come from Numba's own target, so that ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` are honoured, and
``FASTCONV_ISA`` asks for a row by name. A narrower row than the host's best uses vectors of that width; how LLVM
encodes them (VEX or EVEX) remains Numba's business.
"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import NamedTuple


class Isa(NamedTuple):
    """One vector instruction set: what the kernels need to know of it."""

    name: str
    vector_bytes: int
    registers: int
    fma: bool
    masks: bool  # masked loads and stores cost no more than plain ones
    needs: tuple[str, ...]  # LLVM's names of the features; empty: runs anywhere


_AVX512 = ("avx512f", "avx512vl", "avx512bw", "avx512dq")
ISAS = (
    Isa("avx512", 64, 32, True, True, _AVX512),
    Isa("avx2", 32, 16, True, True, ("avx2", "fma")),
    Isa("neon", 16, 32, True, False, ("neon",)),
    Isa("baseline", 16, 16, False, False, ()),
)


@functools.cache
def architecture() -> str:
    """``"x86"``, ``"aarch64"`` or ``""``: what the processor is, as far as it matters here."""
    from .machine_code import target

    triple = target()[0]
    if triple.startswith(("x86_64", "i686", "i386")):
        return "x86"
    return "aarch64" if triple.startswith(("aarch64", "arm64")) else ""


@functools.cache
def _features() -> frozenset[str]:
    from .machine_code import target

    found = {word[1:] for word in target()[2].split(",") if word.startswith("+")}
    if architecture() == "aarch64":
        found.add("neon")  # part of the base architecture, so LLVM may not list it
    return frozenset(found)


def usable() -> list[Isa]:
    """The rows that this CPU runs, best first."""
    features = _features()
    return [row for row in ISAS if features.issuperset(row.needs)]


def _choose(asked: str) -> Isa:
    rows = usable()
    if not asked:
        return rows[0]
    for row in rows:
        if row.name == asked:
            return row
    names = ", ".join(row.name for row in ISAS)
    if asked not in names.split(", "):
        raise ValueError(f"FASTCONV_ISA={asked!r} is not one of {names}")
    raise RuntimeError(
        f"FASTCONV_ISA={asked!r}: this CPU, as Numba sees it, lacks it; usable: {', '.join(row.name for row in rows)}"
    )


_current: Isa | None = None


def current() -> Isa:
    """The row in use: the one that ``FASTCONV_ISA`` named at the first call, else the best.

    Raises ValueError where that is no ISA's name, RuntimeError where this CPU lacks it.
    """
    return _current or use(os.environ.get("FASTCONV_ISA", ""))


def use(name: str) -> Isa:
    """Use that row from now on ("": the best); raises as :func:`current`."""
    global _current
    _current = _choose(name)
    return _current


@functools.cache
def level2_bytes() -> int:
    """What a core's level-2 cache holds; caches that cores share are larger than what one core may count on."""
    size = 0
    with contextlib.suppress(ValueError, OSError, AttributeError):  # the name is glibc's
        size = os.sysconf("SC_LEVEL2_CACHE_SIZE")
    if size <= 0:
        with contextlib.suppress(ValueError, OSError):
            text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text(encoding="ascii")
            size = int(text.strip().removesuffix("K")) << 10
    return max(128 << 10, min(size, 4 << 20)) if size > 0 else 512 << 10


def block_shapes(isa: Isa) -> list[tuple[int, int]]:
    """The register blocks (rows x columns) that are compiled, rows being what is broadcast or kept, best use first.

    rows x columns accumulators, a vector for each row or each column, and one more have to fit the register file.
    Narrow ones serve what is left over at an edge; a block of one row or column lives from loads and so needs no more
    than it takes to hide the latency of 2 x 4 multiply-adds.
    """
    if isa.registers >= 32:
        columns = {1: (16, 8, 4), 2: (12, 6), 3: (8, 4), 4: (6, 4, 2), 5: (5, 4), 6: (4, 2), 8: (3, 2, 1)}
    else:
        columns = {1: (12, 8, 4), 2: (6, 4), 3: (4, 2), 4: (3, 2, 1), 6: (2, 1)}
    return [(rows, cols) for rows, many in columns.items() for cols in many]


def channel_shapes(isa: Isa) -> list[tuple[int, int]]:
    """The blocks that backward_weight has with output channels in the lanes: source channels x vectors of those."""
    return [(8, 3), (8, 1), (4, 4), (1, 8)] if isa.registers >= 32 else [(6, 2), (4, 3), (4, 1), (1, 8)]


def panel_rows(isa: Isa) -> tuple[int, ...]:
    """The most rows of a block whose columns are a panel of 1, 2 or 3 vectors."""
    return (8, 8, 8) if isa.registers >= 32 else (6, 6, 4)


def panel_shapes(isa: Isa) -> list[tuple[int, int]]:
    """The blocks of panels, rows x vectors: every number of rows up to the most of any, as none may be summed twice."""
    most = panel_rows(isa)
    return [(rows, cols) for cols in (1, 2, 3) for rows in range(1, max(most) + 1)]


GUARDED_SHAPE = (1, 4)  # for the calls whose weights or inputs hold inf or NaN
