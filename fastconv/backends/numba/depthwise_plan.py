"""Depthwise convolution, one input channel a group: when it applies, and how planes are cut into packed blocks.

The blocks and the rules are those of the C kernels (``csrc/depthwise*.h``). This module is plain Python and imports
nothing heavy.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from ...geometry import Geometry
from .plan import worth_threads

KERNEL_ROWS = 7  # most
TILE_ROWS = (8, 7, 4, 1)  # of a tile, 7 under odd kernels alone
SUM_ROWS = (10, 9, 8, 7, 6, 5, 4, 1)  # of a tile that is summed over several planes
COLUMN_ROWS = 8  # that a column goes down at least: its start costs about one
SHORT_ROW = 24  # below, several rows to a vector are better
ROW_ENDS = 512  # outputs near a row's end that are computed at a time
ROW_SPAN = 1024  # backward_weight: outputs to a span
ROW_TAPS = 6  # backward_weight: in registers, two sums each
ROW_MOST_TAPS = 32  # backward_weight: above, register blocks of several taps and vectors load less
_BYTES = 16 << 10  # a packed block: half of level 1
_FAR = 6 << 20  # bytes of source and result that do not stay near the core, where planes are not packed
_SOURCES = 20 << 10  # bytes of the planes that a tile of sums goes over at a time, as far as they are narrow
_WIDE = 64  # columns
_COLUMNS = 1024  # most columns of a block

_FIELDS = (
    *("N", "groups", "sources", "outputs", "R", "S", "stride_h", "step_h"),
    *("from_h", "from_w", "rows", "cols", "pad_h", "pad_w", "stride_w", "step_w", "phases_w"),
    # blocks, of the planes' rows and columns; a packed row and plane in bytes
    *("block_rows", "blocks_h", "block_cols", "blocks_w", "pitch", "row_bytes", "plane_bytes", "items"),
    # backward_input of stride 2: where phases begin in x, the rows and bytes of a plane of phases
    *("strided", "origin_h", "origin_w", "x_h", "x_w", "x_pad_h", "x_pad_w", "phase_row", "phase_bytes"),
    # one kernel row: taps from one to the next, and from the first to the last
    *("dilation", "reach"),
    "parts",  # backward_weight: of a channel's outputs
    "far",  # planes read where they are: source and target are large
    *("together", "ahead"),  # sums of such planes: how many at a time, and elements to what is asked for, or 0
    *("box_at", "phases_at", "worker_words", "shares"),
)
RECORD = np.dtype([(name, np.int64) for name in _FIELDS])


def one_row(g: Geometry) -> bool:
    """Whether rows are convolved each for itself, where they are."""
    return g.R == 1 and g.stride == (1, 1) and g.pad[0] == 0 and g.P == g.H


def unsupported(operation: str, g: Geometry) -> str | None:
    """Why the depthwise kernels cannot carry this out, or None."""
    if operation == "backward_weight" and g.R == 1 and not (one_row(g) and g.S <= ROW_MOST_TAPS):
        return "one kernel row, strided, padded above or long"
    if g.groups != g.C:
        return "more than one input channel a group"
    if g.R > KERNEL_ROWS:
        return f"more than {KERNEL_ROWS} kernel rows"
    if operation == "backward_input":
        return _unsupported_backward_input(g)
    if g.R == 1:
        return None if one_row(g) else "one kernel row, strided or padded above"
    if g.stride[0] > 2 or (g.stride[0] == 2 and (g.dilation[0] > 1 or g.R % 2 == 0)):
        return "rows more than 2 apart, or 2 apart under a dilated or even kernel"
    return None


def _unsupported_backward_input(g: Geometry) -> str | None:
    if g.stride != (1, 1):
        apart = g.stride == (2, 2) and g.dilation == (1, 1) and g.groups == g.K
        small = min(g.R, g.S) >= 2 and g.W <= _COLUMNS
        return None if apart and small else "strided, but not by 2 on both axes with one output a channel"
    if g.R == 1 and not (one_row(g) and g.groups == g.K):
        return "one kernel row, padded above or with several outputs a channel"
    return None


def unwise(operation: str, g: Geometry, threads: int, vector_bytes: int) -> str | None:
    """Why they would be a poor choice, or None."""
    if operation == "backward_weight":
        return _unwise_weight(g, threads)
    if g.R == 1 and (g.Q if operation == "forward" else g.W) < SHORT_ROW:
        return "rows so short that several should share a vector"
    if operation == "backward_input" and g.K // g.groups > 12 and not _in_place(operation, g, vector_bytes // 4):
        return "more than 12 outputs a channel: they are packed apart"
    return None


def _unwise_weight(g: Geometry, threads: int) -> str | None:
    if g.R == 1 and max(64, 8 * g.S) > g.Q:  # the shorter the row, the more of it lies at its ends
        return "rows so short that their ends weigh"
    if g.R == 1 and g.groups < g.K and (g.S > 12 or g.K // g.groups > 8):
        return "several outputs a channel with many taps: tiles of several of them share more"
    if g.K // g.groups > 32:
        return "more than 32 outputs a channel: tiles of several of them share more"
    return "fewer channels than threads" if 1 < threads > g.K else None


class Plan(NamedTuple):
    """One call, cut up."""

    record: np.ndarray  # one RECORD
    shares: int
    words: int  # int64 of scratch
    weights_bytes: int  # of a copy of the weights, turned round
    in_place: str  # the kernel that reads planes where they are, or ""


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@functools.lru_cache(maxsize=512)
def plan(operation: str, g: Geometry, threads: int, lanes: int, item: int, packed: bool = False) -> Plan:
    """The plan of an operation; `packed`: even where planes could be read where they are."""
    threads = worth_threads(g, threads)
    in_place = "" if packed else _in_place(operation, g, lanes)
    if in_place in ("depthwise_planes", "depthwise_sums"):
        values = _in_place_plan(operation, g, threads, item)
    elif in_place:
        values = _pairs_plan(operation, g, threads, item)
    elif g.R == 1:
        values = _rows_plan(operation, g, threads, lanes, item)
    elif g.stride == (2, 2) and operation == "backward_input":
        values = _strided_plan(g, lanes, item)
    elif operation == "backward_weight":
        values = _weights_plan(g, threads, lanes, item)
    else:
        values = _planes_plan(operation, g, threads, lanes, item)
    shares = min(threads, values["items"])
    record = np.zeros(1, RECORD)
    words = _up(values.pop("end"), 64) // 8
    values |= {"shares": shares, "worker_words": words}
    for name, value in values.items():
        record[name] = value
    turned = g.K * g.R * g.S * item if operation == "backward_input" else 0
    return Plan(record, shares, shares * words + 8, turned, in_place)


def _in_place(operation: str, g: Geometry, lanes: int) -> str:
    """The kernel that reads planes where they are, or "": see ``csrc/depthwise_plane.h`` and ``depthwise_pairs.h``."""
    one = g.groups == g.K  # output a channel
    if operation == "backward_weight" or (g.R, g.S) != (3, 3) or g.dilation != (1, 1):
        return ""
    if not one and (operation == "forward" or g.stride != (1, 1)):
        return ""
    if g.stride == (2, 2):
        if operation == "forward":
            return "depthwise_pairs" if lanes <= g.Q else ""
        return "depthwise_spread" if g.pad == (1, 1) and 2 * lanes <= g.W else ""
    if g.stride != (1, 1):
        return ""
    (top, left), (H, W), (rows, cols) = _planes(operation, g)
    paddings = (top, left, rows + 2 - top - H, cols + 2 - left - W)
    inside = min(top, left) >= 0 and max(paddings) <= 2
    if not inside or H < 3 or min(W, cols) < lanes:
        return ""
    return "depthwise_planes" if one else "depthwise_sums"


def _planes(operation: str, g: Geometry) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Padding before, source and result of a 3x3 kernel."""
    if operation == "forward":
        return g.pad, (g.H, g.W), (g.P, g.Q)
    return (2 - g.pad[0], 2 - g.pad[1]), (g.P, g.Q), (g.H, g.W)


def _parts(planes: int, rows: int, least: int, threads: int) -> int:
    """Of each plane's rows, at least so many to a part."""
    return max(1, min(rows // least, -(-4 * threads // planes))) if threads > 1 and planes < 4 * threads else 1


def _in_place_plan(operation: str, g: Geometry, threads: int, item: int) -> dict[str, int]:
    pads, source, (rows, cols) = _planes(operation, g)
    planes = g.N * g.groups
    sources = g.K // g.groups  # one in forward
    parts = _parts(planes, rows, TILE_ROWS[0] if sources == 1 else SUM_ROWS[0], threads)
    values = {"groups": g.groups, "sources": sources, "rows": rows, "cols": cols, "pad_h": pads[0], "pad_w": pads[1]}
    values |= {"from_h": source[0], "from_w": source[1], "blocks_h": parts, "items": planes * parts}
    size = sources * source[0] * source[1]
    values["far"] = int(planes * (size + rows * cols) * item > _FAR)
    tile_bytes = (SUM_ROWS[0] + 2) * min(source[1], _WIDE // 2) * item
    values["together"] = min(max(4, _SOURCES // tile_bytes), sources)
    if values["far"]:  # what is further along the row, or the next result's source
        values["ahead"] = _WIDE if source[1] >= _WIDE else size
    return values | {"end": 0}


def _pairs_plan(operation: str, g: Geometry, threads: int, item: int) -> dict[str, int]:
    """Stride 2; backward_input by pairs of rows and columns of x."""
    planes = g.N * g.groups
    strip = max(COLUMN_ROWS, _BYTES // (2 * g.W * item))  # rows that all columns go down before the next
    values = {"groups": g.groups, "block_rows": strip}
    if operation == "forward":
        values |= {"rows": g.P, "cols": g.Q, "from_h": g.H, "from_w": g.W, "pad_h": g.pad[0], "pad_w": g.pad[1]}
    else:
        values |= {"rows": -(-g.H // 2), "cols": -(-g.W // 2), "from_h": g.P, "from_w": g.Q, "x_h": g.H, "x_w": g.W}
    parts = _parts(planes, values["rows"], COLUMN_ROWS, threads)
    return values | {"blocks_h": parts, "items": planes * parts, "end": 0}


# Each of these gives the record's fields, and `end`, the bytes of scratch of a share.


def _planes_plan(operation: str, g: Geometry, threads: int, lanes: int, item: int) -> dict[str, int]:
    reach_h, reach_w = (g.R - 1) * g.dilation[0], (g.S - 1) * g.dilation[1]
    if operation == "forward":
        sources, outputs = 1, g.K // g.groups
        phases = min(g.S, g.stride[1] // math.gcd(g.stride[1], g.dilation[1]))
        pads, source, grid = g.pad, (g.H, g.W), (g.P, g.Q)
    else:
        sources, outputs, phases = g.K // g.groups, 1, 1
        pads, source, grid = (reach_h - g.pad[0], reach_w - g.pad[1]), (g.P, g.Q), (g.H, g.W)
    rows, cols = grid
    blocks_w = -(-cols // _COLUMNS)
    block_cols = -(-cols // blocks_w)
    pitch = _up(block_cols + reach_w // g.stride[1], lanes)
    row_bytes = pitch * item
    least = max(TILE_ROWS[0], reach_h)
    most = (_BYTES // (sources * phases * row_bytes) - reach_h - 1) // g.stride[0] + 1
    others = g.N * g.groups * blocks_w
    if threads > 1 and others < 4 * threads:
        most = min(most, -(-rows // -(-4 * threads // others)))
    block_rows = max(least, min(most, max(least, rows)))
    blocks_h = -(-rows // block_rows)
    block_rows = -(-rows // blocks_h)
    packed_rows = (block_rows - 1) * g.stride[0] + reach_h + 1
    plane_bytes = packed_rows * row_bytes + lanes * item
    taps = sources * g.S
    box_at = _up(taps * 8, 64)
    end = box_at + sources * phases * plane_bytes + (reach_w + 2 * lanes) * item
    values = {"groups": g.groups, "sources": sources, "outputs": outputs, "R": g.R, "S": g.S}
    values |= {"stride_h": g.stride[0], "step_h": g.dilation[0], "stride_w": g.stride[1], "step_w": g.dilation[1]}
    values |= {"from_h": source[0], "from_w": source[1], "rows": rows, "cols": cols}
    values |= {"pad_h": pads[0], "pad_w": pads[1], "phases_w": phases}
    values |= {"block_rows": block_rows, "blocks_h": blocks_h, "block_cols": block_cols, "blocks_w": blocks_w}
    values |= {"pitch": pitch, "row_bytes": row_bytes, "plane_bytes": plane_bytes}
    values |= {"items": g.N * g.groups * blocks_h * blocks_w, "box_at": box_at, "end": end}
    return values


def _weights_plan(g: Geometry, threads: int, lanes: int, item: int) -> dict[str, int]:
    """Blocks of x as in forward, whatever the number of threads, and a vector of sums for each weight of an item."""
    values = _planes_plan("forward", g, 1, lanes, item)
    parts = min(values["outputs"], -(-2 * threads // g.groups)) if threads > 1 else 1
    sums_at = _up(values["end"], 64)
    sums = -(-values["outputs"] // parts) * _up(g.R * g.S, lanes)
    values |= {"N": g.N, "parts": parts, "items": g.groups * parts}
    return values | {"phases_at": sums_at, "end": sums_at + sums * lanes * item}


def _rows_plan(operation: str, g: Geometry, threads: int, lanes: int, item: int) -> dict[str, int]:
    reach = (g.S - 1) * g.dilation[1]
    source, cols, pad = (g.W, g.Q, g.pad[1])
    if operation == "backward_input":
        source, cols, pad = (g.Q, g.W, reach - g.pad[1])
    rows = g.K if operation == "backward_weight" else g.N * g.K * g.H
    parts = 1
    if operation != "backward_weight" and threads > 1 and rows < 4 * threads:
        parts = -(-4 * threads // rows)
    parts = min(parts, max(1, cols // 4096))
    length = -(-cols // parts)
    parts = -(-cols // length)
    sums_at = _up((ROW_ENDS + reach + 3 * lanes) * item, 64)
    values = {"N": g.N, "groups": g.groups, "outputs": g.K // g.groups, "S": g.S, "R": 1, "rows": g.H, "cols": cols}
    values |= {"from_w": source, "pad_w": pad, "dilation": g.dilation[1], "reach": reach}
    values |= {"blocks_w": parts, "block_cols": length, "items": rows * parts}
    values |= {"box_at": 0, "phases_at": sums_at}
    vectors = _up(g.S, lanes) if operation == "backward_weight" else 16
    values["end"] = sums_at + vectors * lanes * item
    return values


def _strided_plan(g: Geometry, lanes: int, item: int) -> dict[str, int]:
    """Row h of x has h + pad = 2 (i + origin) + a and is reached by the kernel rows of a's parity alone; columns alike.

    So there are four correlations of stride 1 over one packed block of y, two at a time interleaved into x.
    """
    origin_h, origin_w = g.pad[0] // 2, g.pad[1] // 2
    halo_h, halo_w = (g.R - 1) // 2, (g.S - 1) // 2
    rows, cols = (g.H - 1 + g.pad[0]) // 2 - origin_h + 1, (g.W - 1 + g.pad[1]) // 2 - origin_w + 1
    pitch, phase_pitch = _up(cols + halo_w, lanes), _up(cols, lanes)
    row_bytes, phase_row = pitch * item, phase_pitch * item
    block_rows = min(max(_BYTES // (row_bytes + 2 * phase_row), min(TILE_ROWS[0], rows)), rows)
    blocks_h = -(-rows // block_rows)
    block_rows = -(-rows // blocks_h)
    plane_bytes = (block_rows + halo_h) * row_bytes + lanes * item
    phase_bytes = _up((block_rows + 1) * phase_row, 64)
    box_at = _up(g.S * 8, 64)
    phases_at = box_at + _up(plane_bytes + (halo_w + 2 * lanes) * item, 64)
    values = {"strided": 1, "groups": g.groups, "sources": 1, "outputs": 1, "R": g.R, "S": g.S}
    values |= {"stride_h": 1, "step_h": 1, "stride_w": 1, "step_w": 1, "phases_w": 1}
    values |= {"from_h": g.P, "from_w": g.Q, "rows": rows, "cols": cols}
    values |= {"pad_h": halo_h - origin_h, "pad_w": halo_w - origin_w}
    values |= {"block_rows": block_rows, "blocks_h": blocks_h, "block_cols": cols, "blocks_w": 1}
    values |= {"pitch": pitch, "row_bytes": row_bytes, "plane_bytes": plane_bytes}
    values |= {"items": g.N * g.groups * blocks_h, "box_at": box_at, "phases_at": phases_at}
    values |= {"origin_h": origin_h, "origin_w": origin_w, "x_h": g.H, "x_w": g.W}
    values |= {"x_pad_h": g.pad[0], "x_pad_w": g.pad[1], "phase_row": phase_row, "phase_bytes": phase_bytes}
    values["end"] = phases_at + 2 * phase_bytes + 2 * lanes * item
    return values
