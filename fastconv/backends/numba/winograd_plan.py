"""Which convolutions Winograd's algorithm serves, and how one of them is cut into tiles, blocks and scratch.

The rules and sizes are those of ``csrc/winograd_plan.h`` but for its stride 2, and it gives their measurements; a test
holds the two to the same answers. Both operations are one problem: ``to`` at (i, j) is the sum of w[r, s] *
from[i + r*step - pad_h, j + s*step - pad_w]. Dilation d makes d interleaved convolutions of an axis: a tile's inputs
and outputs lie d apart.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...geometry import Geometry
from .cpu import Isa, level2_bytes

POINTS_2D, POINTS_1D = 6, 8  # interpolation points of an axis of a plane, and of a row
_TAPS_1D = range(2, 8)
_TAPS_2D = (3, 5)
_DILATION_1D, _DILATION_2D = 64, 4  # at most
SLAB = 8  # in-channels of a slab of weights
_SUM = 256  # in-channels summed in registers; 2048 are 8e-6 of the largest output off in float32
_COLUMNS = 34  # inputs of a row that are transformed at a time: 8 tiles of a plane
_LINE = 64

_FIELDS = (
    *("flipped", "kind", "few", "images", "groups", "channels_in", "channels_out", "taps"),
    # an axis: inputs of a tile, outputs, distance between them, padding, size of the source and of the target
    *("points_h", "outputs_h", "step_h", "pad_h", "from_h", "to_h", "tiles_h"),
    *("points_w", "outputs_w", "step_w", "pad_w", "from_w", "to_w", "tiles_w"),
    *("w_out", "w_in", "w_group"),  # distances in the weights, bytes
    *("block_images", "block_h", "block_w", "blocks_h", "blocks_w", "blocks", "tiles"),
    *("chunks", "parts", "depth", "slab", "rows", "most_rows", "span"),
    *("v_point", "v_chunk", "v_group", "v_rows", "u_point", "u_slab", "u_part", "m_point"),  # bytes
    *("shared_bytes", "worker_bytes", "own_at", "columns_at", "m_at", "outputs_at", "shares"),
)
RECORD = np.dtype([(name, np.int64) for name in _FIELDS])


def unsupported(g: Geometry) -> str | None:
    """Why the algorithm cannot do forward or backward_input of this convolution, or None."""
    if g.stride != (1, 1):
        return "not stride 1"
    if g.R == 1:
        if g.S not in _TAPS_1D:
            return "not a kernel of 2 to 7 taps in a row, nor 3x3 or 5x5"
        return "dilation above 64" if g.dilation[1] > _DILATION_1D else None
    if g.R != g.S or g.R not in _TAPS_2D:
        return "not a kernel of 3x3 or 5x5, nor of 2 to 7 taps in a row"
    return "dilation above 4" if max(g.dilation) > _DILATION_2D else None


def unwise(operation: str, g: Geometry, vector_bytes: int) -> str | None:
    """Why it would be a poor choice, or None."""
    h, w = _axes(operation, g)
    channels, outputs = _channels(operation, g)
    least = 12 if vector_bytes == 64 else 6 if h.taps == 3 else 8
    least_products = 512 if w.taps > 5 else 128 if w.taps > 3 else 0
    if min(channels, outputs) < least or channels * outputs < least_products:
        return "too few channels a group: the transforms cost more than the products save"
    if h.tiles * w.tiles * h.outputs * w.outputs > 2 * h.to * w.to:
        return "less than half of the outputs of its tiles are there"
    if g.N * h.tiles * w.tiles < (12 if h.taps == 1 else 4):
        return "too few tiles to make up for the transform of the weights"
    return None


class _Axis(NamedTuple):
    """A tile takes `points` inputs to `outputs` = points + 1 - taps outputs. An axis of one tap is left as it is."""

    taps: int
    points: int
    outputs: int
    step: int
    pad: int
    source: int
    to: int
    tiles: int

    def start(self, tile: int) -> int:
        """The first output of a tile."""
        return self.outputs * self.step * (tile // self.step) + tile % self.step

    def reach(self, tiles: int) -> int:
        """Outputs that the first `tiles` tiles reach over."""
        if tiles >= self.tiles:
            return self.to
        return min(self.start(_up(tiles, self.step)), self.to)


def _axis(taps: int, points: int, step: int, pad: int, source: int, to: int) -> _Axis:
    if taps == 1:
        points = step = 1  # one tap is its own interpolation, and has no dilation
    outputs = points + 1 - taps
    tiles = to // (outputs * step) * step + min(to % (outputs * step), step)
    return _Axis(taps, points, outputs, step, pad, source, to, tiles)


def _axes(operation: str, g: Geometry) -> tuple[_Axis, _Axis]:
    points = POINTS_1D if g.R == 1 else POINTS_2D
    kernel, sources, targets = (g.R, g.S), (g.H, g.W), (g.P, g.Q)
    pads = g.pad
    if operation == "backward_input":
        sources, targets = targets, sources
        pads = ((g.R - 1) * g.dilation[0] - g.pad[0], (g.S - 1) * g.dilation[1] - g.pad[1])
    h, w = (_axis(kernel[a], points, g.dilation[a], pads[a], sources[a], targets[a]) for a in (0, 1))
    return h, w


def _channels(operation: str, g: Geometry) -> tuple[int, int]:
    """In- and out-channels a group."""
    both = g.C // g.groups, g.K // g.groups
    return both if operation == "forward" else both[::-1]


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _even_part(total: int, most: int, step: int) -> int:
    """`total` in nearly equal parts of at most `most`, each a multiple of `step`."""
    units = -(-total // step)
    parts = -(-units // max(most // step, 1))
    return -(-units // parts) * step


def register_tiles(isa: Isa) -> int:
    """Tiles of a register tile: their sums for 2 vectors, 2 vectors of weights and an input in all lanes fit."""
    return 14 if isa.registers >= 32 else 6


class Plan(NamedTuple):
    """One call, cut up."""

    record: np.ndarray  # one RECORD
    shares: int
    scratch_words: int  # int64 in all


@functools.lru_cache(maxsize=512)
def plan(operation: str, g: Geometry, item: int, threads: int, isa: Isa) -> Plan:
    """The plan of forward or backward_input."""
    h, w = _axes(operation, g)
    channels, outputs = _channels(operation, g)
    lanes, points = isa.vector_bytes // item, h.points * w.points
    vector, block = isa.vector_bytes, 2 * lanes
    chunks, parts = -(-channels // lanes), -(-outputs // block)
    most = _most_tiles(points, channels, outputs, lanes, item)
    total = g.N * h.tiles * w.tiles
    few = total <= most and (threads == 1 or parts * g.groups >= 2 * threads)
    turns = -(-total // (most * threads))
    images, block_h, block_w = _block(g.N, h, w, total if few else -(-total // (turns * threads)))  # as many a thread
    blocks_h, blocks_w = -(-h.tiles // block_h), -(-w.tiles // block_w)
    tiles = images * block_h * block_w
    rows = _even_part(tiles, register_tiles(isa), 1)
    depth = _even_part(channels, max(32, min(4 * total, _SUM)) if few else _SUM, lanes)
    slab = min(lanes, SLAB)
    span = _even_part(block_w, max((_COLUMNS - w.points) // w.outputs + 1, 1), w.step)
    columns = w.start(span - 1) + (w.points - 1) * w.step + 1

    v_point = rows * vector
    v_chunk = points * v_point + vector
    v_rows = chunks * v_chunk
    v_group = _up(-(-tiles // rows) * v_rows, _LINE)
    u_point = (2 * slab + 1) * vector
    u_slab = points * u_point
    u_part = _up(-(-(depth if few else channels) // slab) * u_slab, _LINE)
    m_point = (2 * tiles + 1) * vector
    own, shared = (u_part, v_group) if few else (v_group, u_part * parts)
    own_at = 2 * _LINE  # after what is not finite, and a line of zeros
    columns_at = own_at + own
    m_at = columns_at + _up((columns + lanes) * h.points * vector, _LINE)
    outputs_at = m_at + _up(points * m_point, _LINE)
    worker = outputs_at + _up((h.reach(block_h) * w.reach(block_w) + lanes) * vector, _LINE)
    shares = max(1, threads)
    taps = g.R * g.S
    near, far = taps * item, (g.C // g.groups) * taps * item
    backward = operation == "backward_input"
    record = np.zeros(1, RECORD)
    values = {
        "flipped": int(backward), "kind": w.taps if h.taps == 1 else 8 + w.taps, "few": int(few), "images": g.N,
        "groups": g.groups, "channels_in": channels, "channels_out": outputs, "taps": taps,
        "w_out": near if backward else far, "w_in": far if backward else near,
        "w_group": channels * outputs * taps * item,
        "block_images": images, "block_h": block_h, "block_w": block_w, "blocks_h": blocks_h, "blocks_w": blocks_w,
        "blocks": -(-g.N // images) * blocks_h * blocks_w, "tiles": tiles,
        "chunks": chunks, "parts": parts, "depth": depth, "slab": slab, "rows": rows,
        "most_rows": register_tiles(isa), "span": span,
        "v_point": v_point, "v_chunk": v_chunk, "v_group": v_group, "v_rows": v_rows,
        "u_point": u_point, "u_slab": u_slab, "u_part": u_part, "m_point": m_point,
        "shared_bytes": g.groups * shared, "worker_bytes": worker, "own_at": own_at, "columns_at": columns_at,
        "m_at": m_at, "outputs_at": outputs_at, "shares": shares,
    }  # fmt: skip
    for letter, axis in (("h", h), ("w", w)):
        for name, value in zip(
            ("points", "outputs", "step", "pad", "from", "to", "tiles"),
            (axis.points, axis.outputs, axis.step, axis.pad, axis.source, axis.to, axis.tiles),
            strict=True,
        ):
            values[f"{name}_{letter}"] = value
    for name, value in values.items():
        record[name] = value
    return Plan(record, shares, (g.groups * shared + shares * worker) // 8 + 8)


def _most_tiles(points: int, channels: int, outputs: int, lanes: int, item: int) -> int:
    """Tiles that a block may hold: it should stay in level 2 beside the weights, where these do."""
    room, weights = level2_bytes() // 2, points * channels * outputs * item
    tiles = 126 if points == POINTS_1D else 56
    if weights >= room:
        return tiles if lanes * item == 64 else 2 * tiles
    fit = (room - weights) // (points * (channels + 2 * lanes) * item)
    return max(tiles // 2, min(fit, tiles))


def _block(images: int, h: _Axis, w: _Axis, most: int) -> tuple[int, int, int]:
    """Images, tiles down and tiles across of a block: whole images, or some of the tiles of one."""
    plane = h.tiles * w.tiles
    if plane <= most:
        return _even_part(images, most // plane, 1), h.tiles, w.tiles
    if w.tiles * h.step <= most:
        return 1, _even_part(h.tiles, most // w.tiles, h.step), w.tiles
    block_h = min(h.step, h.tiles)
    return 1, block_h, _even_part(w.tiles, most // block_h, w.step)
