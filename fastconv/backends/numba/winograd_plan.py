"""Which convolutions Winograd's algorithm serves, and how one of them is cut into tiles, blocks and scratch.

The rules and sizes are those of ``csrc/winograd_plan.h`` and ``csrc/winograd_weight.h``, which give their measurements;
a test holds them to the same answers. Forward and backward_input are one problem: ``to`` at (i, j) is the sum of
w[r, s] * from[i + r*step - pad_h, j + s*step - pad_w]. Dilation d makes d interleaved convolutions of an axis: a tile's
inputs and outputs lie d apart.

At stride 2, an axis of 3 taps is two phases of stride 1: taps 0 and 2 with every other sample, tap 1 with those
between. Forward adds the phases, y[i] = (w0 x[2i] + w2 x[2i+2]) + w1 x[2i+1]; backward_input interleaves them,
x[2i] = w0 y[i] + w2 y[i-1] and x[2i+1] = w1 y[i]. For n outputs of each, a tile has n + 1 points of two taps and n of
one, which all meet the same weight.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ...geometry import Geometry
from .cpu import Isa, level2_bytes

POINTS_2D, POINTS_1D = 6, 8  # interpolation points of an axis of a plane, and of a row
PHASE_2D, PHASE_1D = 4, 7  # stride 2: outputs of a tile in each phase
_TAPS_1D = range(2, 8)
_TAPS_2D = (3, 5)
_DILATION_1D, _DILATION_2D = 64, 4  # at most
SLAB = 8  # in-channels of a slab of weights
_SUM = 256  # in-channels summed in registers; 2048 are 8e-6 of the largest output off in float32
_COLUMNS = 34  # inputs of a row that are transformed at a time: 8 tiles of a plane
_LINE = 64
# backward_weight
VECTORS = 3  # of output channels in a register tile
_TOGETHER = 1 << 10  # bytes of one f of the tiles that lie together in v and u
_OPERANDS = 4 << 20  # bytes of v and u of a block: they stay in level 3
_FEWEST, _MOST = 64, 512  # tiles of a block: of fewer, m is fetched too often
_SUMS = 112 << 10  # bytes of m of an item
_TURNED = 144  # weights of each output channel that are turned together, some more
PLANE = 16  # what the number of a kernel or of a tile's outputs is more, in two dimensions

_AXIS_FIELDS = (
    *("points", "outputs", "step", "pad", "from", "to", "tiles"),
    *("weights", "inputs", "advance", "apart", "second", "lead"),
)
_FIELDS = (
    *("flipped", "kernel", "result", "transform", "few", "images", "groups", "channels_in", "channels_out", "taps"),
    *(f"{name}_{axis}" for axis in "hw" for name in _AXIS_FIELDS),
    *("w_out", "w_in", "w_group"),  # distances in the weights, bytes
    *("block_images", "block_h", "block_w", "blocks_h", "blocks_w", "blocks", "tiles"),
    *("chunks", "parts", "depth", "slab", "rows", "most_rows", "span"),
    *("v_point", "v_chunk", "v_group", "v_rows", "u_point", "u_slab", "u_part", "m_point"),  # bytes
    *("shared_bytes", "worker_bytes", "own_at", "columns_at", "m_at", "outputs_at", "shares"),
)
RECORD = np.dtype([(name, np.int64) for name in _FIELDS])
# Types of their own: kernels are compiled for them. Numba may take a record for another that has its first fields.
STRIDED_RECORD = np.dtype([*RECORD.descr, ("strided", np.int64)])
GRADIENT_RECORD, STRIDED_GRADIENT_RECORD = (
    np.dtype([("gradient", np.int64), *kind.descr]) for kind in (RECORD, STRIDED_RECORD)
)
_WEIGHT_FIELDS = (
    *("parts", "runs", "shares", "together"),  # together: channels that are turned together
    *("channel", "part", "group_bytes", "u_at", "kept_at", "shared_bytes"),  # bytes; channel and part: of m
    *("worker_bytes", "columns_at", "turned_at", "m_at"),
)
WEIGHT_RECORD = np.dtype([(name, np.int64) for name in _WEIGHT_FIELDS])


def unsupported(g: Geometry) -> str | None:
    """Why the algorithm cannot do this convolution, or None."""
    if g.stride[1] == 2:
        if g.S != 3 or (g.R, g.stride[0]) not in ((3, 2), (1, 1)):
            return "stride 2 and not a kernel of 3x3, nor of 3 taps in a row"
        dilated = g.dilation[1] != 1 or (g.R == 3 and g.dilation[0] != 1)
        return "stride 2 and dilation" if dilated else None
    if g.stride != (1, 1):
        return "not stride 1 or 2"
    if g.R == 1:
        if g.S not in _TAPS_1D:
            return "not a kernel of 2 to 7 taps in a row, nor 3x3 or 5x5"
        return "dilation above 64" if g.dilation[1] > _DILATION_1D else None
    if g.R != g.S or g.R not in _TAPS_2D:
        return "not a kernel of 3x3 or 5x5, nor of 2 to 7 taps in a row"
    return "dilation above 4" if max(g.dilation) > _DILATION_2D else None


def unwise(operation: str, g: Geometry, vector_bytes: int) -> str | None:
    """Why it would be a poor choice for forward or backward_input, or None."""
    h, w = _axes(operation, g)
    channels, outputs = _channels(operation, g)
    strided, forward, row = is_strided(g), operation == "forward", h.taps == 1
    least = 12 if vector_bytes == 64 else 6 if h.taps == 3 else 8
    if strided and (forward or row):
        least *= 2
    least_in = 4 * least if strided and forward and row else least
    least_products = 512 if w.taps > 5 else 128 if w.taps > 3 else 0
    if channels < least_in or outputs < least or channels * outputs < least_products:
        return "too few channels a group: the transforms cost more than the products save"
    there, computed = h.to * w.to, h.tiles * h.outputs * w.tiles * w.outputs
    if not strided and computed > 2 * there:
        return "less than half of the outputs of its tiles are there"
    if strided and 3 * computed > 4 * there:
        return "less than three quarters of the outputs of its tiles are there"
    least_tiles = 4 if not row or (strided and not forward) else 16 if strided else 12
    if g.N * h.tiles * w.tiles < least_tiles:
        return "too few tiles to make up for the transform of the weights"
    return None


def unwise_weight(g: Geometry, vector_bytes: int) -> str | None:
    """Why it would be a poor choice for backward_weight, or None."""
    h, w = _axes("forward", g)
    channels, outputs = _channels("forward", g)
    if channels < 8 or outputs < 8:
        return "too few channels a group: the transforms cost more than the products save"
    points, lanes = h.points * w.points, vector_bytes // 4

    def moved(count: int) -> int:  # of channels that do not fill a vector, one number at a time
        return count // lanes * lanes + (3 * lanes if count % lanes else 0)

    transforms = 10 * float(moved(channels) + moved(outputs)) / (channels * outputs)
    products = g.N * h.tiles * w.tiles * points
    own = products * ((1.25 if points == (2 * PHASE_2D + 1) ** 2 else 1.1) + transforms) + 16 * h.weights * w.weights
    if 1.05 * own > 1.15 * (g.N * h.to * w.to * h.taps * w.taps):
        return "too few tiles or channels: the transforms cost more than the products save"
    return None


def is_strided(g: Geometry) -> bool:
    """Whether it is stride 2, of those that the algorithm serves."""
    return g.stride[1] == 2


class _Axis(NamedTuple):
    """A tile takes `inputs` inputs to `outputs` outputs, with one product in each of its `points`.

    At stride 1 inputs = points and outputs = points + 1 - taps. An axis of one tap is left as it is.
    """

    taps: int
    points: int
    outputs: int
    step: int
    pad: int
    source: int
    to: int
    tiles: int
    weights: int  # points whose weights differ
    inputs: int
    advance: int  # inputs from one tile to the next
    apart: int = 1  # distance between the inputs of a phase
    second: int = 0  # the first input of the second phase
    lead: int = 0  # backward_input at stride 2: the first output of the first phase, 0 or 1

    def start(self, tile: int) -> int:
        """The first output of a tile."""
        return self.outputs * self.step * (tile // self.step) + tile % self.step

    def begin(self, tile: int) -> int:
        """Its first input, but for the padding."""
        return self.advance * self.step * (tile // self.step) + tile % self.step

    def reach(self, tiles: int) -> int:
        """Outputs that the first `tiles` tiles reach over."""
        if tiles >= self.tiles:
            return self.to
        return min(self.start(_up(tiles, self.step)), self.to)


def first_phase(points: int) -> int:
    """Points of the first phase of an axis, or of the only one."""
    return (points + 1) // 2 if points % 2 else points


def _axis(taps: int, points: int, step: int, pad: int, source: int, to: int) -> _Axis:
    if taps == 1:
        points = step = 1  # one tap is its own interpolation, and has no dilation
    outputs = points + 1 - taps
    tiles = to // (outputs * step) * step + min(to % (outputs * step), step)
    return _Axis(taps, points, outputs, step, pad, source, to, tiles, points, points, outputs)


def _strided_axis(backward: bool, phase: int, pad: int, source: int, to: int) -> _Axis:
    """Stride 2 and 3 taps, `phase` outputs of a tile in each phase."""
    points, weights = 2 * phase + 1, phase + 2
    if not backward:
        return _Axis(3, points, phase, 1, pad, source, to, -(-to // phase), weights, points, 2 * phase, 2, 1)
    lead = pad % 2  # two taps meet where the position in the padded plane is even
    second, outputs = 1 - lead, 2 * phase
    pad = second - (pad - lead) // 2
    return _Axis(3, points, outputs, 1, pad, source, to, -(-to // outputs), weights, phase + 1, phase, 1, second, lead)


def _axes(operation: str, g: Geometry) -> tuple[_Axis, _Axis]:
    points, phase = (POINTS_1D, PHASE_1D) if g.R == 1 else (POINTS_2D, PHASE_2D)
    kernel, sources, targets = (g.R, g.S), (g.H, g.W), (g.P, g.Q)
    backward = operation == "backward_input"
    if backward:
        sources, targets = targets, sources

    def along(a: int) -> _Axis:
        if g.stride[a] == 2:
            return _strided_axis(backward, phase, g.pad[a], sources[a], targets[a])
        pad = (kernel[a] - 1) * g.dilation[a] - g.pad[a] if backward else g.pad[a]
        return _axis(kernel[a], points, g.dilation[a], pad, sources[a], targets[a])

    return along(0), along(1)


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


def _rows(tiles: int, most: int) -> int:
    """Tiles of a register tile: at most `most`, so that few are left over, as under 4 of them wait for their sums."""

    def cost(rows: int) -> int:
        rest = tiles % rows
        wait = max(4 - rest, 0) if rest else 0
        return 8 * (tiles + wait) + -(-tiles // rows)

    most = min(tiles, most)
    return min(range(most, min(most, 4) - 1, -1), key=cost)


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
    most = _most_tiles(points, h.weights * w.weights, channels, outputs, lanes, item)
    total = g.N * h.tiles * w.tiles
    few = total <= most and (threads == 1 or parts * g.groups >= 2 * threads)
    turns = -(-total // (most * threads))
    images, block_h, block_w = _block(g.N, h, w, total if few else -(-total // (turns * threads)))  # as many a thread
    blocks_h, blocks_w = -(-h.tiles // block_h), -(-w.tiles // block_w)
    tiles = images * block_h * block_w
    rows = _rows(tiles, register_tiles(isa))
    depth = _even_part(channels, max(32, min(4 * total, _SUM)) if few else _SUM, lanes)
    slab = min(lanes, SLAB)
    span = _even_part(block_w, max((_COLUMNS - w.inputs) // w.advance + 1, 1), w.step)
    columns = w.begin(span - 1) + (w.inputs - 1) * w.step + 1

    v_point = rows * vector
    v_chunk = points * v_point + vector
    v_rows = chunks * v_chunk
    v_group = _up(-(-tiles // rows) * v_rows, _LINE)
    u_point = (2 * slab + 1) * vector
    u_slab = h.weights * w.weights * u_point
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
    plane = 0 if h.taps == 1 else PLANE
    values = {
        "flipped": int(backward), "kernel": plane + w.taps, "result": plane + w.outputs, "transform": int(h.taps > 1),
        "few": int(few), "images": g.N, "groups": g.groups,
        "channels_in": channels, "channels_out": outputs, "taps": taps,
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
    record = _record(STRIDED_RECORD if is_strided(g) else RECORD, values, h, w)
    return Plan(record, shares, (g.groups * shared + shares * worker) // 8 + 8)


def _record(kind: np.dtype[Any], values: dict[str, int], *axes: _Axis) -> np.ndarray:
    record = np.zeros(1, kind)
    for letter, axis in zip("hw", axes, strict=False):
        for name in _AXIS_FIELDS:
            record[f"{name}_{letter}"] = getattr(axis, "source" if name == "from" else name)
    for name, value in values.items():
        record[name] = value
    return record


class WeightPlan(NamedTuple):
    """One call of backward_weight, cut up."""

    records: tuple[np.ndarray, np.ndarray, np.ndarray]  # of the planes of x, of those of y, and of the sums
    blocks: int
    shares: int
    scratch_words: int  # int64 in all


def _of_gradients(a: _Axis) -> _Axis:
    """The planes of y in tiles: a tile's outputs are its inputs, side by side, without padding."""
    return a._replace(pad=0, source=a.to, inputs=a.outputs, advance=a.outputs, apart=1, second=0)


@functools.lru_cache(maxsize=512)
def weight_plan(g: Geometry, item: int, threads: int, isa: Isa) -> WeightPlan:
    """The plan of backward_weight."""
    axes = _axes("forward", g)
    h, w = axes
    channels, outputs = _channels("forward", g)
    lanes, points, weights = isa.vector_bytes // item, h.points * w.points, h.weights * w.weights
    vector, taps = isa.vector_bytes, g.R * g.S
    total = g.N * h.tiles * w.tiles
    most = max(_FEWEST, min(_OPERANDS // (g.groups * (channels + outputs) * points * item), _MOST))
    images, block_h, block_w = _block(g.N, h, w, -(-total // -(-total // most)))
    blocks_h, blocks_w = -(-h.tiles // block_h), -(-w.tiles // block_w)
    blocks, tiles = -(-g.N // images) * blocks_h * blocks_w, images * block_h * block_w
    rows = min(tiles, max(_TOGETHER // vector, 1))
    v_point = (rows + 1) * vector  # else stores to all f would share a few cache sets
    v_chunk = points * v_point
    strided, plane = is_strided(g), 0 if h.taps == 1 else PLANE
    far = channels * taps * item

    def operand(kind: np.dtype[Any], axes: tuple[_Axis, _Axis], planes: int, transform: int) -> tuple[Any, int, int]:
        """Its record, the bytes of a group, and the most columns that are transformed at a time."""
        across, chunks = axes[1], -(-planes // lanes)
        span = _even_part(block_w, max((_COLUMNS - across.inputs) // across.advance + 1, 1), across.step)
        values = {
            "kernel": plane + w.taps, "result": plane + w.outputs, "transform": transform,
            "images": g.N, "groups": g.groups, "channels_in": planes, "taps": taps,
            "w_out": far, "w_in": taps * item, "w_group": outputs * far,
            "block_images": images, "block_h": block_h, "block_w": block_w, "blocks_h": blocks_h,
            "blocks_w": blocks_w, "blocks": blocks, "tiles": tiles, "chunks": chunks, "rows": rows, "span": span,
            "v_point": v_point, "v_chunk": v_chunk, "v_rows": chunks * v_chunk,
        }  # fmt: skip
        columns = across.begin(span - 1) + (across.inputs - 1) * across.step + 1
        return _record(kind, values, *axes), _up(-(-tiles // rows) * chunks * v_chunk, _LINE), columns

    kinds = (STRIDED_RECORD, STRIDED_GRADIENT_RECORD) if strided else (RECORD, GRADIENT_RECORD)
    x, v_bytes, x_columns = operand(kinds[0], axes, channels, int(h.taps > 1))
    y_axes = _of_gradients(h), _of_gradients(w)
    y, u_bytes, y_columns = operand(kinds[1], y_axes, outputs, plane + w.outputs)

    chunks, vectors, shares = -(-channels // lanes), -(-outputs // lanes), max(1, threads)
    parts = -(-vectors // VECTORS)
    channel = weights * -(-vectors // parts) * vector
    part = chunks * lanes * channel
    runs = -(-chunks // max(_SUMS // (lanes * channel), 1))
    if shares > 1:
        runs = max(runs, min(-(-4 * shares // (g.groups * parts)), chunks))
    kept = blocks > 1
    group_bytes, together = v_bytes + u_bytes, -(-_TURNED // taps)
    shared = g.groups * group_bytes + (_up(g.groups * parts * part, _LINE) if kept else 0)
    columns_at = _LINE  # after what is not finite
    turned_at = columns_at + _up((max(x_columns, y_columns) + lanes) * h.points * vector, _LINE)
    m_at = turned_at + _up((together * taps + lanes) * VECTORS * vector, _LINE)
    worker = m_at + (0 if kept else _up(-(-chunks // runs) * lanes * channel, _LINE))
    values = {
        "parts": parts, "runs": runs, "shares": shares, "together": together,
        "channel": channel, "part": part, "group_bytes": group_bytes, "u_at": v_bytes,
        "kept_at": g.groups * group_bytes, "shared_bytes": shared,
        "worker_bytes": worker, "columns_at": columns_at, "turned_at": turned_at, "m_at": m_at,
    }  # fmt: skip
    records = x, y, _record(WEIGHT_RECORD, values)
    return WeightPlan(records, blocks, shares, (shared + shares * worker) // 8 + 8)


_TILES = {POINTS_1D: 126, POINTS_2D**2: 56, 2 * PHASE_1D + 1: 67, (2 * PHASE_2D + 1) ** 2: 49}


def _most_tiles(points: int, weights: int, channels: int, outputs: int, lanes: int, item: int) -> int:
    """Tiles that a block may hold: it should stay in level 2 beside the weights, where these do."""
    room, weights = level2_bytes() // 2, weights * channels * outputs * item
    tiles = _TILES[points]
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
