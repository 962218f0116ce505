"""backward_input to few channels as one matrix product, whose results are added to x.

::

    sums[m][pixel] = sum over k of  w[k][m] * y[k][pixel]        m = (channel, kernel row, kernel column)
    x[c][p * stride_h + r * dilation_h - pad_h][q * stride_w + ...] += sums[(c, r, s)][(p, q)]

The method is told in ``csrc/direct_columns.h``: blocks of pixels whose sums stay in level 2; w and y are read where
they are; the first register tile of a panel keeps the pixels that it reads for the tiles of the other rows. Slabs of
work are cut in x, so that no two shares add to the same element.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic

from . import vector
from .columns_plan import DEPTH, RECORD, TILE_ROWS, TILE_VECTORS
from .depthwise_plane_kernels import ask_for
from .flags import STRICT
from .vector import Emit, address, addresses, call_apart, flush_denormals, lanes, restore_mode, void

_AHEAD = 2  # panels
_LINE = 64
_FIRST = 16  # added to a tile's number: it keeps what it reads


def _tile(rows: int, first: bool, e: Emit, args: Sequence[Any]) -> None:
    y, y_step, w, w_step, depth, panel, again, out, out_step = args
    builder, cols = e.builder, TILE_VECTORS[vector.target.registers]
    wide = cols * e.vector_bytes
    sums = e.variables(rows * cols)
    with e.loop(depth) as k:
        at = builder.add(y, builder.mul(k, y_step))
        if first:
            for line in range(0, wide, _LINE):
                ask_for(e, e.plus(at, _AHEAD * wide + line), 0)
        held = [e.load(e.plus(at, v * e.vector_bytes)) for v in range(cols)]
        weights = builder.add(w, builder.mul(k, w_step))
        for i in range(rows):
            weight = e.broadcast(e.plus(weights, i * e.element_bytes))
            for v in range(cols):
                slot = sums[i * cols + v]
                builder.store(e.fma(weight, held[v], builder.load(slot)), slot)
        if first:
            keep = builder.add(panel, e.times(k, wide))
            for v in range(cols):
                e.store(held[v], e.plus(keep, v * e.vector_bytes))
    places, row = [], out
    for _ in range(rows):
        places += [e.plus(row, v * e.vector_bytes) for v in range(cols)]
        row = builder.add(row, out_step)
    with builder.if_then(builder.icmp_signed("!=", again, e.const(0))):
        for slot, place in zip(sums, places, strict=True):
            builder.store(builder.fadd(builder.load(slot), e.load(place)), slot)
    for slot, place in zip(sums, places, strict=True):
        e.store(builder.load(slot), place)


@intrinsic
def columns_tile(
    typingctx: Any,
    like: Any,
    number: Any,
    y: Any,
    y_step: Any,
    w: Any,
    w_step: Any,
    depth: Any,
    panel: Any,
    again: Any,
    out: Any,
    out_step: Any,
) -> Any:
    """out[i][pixel] = sum over k < depth of w[k][i] * y[k][pixel] for the rows i and the pixels of a register tile.

    With `again`, added to what is in `out`. `number` is that of rows; _FIRST more, and `panel` gets a copy of the
    pixels, side by side. Steps in bytes.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        def case(rows: int, first: bool) -> Callable[[], None]:
            name = f"columns_tile.{rows}{'.first' * first}"
            return lambda: call_apart(e, name, functools.partial(_tile, rows, first), args[1:])

        most = TILE_ROWS[vector.target.registers]
        both = [(rows, first) for rows in range(1, most + 1) for first in (False, True)]
        e.cases(args[0], {rows + _FIRST * first: case(rows, first) for rows, first in both}, lambda: None)

    return addresses(like, 10), void(body)


def _zipped(e: Emit, vectors: Sequence[Any]) -> list[Any]:
    """What the vectors, 1, 2 or 4, hold at each place side by side."""
    if len(vectors) == 1:
        return list(vectors)
    half = len(vectors) // 2
    even, odd = _zipped(e, vectors[::2]), _zipped(e, vectors[1::2])
    pairs = [lane for number in range(e.lanes) for lane in (number, e.lanes + number)]
    both = zip(even[:half], odd[:half], strict=True)
    return [e.shuffle(a, b, pairs[low : low + e.lanes]) for a, b in both for low in (0, e.lanes)]


@intrinsic
def add_taps(typingctx: Any, like: Any, unit: Any, sums: Any, row: Any, taps: Any, count: Any, hop: Any, x: Any) -> Any:
    """x[j * hop + t] += sums[t][j] for t < unit, j < count, a whole number of vectors; rows from `taps` on as zeros.

    `unit` is 1, the hop where that is 2 or 4, or the lanes where the hop is not less; `row` in bytes.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        unit, sums, row, taps, count, hop, x = args
        builder = e.builder
        blocks = builder.sdiv(count, e.const(e.lanes))
        hop_bytes = e.times(hop, e.element_bytes)

        def add(place: Any, value: Any) -> None:
            e.store(builder.fadd(e.load(place), value), place)

        def rows_at(number: Any, wanted: int) -> list[Any]:
            place, found = builder.add(sums, e.times(number, e.vector_bytes)), []
            for t in range(wanted):
                there = builder.icmp_signed("<", e.const(t), taps)
                found.append(builder.select(there, e.load(place), e.zero()))
                place = builder.add(place, row)
            return found

        def together(parts: int) -> None:
            with e.loop(blocks) as number:
                to = builder.add(x, e.times(number, parts * e.vector_bytes))
                for part, value in enumerate(_zipped(e, rows_at(number, parts))):
                    add(e.plus(to, part * e.vector_bytes), value)

        def turned() -> None:
            with e.loop(blocks) as number:
                to = builder.add(x, builder.mul(e.times(number, e.lanes), hop_bytes))
                for value in e.transposed(rows_at(number, e.lanes)):
                    add(to, value)
                    to = builder.add(to, hop_bytes)

        def apart() -> None:
            with e.loop(blocks) as number:
                place = builder.add(sums, e.times(number, e.vector_bytes))
                to = builder.add(x, builder.mul(e.times(number, e.lanes), hop_bytes))
                for first in range(0, e.lanes, 4):  # four loads before their stores, as LLVM cannot tell them apart
                    slots, totals = [], []
                    for lane in range(first, min(first + 4, e.lanes)):
                        slots.append(e.element_at(to))
                        value = builder.load(e.element_at(e.plus(place, lane * e.element_bytes)))
                        totals.append(builder.fadd(builder.load(slots[-1]), value))
                        to = builder.add(to, hop_bytes)
                    for total, slot in zip(totals, slots, strict=True):
                        builder.store(total, slot)

        def one() -> None:
            with builder.if_else(builder.icmp_signed("==", hop, e.const(1))) as (then, otherwise):
                with then:
                    together(1)
                with otherwise:
                    apart()

        def pairs_or_turned(parts: int) -> None:
            with builder.if_else(builder.icmp_signed("==", hop, e.const(parts))) as (then, otherwise):
                with then:
                    together(parts)
                with otherwise:
                    turned()

        bodies: dict[int, Callable[[], None]] = {parts: functools.partial(together, parts) for parts in (2, 4)}
        if e.lanes in bodies:
            bodies[e.lanes] = functools.partial(pairs_or_turned, e.lanes)
        else:
            bodies[e.lanes] = turned
        e.cases(unit, bodies, one)

    return addresses(like, 7), void(lambda e, args: call_apart(e, "add_taps", body, args))


def columns_product(like: Any, w: int, y: int, pixels: int, panel: int, sums: int, p: Any) -> None:
    """The product for `pixels` pixels of the planes at y, whole panels of them."""
    item = like.itemsize
    parts = (p.rows + p.tile_rows - 1) // p.tile_rows
    less, longer = p.rows // parts, p.rows % parts
    plane, row = p.P * p.Q * item, p.rows * item
    for k in range(0, p.outputs, DEPTH):
        depth = min(DEPTH, p.outputs - k)
        for i in range(0, pixels, p.tile):
            at, step, weights, out, first = y + k * plane + i * item, plane, w + k * row, sums + i * item, _FIRST
            for part in range(parts):
                rows = less + (1 if part < longer else 0)
                columns_tile(like, rows + first, at, step, weights, row, depth, panel, k, out, p.sums_row * item)
                at, step, first = panel, p.tile * item, 0
                weights += rows * item
                out += rows * p.sums_row * item


def add_edge(x: Any, row: int, v0: int, v1: int, scratch: Any, sums: int, first: int, end: int, p: Any) -> None:
    """Those of pixels first .. end that lie in v0 .. v1 of the row of x; `sums` and `row` are places in the arrays."""
    for j in range(first, end):
        v = j * p.stride_w - p.pad_w
        for s in range(p.S):
            if v0 <= v < v1:
                x[row + v] += scratch[sums + s * p.sums_row + j]
            v += p.dilation_w


def add_row(x: Any, plane: int, slab: Any, line: int, pixels: Any, scratch: Any, sums: int, p: Any) -> None:
    """Pixels first .. end of row `line` of y to the slab; `sums`: of pixel 0, in the first row of the product."""
    h0, h1, v0, v1 = slab
    first, end = pixels
    item, count, hop = x.itemsize, lanes(x), p.stride_w
    reach = (p.S + p.unit - 1) // p.unit * p.unit * p.dilation_w
    room = v1 + p.pad_w - reach
    low = first
    if v0 + p.pad_w > 0:
        low = min(max((v0 + p.pad_w + hop - 1) // hop, first), end)
    high = low
    if room >= 0:
        high += (min(max(room // hop + 1, low), end) - low) // count * count
    for c in range(p.channels):
        for r in range(p.R):
            h = line * p.stride_h + r * p.dilation_h - p.pad_h
            if h0 <= h < h1:
                row = plane + (c * p.H + h) * p.W
                add_edge(x, row, v0, v1, scratch, sums, first, low, p)
                if low < high:
                    at = address(x) + (row + low * hop - p.pad_w) * item
                    place = address(scratch) + (sums + low) * item
                    for s in range(0, p.S, p.unit):
                        add_taps(
                            x,
                            p.unit,
                            place + s * p.sums_row * item,
                            p.sums_row * item,
                            p.S - s,
                            high - low,
                            hop,
                            at + s * p.dilation_w * item,
                        )
                add_edge(x, row, v0, v1, scratch, sums, high, end, p)
            sums += p.S * p.sums_row


def first_that_reaches(x: int, stride: int, pad: int, reach: int, count: int) -> int:
    """The first position of y, of `count` along an axis, that reaches x, or `count`."""
    far = x + pad - reach
    return min((far + stride - 1) // stride, count) if far > 0 else 0


def _columns() -> Callable[..., int]:
    def columns(x: Any, w: Any, y: Any, scratch: Any, plan: Any, flags: int, share: int) -> int:
        """One share of backward_input, the arrays flat; returns 0."""
        p = plan[0]
        mode = flush_denormals() if not flags & STRICT else 0
        item = x.itemsize
        own = (-address(scratch)) % 64 // item + share * p.own
        panel, sums = address(scratch) + own * item, own + p.panel
        plane = p.P * p.Q
        for number in range(p.items * share // p.shares, p.items * (share + 1) // p.shares):
            part, unit = number % p.slabs, number // p.slabs  # unit: image, group
            weights = address(w) + unit % p.groups * p.outputs * p.rows * item
            source = address(y) + unit * p.outputs * plane * item
            to = unit * p.channels * p.H * p.W
            h0, h1, v0, v1 = 0, p.H, 0, p.W
            if p.P == 1:
                v0, v1 = p.W * part // p.slabs, p.W * (part + 1) // p.slabs
                first = first_that_reaches(v0, p.stride_w, p.pad_w, (p.S - 1) * p.dilation_w, p.Q)
                last = first_that_reaches(v1, p.stride_w, p.pad_w, 0, p.Q)
            else:
                h0, h1 = p.H * part // p.slabs, p.H * (part + 1) // p.slabs
                first = first_that_reaches(h0, p.stride_h, p.pad_h, (p.R - 1) * p.dilation_h, p.P) * p.Q
                last = first_that_reaches(h1, p.stride_h, p.pad_h, 0, p.P) * p.Q
            for c in range(p.channels):
                for h in range(h0, h1):
                    row = to + (c * p.H + h) * p.W
                    for v in range(row + v0, row + v1):
                        x[v] = 0
            done = first
            while done < last:
                now = min(p.block, last - done)
                pixels = (now + p.tile - 1) // p.tile * p.tile
                begin = min(done, plane - pixels)
                out = address(scratch) + sums * item
                columns_product(x, weights, source + begin * item, pixels, panel, out, p)
                at = done
                while at < done + now:
                    line = at // p.Q
                    end = min((line + 1) * p.Q, done + now)
                    some = (at - line * p.Q, end - line * p.Q)
                    add_row(x, to, (h0, h1, v0, v1), line, some, scratch, sums + line * p.Q - begin, p)
                    at = end
                done += now
        if not flags & STRICT:
            restore_mode(mode)
        return 0

    return columns


def _signature(element: Any) -> Any:
    read, write = types.Array(element, 1, "C", readonly=True), types.Array(element, 1, "C")
    record = types.Array(numba.from_dtype(RECORD), 1, "C")
    return types.int64(write, read, read, write, record, types.int64, types.int64)


BUILDERS: dict[str, Callable[[], Callable[..., int]]] = {"columns": _columns}
SIGNATURES: dict[str, Callable[[Any], Any]] = {"columns": _signature}
HELPERS = ("columns_product", "add_edge", "add_row", "first_that_reaches")  # callees first
