"""backward_weight as a matrix product: when it applies, and how it is cut into boxes, register tiles and shares.

The design, the estimates and the rule are those of ``csrc/gemm_weight.h``. This module is plain Python and imports
nothing heavy.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from ...geometry import Geometry
from .cpu import Isa
from .plan import flattened, sampled, samples

OUTPUTS, INPUTS, TAPS = 0, 1, 2  # what the lanes hold
TILES_A_TURN = 16  # register tiles whose sums are turned together
_FEW = 2  # boxes up to which each is summed in halves

_FIELDS = (
    *("lanes", "N", "groups", "C", "H", "W", "K", "R", "S", "P", "Q"),
    *("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
    *("channels", "outputs", "taps"),  # of a group
    # the largest box of pixels, and how many there are
    *("images", "rows", "cols", "boxes_h", "boxes_w", "boxes", "halve_above"),
    # x of a box: in place or packed; elements from a column, row, channel (or vector of them), image to the next
    *("in_place", "packed_rows", "packed_cols", "x_element", "x_line", "x_channel", "x_image"),
    # the operands of a group, and the parts they are cut into for register tiles
    *("vectors", "scalars", "blocks", "tiles"),
    # the shares: parts of the blocks, of the tiles, of the boxes
    *("vector_parts", "scalar_parts", "runs", "items", "shares"),
    *("scalar_offsets_at", "x_at", "panel_at", "sums_at", "share_words"),
)
RECORD = np.dtype([(name, np.int64) for name in _FIELDS])


class Plan(NamedTuple):
    """One call, cut up."""

    record: np.ndarray  # one RECORD
    shares: int
    runs: int  # of boxes: all but the first are summed into a w of their own
    words: int  # int64 of scratch


def most_scalars(isa: Isa) -> tuple[int, ...]:
    """The most scalars of a register tile of 1, 2, 3 or 4 vectors; at least 8 sums hide a multiply-add's latency."""
    return (12, 12, 8, 6) if isa.registers >= 32 else (10, 6, 4, 3)


def _evenly(total: int, most: int) -> int:
    """`total` in equal parts of at most `most`: the size of the largest."""
    return -(-total // -(-total // max(most, 1)))


def _tile_cost(vectors: float, scalars: float) -> float:
    """Cycles a pixel of one register tile: two multiply-adds or two loads a cycle, four of latency."""
    step = max(vectors * scalars, vectors + scalars)
    return step / 2 if step > 8 else 4


def _products_cost(vectors: int, scalars: int, block: int, isa: Isa) -> float:
    blocks = -(-vectors // block)
    less, larger = divmod(vectors, blocks)
    tiles = -(-scalars // most_scalars(isa)[block - 1])
    each = scalars / tiles
    larger_ones = larger * _tile_cost(less + 1, each)
    return tiles * (larger_ones + (blocks - larger) * _tile_cost(less, each))


def _best_block(vectors: int, scalars: int, isa: Isa) -> int:
    best = 2
    for block in (2, 3, 1, 4):
        if _products_cost(vectors, scalars, block, isa) < 0.999 * _products_cost(vectors, scalars, best, isa):
            best = block
    return best


def _operands(g: Geometry, lanes: int, width: int) -> tuple[int, int]:
    """Vectors and scalars of a group."""
    channels, outputs = g.C // g.groups, g.K // g.groups
    if lanes == OUTPUTS:
        return -(-outputs // width), channels * g.R * g.S
    if lanes == INPUTS:
        return -(-channels // width) * g.R * g.S, outputs
    return channels * g.R * -(-g.S // width), outputs


def _cost(g: Geometry, lanes: int, width: int, isa: Isa) -> float:
    """Cycles a pixel, packing included: a vector of a turned operand costs about 1.5, one that is not full twice."""
    vectors, scalars = _operands(g, lanes, width)
    cost = _products_cost(vectors, scalars, _best_block(vectors, scalars, isa), isa)
    if lanes == TAPS:
        return cost
    turned = (g.K if lanes == OUTPUTS else g.C) // g.groups
    pixels = 1 if lanes == OUTPUTS else g.stride[0] * g.stride[1]
    return cost + 1.5 * pixels * (-(-turned // width) + (turned % width != 0))


def _choose_lanes(g: Geometry, width: int, isa: Isa) -> int:
    best = OUTPUTS
    for other in (INPUTS, TAPS) if g.dilation[1] == 1 else (INPUTS,):
        if _cost(g, other, width, isa) < _cost(g, best, width, isa):
            best = other
    return best


@functools.lru_cache(maxsize=1024)
def unwise(g: Geometry, item: int, isa: Isa) -> str | None:
    """Why it would be a poor choice, or None; measured: see ``csrc/gemm_weight.h``."""
    channels, outputs = g.C // g.groups, g.K // g.groups
    if channels == outputs == 1:
        return "one channel in and out a group: level with direct summation at best"
    width = isa.vector_bytes // item
    full = channels * g.R * g.S * outputs / (2 * width)
    limit = 6 if g.stride[1] > 2 else 3
    if sampled(g):
        g = samples(g)
    if _cost(g, _choose_lanes(g, width, isa), width, isa) > limit * full:
        return "too few channels and taps to fill the vectors"
    return None


def _boxes(g: Geometry, most: int) -> dict[str, int]:
    """Boxes of at most `most` pixels: two vectors of each take most of level 1."""
    images, rows, cols = 1, 1, g.Q
    if most < g.Q:
        cols = _evenly(g.Q, most)
    elif most // g.Q < g.P:
        rows = _evenly(g.P, most // g.Q)
    else:
        rows, images = g.P, _evenly(g.N, most // (g.P * g.Q))
    high, wide = -(-g.P // rows), -(-g.Q // cols)
    boxes = -(-g.N // images) * high * wide
    values = {"images": images, "rows": rows, "cols": cols, "boxes_h": high, "boxes_w": wide, "boxes": boxes}
    return values | {"halve_above": most // 2 if boxes <= _FEW else most}


def _layout_of_x(g: Geometry, box: dict[str, int], lanes: int, width: int, item: int) -> dict[str, int]:
    """Where the x of a box lies; `x_size` is what a copy of it takes, in elements."""
    reach_h, reach_w = (g.R - 1) * g.dilation[0] + 1, (g.S - 1) * g.dilation[1] + 1
    packed_rows, packed_cols = (box["rows"] - 1) * g.stride[0] + reach_h, (box["cols"] - 1) * g.stride[1] + reach_w
    values = {"packed_rows": packed_rows, "packed_cols": packed_cols}
    inside = (g.P - 1) * g.stride[0] + reach_h <= g.H and (g.Q - 1) * g.stride[1] + reach_w <= g.W
    if lanes == OUTPUTS and g.pad == (0, 0) and inside:
        values |= {"in_place": 1, "x_element": 1, "x_line": g.W, "x_channel": g.H * g.W, "x_image": g.C * g.H * g.W}
        return values | {"x_size": 0}
    element = width if lanes == INPUTS else 1
    channel = packed_rows * packed_cols * element
    if channel * item % 1024 == 0:  # such channels would share cache sets
        channel += width
    channels = g.C // g.groups
    image = channel * (-(-channels // width) if lanes == INPUTS else channels)
    values |= {"x_element": element, "x_line": packed_cols * element, "x_channel": channel, "x_image": image}
    return values | {"x_size": box["images"] * image + 2 * width}  # whole vectors are read and written


def _split(values: dict[str, int], threads: int) -> dict[str, int]:
    """Which way the work is cut into shares: groups, vectors, scalars or (small w) runs of boxes."""
    parts = {"vector_parts": 1, "scalar_parts": 1, "runs": 1}
    if threads == 1 or values["groups"] >= 4 * threads or values["groups"] % threads == 0:
        return parts
    if values["blocks"] % threads == 0:
        return parts | {"vector_parts": threads}
    if values["tiles"] >= 8 * threads:
        return parts | {"scalar_parts": threads}
    if values["blocks"] >= 4 * threads:
        return parts | {"vector_parts": threads}
    if values["boxes"] >= threads:
        return parts | {"runs": threads}
    return parts | {"scalar_parts": min(values["tiles"], threads)}


def _flattened(g: Geometry) -> Geometry:
    """The same map with fewer axes, and no dilation where it has no meaning."""
    g = flattened(g)
    return g._replace(dilation=(g.dilation[0] if g.R > 1 else 1, g.dilation[1] if g.S > 1 else 1))


@functools.lru_cache(maxsize=512)
def plan(given: Geometry, item: int, threads: int, isa: Isa) -> Plan:
    """The plan of backward_weight."""
    g = _flattened(given)
    width = isa.vector_bytes // item
    lanes = _choose_lanes(g, width, isa)
    vectors, scalars = _operands(g, lanes, width)
    block = _best_block(vectors, scalars, isa)
    most = most_scalars(isa)[block - 1]
    channels, outputs = g.C // g.groups, g.K // g.groups
    values = {letter: getattr(g, letter) for letter in ("N", "groups", "C", "H", "W", "K", "R", "S", "P", "Q")}
    for name in ("stride", "pad", "dilation"):
        values |= {f"{name}_{letter}": value for letter, value in zip("hw", getattr(g, name), strict=True)}
    values |= {"lanes": lanes, "channels": channels, "outputs": outputs, "taps": channels * g.R * g.S}
    values |= _boxes(g, 224 if isa.vector_bytes == 64 else 256)
    values |= _layout_of_x(g, values, lanes, width, item)
    values |= {"vectors": vectors, "scalars": scalars, "blocks": -(-vectors // block), "tiles": -(-scalars // most)}
    values |= _split(values, threads)
    items = g.groups * math.prod(values[name] for name in ("vector_parts", "scalar_parts", "runs"))
    values |= {"items": items, "shares": min(max(threads, 1), items)}

    block, tile = -(-vectors // values["blocks"]), -(-scalars // values["tiles"])
    pixels = values["images"] * values["rows"] * values["cols"]
    end = 0
    for name, size in (
        ("scalar_offsets_at", vectors * 8),  # the offsets of the vectors come first
        ("x_at", scalars * 8),
        ("panel_at", values.pop("x_size") * item),
        ("sums_at", pixels * block * isa.vector_bytes if lanes == OUTPUTS else 0),
    ):
        end += -(-size // 64) * 64
        values[name] = end
    some = min(TILES_A_TURN, values["tiles"]) * tile + width
    end += (some * block if lanes == OUTPUTS else scalars * vectors) * isa.vector_bytes
    values["share_words"] = -(-end // 64) * 8
    record = np.zeros(1, RECORD)
    for name, value in values.items():
        record[name] = value
    shares = values["shares"]
    return Plan(record, shares, values["runs"], shares * values["share_words"] + 8)
