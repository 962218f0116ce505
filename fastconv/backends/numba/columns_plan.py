"""backward_input to few channels as one product, its results added to x: where it is taken, and how a call is cut up.

The method and the rule are those of ``csrc/direct_columns.h``, which tells what they gain.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...geometry import Geometry
from .cpu import Isa

_FIELDS = (
    *("groups", "channels", "outputs", "H", "W", "R", "S", "P", "Q"),
    *("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
    "rows",  # of the product: channel, kernel row, kernel column
    *("tile_rows", "tile", "block", "sums_row"),  # rows and pixels of a register tile; pixels of a block, of a row
    "unit",  # taps that are added to x in one pass
    *("panel", "own"),  # elements of a share's scratch
    *("items", "slabs", "shares"),
)
RECORD = np.dtype([(name, np.int64) for name in _FIELDS])

TILE_VECTORS = {16: 2, 32: 3}  # by registers
TILE_ROWS = {16: 6, 32: 8}
DEPTH = 64  # steps of k: their lines of y, of two panels or three, stay in level 1
_PANELS = 64  # most of a block
_SUMS_BYTES = 128 << 10
_LINE = 64


class Plan(NamedTuple):
    """One call, cut up."""

    record: np.ndarray  # one RECORD
    shares: int
    elements: int  # of scratch


def by_columns(g: Geometry, itemsize: int, isa: Isa) -> bool:
    """Whether backward_input takes this way in place of the stencils of :mod:`.kernels`."""
    inputs, outputs, plane = g.C // g.groups, g.K // g.groups, g.P * g.Q
    window = g.R * g.S
    rows = inputs * window
    if inputs >= 8 or plane < _tile(itemsize, isa) or (rows < 9 and plane % 1024 == 0):
        return False
    if window > 1 and g.stride[0] >= g.R and g.stride[1] >= g.S:  # patches: no element of x in two
        return outputs >= 8
    if g.stride != (1, 1):
        return rows <= 512 and outputs >= (32 if inputs == 1 else 48)
    return rows <= 160 and outputs >= (32 if inputs == 1 else 64 if inputs < 4 else 128)


def _tile(itemsize: int, isa: Isa) -> int:
    return TILE_VECTORS[isa.registers] * isa.vector_bytes // itemsize


def _unit(g: Geometry, lanes: int) -> int:
    stride = g.stride[1]
    if g.dilation[1] > 1:
        return 1
    if stride in (2, 4):
        return stride
    return lanes if stride >= lanes and lanes <= 2 * g.S else 1


def _slabs(g: Geometry, tile: int, threads: int) -> int:
    """Some four items a thread, none so thin that most of it is what reaches two."""
    if threads == 1:
        return 1
    if g.P == 1:
        size, least = g.W, max(8 * g.S * g.dilation[1], 16 * tile * g.stride[1])
    else:
        size, least = g.H, max(2 * g.R * g.dilation[0], 4 * g.stride[0])
    return min(-(-4 * threads // (g.N * g.groups)), max(1, size // least))


@functools.lru_cache(maxsize=1024)
def plan(g: Geometry, itemsize: int, threads: int, isa: Isa) -> Plan:
    """How the call is cut up; an item is an image, a group and a slab of rows of x, of columns where y has one row."""
    lanes, tile = isa.vector_bytes // itemsize, _tile(itemsize, isa)
    channels = g.C // g.groups
    rows = channels * g.R * g.S
    slabs = _slabs(g, tile, threads)
    items = g.N * g.groups * slabs
    panels = min(max(_SUMS_BYTES // (rows * tile * itemsize), 1), _PANELS)
    block = min(panels, g.P * g.Q // tile) * tile
    sums_row = block + lanes  # rows of 2^n vectors would share cache sets
    unit, line = _unit(g, lanes), _LINE // itemsize
    panel = -(-DEPTH * tile // line) * line
    own = panel + -(-(rows + unit) * sums_row // line) * line  # a last pass reads so many rows
    shares = max(1, min(threads, items))
    values = (
        *(g.groups, channels, g.K // g.groups, g.H, g.W, g.R, g.S, g.P, g.Q, *g.stride, *g.pad, *g.dilation),
        *(rows, TILE_ROWS[isa.registers], tile, block, sums_row, unit, panel, own, items, slabs, shares),
    )
    return Plan(np.array([values], RECORD), shares, shares * own + line)
