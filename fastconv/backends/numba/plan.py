"""How one call is cut up: tiles, register blocks, shares of the threads, and where everything lies in scratch.

All that depends on the geometry and not on the data is decided here, in Python, and handed to :mod:`.kernels` as one
record of int64 and one table. Plans are small and cached.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...geometry import Geometry
from .cpu import GUARDED_SHAPE, Isa, block_shapes, channel_shapes, level2_bytes, panel_rows

_FIELDS = (
    # the map: see kernels
    *("backward", "N", "groups", "source_channels", "target_channels", "R", "S", "dilation_h", "dilation_w"),
    *("source_step_h", "source_step_w", "source_pad_h", "source_pad_w"),
    *("target_step_h", "target_step_w", "target_pad_h", "target_pad_w"),
    *("rows_first", "next_h", "next_w"),  # the order of the taps; from a tap of a target phase to the phase's next one
    "phases_together",  # column phases of the target with the same offsets, computed at once
    # how far the taps reach: the lowest step of the packed source that one reads, and the span to the highest
    *("reach_h", "reach_w", "span_h", "span_w"),
    # the source's phases that are packed, and where the tables say which and in which order
    *("phases_h", "phases_w", "index_h", "index_w"),
    # the positions of a target phase, and the tiles they are cut into
    *("first_row", "first_col", "rows", "cols", "tile_images", "tile_rows", "tile_cols", "tiles_h", "tiles_w", "tiles"),
    *("pitch", "plane_bytes", "channel_bytes"),
    # the register block, and how many channels go together
    *("shape", "block_rows", "block_cols", "guarded_shape", "guarded_rows", "guarded_cols"),
    # blocks along rows (row_vectors 0: none): their vectors, most channels, and the lines and columns that stay in L1
    *("row_vectors", "row_channels", "row_lines", "row_cols"),
    # panels (panel_cols 0: none): vectors, taps and panels at a time, most rows of a block; is the source read in place
    *("panel_cols", "panel_taps", "panel_together", "panel_rows", "panel_most", "in_place"),
    # backward_weight with output channels in the lanes (lane_cols 0: not), and the bytes from a position to the next
    *("lane_shape", "lane_rows", "lane_cols", "position_bytes"),
    *(
        "run_channels",
        "flip_runs",
        "block_channels",
        "chunk",
        "target_bytes",
        "grad_bytes",
        "ones_count",
        "zeros_count",
    ),
    # the shares of the threads
    *("shares", "channel_splits", "split", "share_words"),
    # scratch of one share: byte offsets, the packed source being at 0
    *("weights_at", "targets_at", "grads_at", "guard_at", "taps_at", "guards_at", "starts_at"),
    *("segments_at", "pieces_at", "zeros_at", "ones_at", "panels_at", "sums_at"),
)
RECORD = np.dtype([(name, np.int64) for name in _FIELDS])
_INDEX = {name: number for number, name in enumerate(_FIELDS)}

# Aims, in bytes and elements. A tile's packed source should stay in L2 beside weights and results (2 MB on the machine
# it was measured on, 1 MB on most servers); a flat axis beyond 16,384 positions buys nothing and costs tables.
_TILE_BYTES = 512 << 10
_TILE_POSITIONS = 16384
_SMALL_TILE_POSITIONS = 2048  # images share a tile up to here
_TARGET_BYTES = 256 << 10
_L1_BYTES = 40 << 10
_CHUNK_BYTES = 4096  # of each gradient row in one run of a block: 64 vectors of 64 bytes
_LONG_SUM = 192  # products of a sum in registers
_ROW_BYTES = 16 << 10  # packed source that blocks along rows pass over: half of L1
_PANEL_TAPS = (
    192  # of a panel: 18 KB with 3 vectors of 32 bytes, so that it stays in L1 while the channels pass over it
)
_PANELS_TOGETHER = 4  # that a block of channels passes over, its weights in L1
_SUMS_BYTES = 128 << 10


# Multiply-adds, as in C: some 12 to 20 us of one thread; to wake another takes some 30.
WORTH_THREADS = 600_000

BY_GROUPS, BY_CHANNELS, BY_TILES = 0, 1, 2  # which way backward_weight is cut into shares


def worth_threads(g: Geometry, threads: int) -> int:
    """As many threads as a call is worth."""
    return max(1, threads) if g.flops // 2 >= WORTH_THREADS else 1


class Plan(NamedTuple):
    """One call, cut up."""

    record: np.ndarray  # one RECORD
    tables: np.ndarray
    shares: int
    split: int
    scratch_words: int  # int64 in all


class _Axis(NamedTuple):
    """One spatial axis of the map, as both kernels see it."""

    source: int
    target: int
    taps: int
    dilation: int
    source_step: int
    target_step: int
    source_pad: int
    target_pad: int
    reach: int
    span: int
    phases: tuple[int, ...]
    first: int
    length: int


def _axis(x: int, y: int, taps: int, stride: int, pad: int, dilation: int, backward: bool) -> _Axis:
    far = (taps - 1) * dilation
    if backward:  # h + pad = stride*i + a, so that p = i + (a - r*dilation)/stride
        first = pad // stride
        count = (pad + x - 1) // stride - first + 1
        span = far // stride
        return _Axis(y, x, taps, dilation, 1, stride, 0, pad, -span, span, (0,), first, count)
    phases = tuple(sorted({r * dilation % stride for r in range(min(taps, stride))}))
    return _Axis(x, y, taps, dilation, stride, 1, pad, 0, 0, far // stride, phases, 0, y)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


class _Layout:
    """Regions of scratch, one after the other, each at a multiple of 64 bytes."""

    def __init__(self) -> None:
        self.end = 0

    def take(self, size: int) -> int:
        start = self.end
        self.end += _up(size, 64)
        return start


class _Tile(NamedTuple):
    images: int
    rows: int
    cols: int

    def positions(self, span_h: int, span_w: int) -> int:
        return self.images * (self.rows + span_h) * (self.cols + span_w)


def _choose_tile(
    g: Geometry, h: _Axis, w: _Axis, position_bytes: int, lanes: int, jobs: int, shares: int, most: int = _TILE_BYTES
) -> _Tile:
    """The largest tile within the aims (`most` bytes), and enough tiles for the shares where other jobs are too few."""
    tile = _Tile(1, h.length, w.length)

    def too_large(t: _Tile) -> bool:
        positions = t.positions(h.span, w.span)
        return positions * position_bytes > most or positions > _TILE_POSITIONS

    # rows and columns are halved while the halo that is then packed twice stays the smaller part
    while too_large(tile):
        if tile.rows > max(2, 2 * h.span):
            tile = tile._replace(rows=-(-tile.rows // 2))
        elif tile.cols > max(8 * lanes, 2 * w.span):
            tile = tile._replace(cols=_up(-(-tile.cols // 2), lanes))
        elif tile.rows > 1 and tile.rows * tile.cols > 8 * lanes:
            tile = tile._replace(rows=-(-tile.rows // 2))
        else:
            break
    if (tile.rows, tile.cols) == (h.length, w.length):
        one = tile.positions(h.span, w.span)
        fit = min(_SMALL_TILE_POSITIONS, most // position_bytes)
        tile = tile._replace(images=max(1, min(g.N, fit // one)))
        if shares > 1:
            tile = tile._replace(images=min(tile.images, max(1, -(-g.N * jobs // shares))))
        tile = tile._replace(images=-(-g.N // -(-g.N // tile.images)))  # even tiles
    return tile


class _Columns(NamedTuple):
    """How a block's columns of vectors are read: bytes of one over all taps, and how many taps share a line of them."""

    bytes: int = 0
    shared: int = 1

    def load_cost(self, cols: int) -> float:
        """Half cycles for one vector: 2, as it is unaligned, and 2 more if its lines come from L2."""
        return 2 if cols * self.bytes <= _L1_BYTES else 2 + 2 / self.shared


def _choose_block(
    shapes: Sequence[tuple[int, int]], row_total: int, col_total: int, depth: int, store: float, columns: _Columns
) -> tuple[int, float]:
    """The number of the register block that covers rows x columns in the fewest cycles, and these.

    `depth` is how often a block runs through its loop, `store` what each accumulator costs at the end. A pass of the
    loop takes two multiply-adds or two loads a cycle, but no less than the 4 cycles of a multiply-add.
    """
    best, choice = float("inf"), 0
    for number, (rows, cols) in enumerate(shapes):
        if rows > row_total:
            continue
        calls = -(-row_total // rows) * -(-col_total // cols)
        cycles = max(rows * cols / 2, (columns.load_cost(cols) * cols + rows) / 2, 4.0)
        cost = calls * (depth * cycles + 20 + store * rows * cols)
        if cost < best:
            best, choice = cost, number
    return choice, best


def _fill(values: dict[str, int]) -> np.ndarray:
    record = np.zeros(1, RECORD)
    for name, value in values.items():
        record[0][_INDEX[name]] = value
    return record


def _common(g: Geometry, h: _Axis, w: _Axis, tile: _Tile, lanes: int, item: int) -> tuple[dict[str, int], np.ndarray]:
    pitch = tile.cols + w.span
    plane = _up(tile.positions(h.span, w.span), lanes) * item
    if plane % 4096 in range(256):  # planes a multiple of 4 KB apart compete for the same cache sets
        plane += 256
    values = {"N": g.N, "groups": g.groups, "R": h.taps, "S": w.taps}
    for letter, axis in (("h", h), ("w", w)):
        for name in ("dilation", "source_step", "source_pad", "target_step", "target_pad", "reach", "span"):
            values[f"{name}_{letter}"] = getattr(axis, name)
        values[f"phases_{letter}"] = len(axis.phases)
        values[f"next_{letter}"] = axis.target_step // math.gcd(axis.dilation, axis.target_step)
    tiles = [-(-total // part) for total, part in zip((g.N, h.length, w.length), tile, strict=True)]
    values |= {"first_row": h.first, "first_col": w.first, "rows": h.length, "cols": w.length}
    values |= {"tile_images": tile.images, "tile_rows": tile.rows, "tile_cols": tile.cols}
    values |= {"tiles_h": tiles[1], "tiles_w": tiles[2], "tiles": tiles[0] * tiles[1] * tiles[2]}
    values |= {"pitch": pitch, "plane_bytes": plane, "channel_bytes": plane * len(h.phases) * len(w.phases)}
    # the phases that are packed, then, for each phase, its place among them
    tables = [*h.phases, *w.phases]
    for letter, axis in (("h", h), ("w", w)):
        values[f"index_{letter}"] = len(tables)
        place = {phase: number for number, phase in enumerate(axis.phases)}
        tables += [place.get(phase, 0) for phase in range(axis.source_step)]
    return values, np.array(tables, np.int64)


def _vectors(tile: _Tile, h: _Axis, w: _Axis, lanes: int) -> int:
    flat = ((tile.images - 1) * (tile.rows + h.span) + tile.rows - 1) * (tile.cols + w.span) + tile.cols
    return -(-flat // lanes)


def _phases_together(w: _Axis) -> int:
    """The most phases of the target's columns, a divisor of their number, that go together all along."""
    if w.target_step * w.taps > 1 << 16:  # too many to compare, each of them enough by itself
        return 1

    def offsets(phase: int) -> list[int]:
        places = [phase - s * w.dilation for s in range(w.taps)]
        return [place // w.target_step for place in places if place % w.target_step == 0]

    tables = [offsets(phase) for phase in range(w.target_step)]
    for parts in range(1, w.target_step + 1):
        if w.target_step % parts == 0:
            size = w.target_step // parts
            if all(tables[phase] == tables[phase - phase % size] for phase in range(w.target_step)):
                return size
    return 1


def along_rows(products: int, cols: int, lanes: int) -> bool:
    """Whether sums of so few products, along rows that fill vectors so well, are best stored straight to their place.

    The rule of ``direct_along_rows`` in ``csrc/direct_row.h``.
    """
    filled = _up(cols, lanes)
    return products <= _LONG_SUM and cols >= 2 * lanes and 20 * cols >= 17 * filled


def row_shapes(isa: Isa) -> dict[int, int]:
    """The blocks that go along rows: vectors -> the most channels."""
    return {4: 6, 2: 12} if isa.registers >= 32 else {4: 3, 2: 6}


def _along_rows(run: int, taps: int, tile: _Tile, w: _Axis, runs_read: int, lanes: int, isa: Isa) -> dict[str, int]:
    """How blocks go along the rows of a tile, or nothing where they do not."""
    last = w.length - (-(-w.length // tile.cols) - 1) * tile.cols  # columns of the narrowest tile
    if run < 2 or not along_rows(taps, tile.cols, lanes) or last < 2 * lanes:
        return {}
    shapes = row_shapes(isa)
    vectors = 4 if run <= shapes[4] and last >= 4 * lanes else 2
    item = isa.vector_bytes // lanes
    room = max(_ROW_BYTES // (runs_read * item), 1)  # positions
    cols = min(tile.cols, max(room, 16 * lanes))
    lines = max(1, room // tile.cols) if cols == tile.cols else 1
    return {"row_vectors": vectors, "row_channels": shapes[vectors], "row_lines": lines, "row_cols": cols}


@functools.lru_cache(maxsize=512)
def correlate_plan(operation: str, g: Geometry, item: int, threads: int, isa: Isa, panels: bool = False) -> Plan:
    """The plan of forward or backward_input; with `panels`, vectors of positions are copied side by side before use."""
    backward = operation == "backward_input"
    lanes = isa.vector_bytes // item
    h = _axis(g.H, g.P, g.R, g.stride[0], g.pad[0], g.dilation[0], backward)
    w = _axis(g.W, g.Q, g.S, g.stride[1], g.pad[1], g.dilation[1], backward)
    channels, outputs = g.C // g.groups, g.K // g.groups
    if backward:
        channels, outputs = outputs, channels
    shares = max(1, threads)
    position_bytes = channels * len(h.phases) * len(w.phases) * item
    in_place = panels and _in_place(g, lanes)
    if in_place:  # of one image, and as many positions as make enough jobs
        most = max(8 * lanes, -(-g.Q * g.N * g.groups // (4 * shares))) if shares > 1 else _TILE_POSITIONS
        pieces = -(-g.Q // _up(min(most, _TILE_POSITIONS), lanes))
        tile = _Tile(1, 1, min(_up(-(-g.Q // pieces), lanes), g.Q))
    else:
        room = min(_TILE_BYTES, level2_bytes() // 2) if panels else _TILE_BYTES
        tile = _choose_tile(g, h, w, position_bytes, lanes, g.groups, shares, room)
    values, tables = _common(g, h, w, tile, lanes, item)
    if in_place:
        values["channel_bytes"] = g.Q * item
    jobs = g.groups * values["tiles"]
    # Channels are split rather than tiles where those would leave a thread idle for long, and the block still fits.
    splits = 1
    if shares > 1 and jobs < 4 * shares and jobs % shares and outputs >= 4 * shares:
        splits = shares
    elif backward and shares > 1 and g.K * g.C // g.groups * g.R * g.S * item > _TILE_BYTES and outputs >= 4 * shares:
        splits = shares  # each share flips the weights of its channels: large ones should not be flipped by all
    elif jobs < shares:
        shares = jobs

    vectors = _vectors(tile, h, w, lanes)
    taps = channels * g.R * g.S
    per_phase = max(1, taps // (h.target_step * w.target_step))
    least = outputs // splits
    runs_read = channels * len(h.phases) * len(w.phases) * (1 + h.span)
    columns = _Columns(runs_read * isa.vector_bytes, max(1, g.S // w.target_step))
    most = -(-outputs // splits)
    for together in (_phases_together(w) if backward else 1, 1):
        shape, _ = _choose_block(block_shapes(isa), least * together, vectors, per_phase, 2.0, columns)
        rows, cols = block_shapes(isa)[shape]
        run, target_bytes = most, 0
        widest = max(cols, GUARDED_SHAPE[1])
        if w.target_step > 1:
            target_bytes = _up(vectors, cols) * isa.vector_bytes + widest * isa.vector_bytes
            runs = -(-most * w.target_step * target_bytes // _TARGET_BYTES)
            run = min(most, _up(-(-most // runs), rows))
        # Large weights are flipped one run at a time, so that they stay in L2 until they are used (resnet_7: 3 times
        # faster), where that does not mean to do it again for many tiles.
        flip_runs = backward and values["tiles"] <= 2 * shares and most * taps * item > _TILE_BYTES
        if flip_runs:
            run = min(run, _up(max(1, _TILE_BYTES // (taps * item)), rows))
        if flip_runs or run == most:  # all that was flipped at once is computed at once, as `together` needs
            break
    highest = max(rows, GUARDED_SHAPE[0], *panel_rows(isa))
    values |= {
        "backward": int(backward),
        "rows_first": int(h.target_step * w.target_step > 1),
        "phases_together": together,
        "source_channels": channels,
        "target_channels": outputs,
        "shape": shape,
        "block_rows": rows,
        "block_cols": cols,
        "guarded_shape": len(block_shapes(isa)),
        "guarded_rows": GUARDED_SHAPE[0],
        "guarded_cols": GUARDED_SHAPE[1],
        "run_channels": run,
        "flip_runs": int(flip_runs),
        "target_bytes": target_bytes,
        "ones_count": values["pitch"] if backward else 0,
        "zeros_count": highest,
        "shares": shares,
        "channel_splits": splits,
    }
    if not panels and h.target_step == w.target_step == 1:
        values |= _along_rows(run, taps, tile, w, runs_read, lanes, isa)
    panel = _panels(run * together, vectors, taps, per_phase, isa) if panels else None
    if panel is not None:
        values |= panel | {"in_place": int(in_place)}
    layout = _Layout()
    # beyond the last plane: what the last block of positions reads of it, and a row's excess over whole vectors
    slack = (widest + 2) * isa.vector_bytes + (h.span * values["pitch"] + w.span) * item
    layout.take(0 if in_place else (channels + int(backward)) * values["channel_bytes"] + slack)
    spare = h.target_step * w.target_step * isa.vector_bytes
    flipped = run if flip_runs else most
    values["weights_at"] = layout.take((taps * item + spare) * flipped if backward else 0)
    values["targets_at"] = layout.take(run * w.target_step * target_bytes)
    values["taps_at"] = layout.take(taps * 8)
    values["guards_at"] = layout.take(taps * 8)
    values["starts_at"] = layout.take((h.target_step * w.target_step + 1) * 8)
    direct = w.target_step == 1
    values["segments_at"] = layout.take(((vectors if direct else 0) + widest + 1) * 8)
    values["pieces_at"] = layout.take((vectors + tile.images * tile.rows if direct else widest) * 16)
    values["zeros_at"] = layout.take(values["zeros_count"] * item)
    values["ones_at"] = layout.take(values["ones_count"] * item)
    if panel is not None:
        together = panel["panel_cols"] * panel["panel_together"] * isa.vector_bytes
        values["panels_at"] = layout.take(panel["panel_taps"] * together)
        values["sums_at"] = layout.take(run * together if direct else 0)
    values["share_words"] = layout.end // 8
    return Plan(_fill(values), tables, shares, 0, shares * layout.end // 8 + 8)


def _pixelwise(g: Geometry) -> bool:
    """A 1x1 kernel that touches every pixel once."""
    return (g.R, g.S, g.stride, g.pad, g.P, g.Q) == (1, 1, (1, 1), (0, 0), g.H, g.W)


def flattened(g: Geometry) -> Geometry:
    """The same map in one row, where that is possible."""
    return g._replace(H=1, W=g.H * g.W, P=1, Q=g.P * g.Q, dilation=(1, 1)) if _pixelwise(g) else g


def sampled(g: Geometry) -> bool:
    """A strided 1x1 kernel that touches pixels of x alone, and not all of them."""
    inside = (g.P - 1) * g.stride[0] < g.H and (g.Q - 1) * g.stride[1] < g.W
    return (g.R, g.S, g.pad) == (1, 1, (0, 0)) and g.stride != (1, 1) and inside


def samples(g: Geometry) -> Geometry:
    """The same map on those pixels."""
    return g._replace(H=g.P, W=g.Q, stride=(1, 1))


def _in_place(g: Geometry, lanes: int) -> bool:
    """Positions lie in the source as panels need them, in rows long enough to be cut image by image."""
    return _pixelwise(g) and g.H == 1 and (g.N == 1 or 6 * lanes <= g.Q)


def _panels(run: int, vectors: int, taps: int, depth: int, isa: Isa) -> dict[str, int]:
    """The shape of panels for which a tile takes the fewest cycles: multiply-adds, loads, and latency of few sums."""
    best, cols = float("inf"), 1
    most = panel_rows(isa)
    for each, rows in enumerate(most, 1):
        row_blocks, col_blocks = -(-run // rows), -(-vectors // each)
        r, v = run / row_blocks, vectors / col_blocks
        step = max(4.0, 0.5 * r * v, 0.5 * (r + v))
        cost = row_blocks * col_blocks * ((step + 0.2) * depth + 30)
        if cost < best:
            best, cols = cost, each
    depth = min(taps, _PANEL_TAPS)
    row_bytes = run * cols * isa.vector_bytes
    return {
        "panel_cols": cols,
        "panel_taps": depth,
        "panel_together": max(1, min(_PANELS_TOGETHER, _SUMS_BYTES // row_bytes, -(-vectors // cols))),
        "panel_rows": most[cols - 1],
        "panel_most": max(most),
    }


@functools.lru_cache(maxsize=512)
def gradient_plan(g: Geometry, item: int, threads: int, isa: Isa) -> Plan:
    """The plan of backward_weight."""
    lanes = isa.vector_bytes // item
    h = _axis(g.H, g.P, g.R, g.stride[0], g.pad[0], g.dilation[0], False)
    w = _axis(g.W, g.Q, g.S, g.stride[1], g.pad[1], g.dilation[1], False)
    channels, outputs = g.C // g.groups, g.K // g.groups
    window = g.R * g.S
    phases = len(h.phases) * len(w.phases)
    # a block of source channels, enough to pay for packing the gradient again for each
    block_channels = min(channels, max(16, -(-256 // window)))
    block_channels = -(-channels // -(-channels // block_channels))
    run = min(outputs, 64)
    shares = max(1, threads)
    split = BY_GROUPS
    if shares > 1 and g.groups < shares:
        split = BY_CHANNELS if outputs >= 4 * shares else BY_TILES
    position_bytes = (block_channels * phases + min(run, 16)) * item
    tile = _choose_tile(g, h, w, position_bytes, lanes, 1, shares if split == BY_TILES else 1)
    values, tables = _common(g, h, w, tile, lanes, item)
    if split == BY_TILES:
        shares = min(shares, values["tiles"])
    elif split == BY_CHANNELS:
        run = min(run, -(-outputs // shares))

    vectors = _vectors(tile, h, w, lanes)
    chunk = min(vectors, _CHUNK_BYTES // isa.vector_bytes)
    chunk = -(-vectors // -(-vectors // chunk))
    k_least = outputs // shares if split == BY_CHANNELS else outputs
    k_most = -(-outputs // shares) if split == BY_CHANNELS else outputs
    columns = _Columns(block_channels * phases * chunk * isa.vector_bytes, window)
    shape, cost = _choose_block(block_shapes(isa), k_least, channels * window, chunk, 4.0, columns)
    cost *= -(-vectors // chunk) * values["tiles"]

    # or output channels in the lanes, where one tile holds all positions
    lane_shape, lane_cols, lane_rows, position_bytes = 0, 0, 0, 0
    flat = vectors * lanes
    if values["tiles"] == 1:
        c_least = channels - (-(-channels // block_channels) - 1) * block_channels
        k_vectors = -(-k_most // lanes)
        lane_shape, lane_cost = _choose_block(
            channel_shapes(isa), c_least, k_vectors, flat, 2.0, _Columns(flat * isa.vector_bytes)
        )
        lane_cost *= window * channels / c_least
        if lane_cost + channels * window * k_most / 2 < cost:
            lane_rows, lane_cols = channel_shapes(isa)[lane_shape]
            position_bytes = _up(k_vectors, lane_cols) * isa.vector_bytes
            position_bytes += (
                64 if position_bytes % 128 == 0 else 0
            )  # an even number of lines apart meet in few cache sets
    rows, cols = block_shapes(isa)[shape]
    highest, widest = max(rows, GUARDED_SHAPE[0]), max(cols, GUARDED_SHAPE[1])
    values |= {
        "source_channels": channels,
        "target_channels": outputs,
        "shape": shape,
        "block_rows": rows,
        "block_cols": cols,
        "guarded_shape": len(block_shapes(isa)),
        "guarded_rows": GUARDED_SHAPE[0],
        "guarded_cols": GUARDED_SHAPE[1],
        "run_channels": run,
        "block_channels": block_channels,
        "chunk": chunk,
        "lane_shape": lane_shape,
        "lane_rows": lane_rows,
        "lane_cols": lane_cols,
        "position_bytes": position_bytes,
        "zeros_count": lane_rows,
        "grad_bytes": vectors * isa.vector_bytes + (64 if vectors * isa.vector_bytes % 4096 == 0 else 0),
        "ones_count": values["pitch"],
        "shares": shares,
        "split": split,
    }
    layout = _Layout()
    slack = 2 * isa.vector_bytes + (h.span * values["pitch"] + w.span) * item
    layout.take(block_channels * values["channel_bytes"] + slack)
    excess = w.span * item + 2 * isa.vector_bytes  # a row is written to its full pitch, and in whole vectors
    rows_of_grad = (run + highest) * values["grad_bytes"] + excess
    values["grads_at"] = layout.take(max(rows_of_grad, (flat + 1) * position_bytes))
    values["guard_at"] = layout.take(vectors * isa.vector_bytes + excess)
    values["taps_at"] = layout.take((block_channels * window + widest) * 8)
    values["guards_at"] = layout.take(flat * 8 if lane_cols else 0)
    values["targets_at"] = layout.take(block_channels * window * position_bytes)
    values["segments_at"] = layout.take((lane_cols + 1) * 8)
    values["pieces_at"] = layout.take(lane_cols * 16)
    values["zeros_at"] = layout.take(lane_rows * item)
    values["ones_at"] = layout.take(values["ones_count"] * item)
    values["share_words"] = layout.end // 8
    return Plan(_fill(values), tables, shares, split, shares * layout.end // 8 + 8)
