"""Depthwise convolution: one input channel a group.

::

    to[p][q] = sum over sources i, kernel rows r, taps s of
               w[r][i, s] * from_i[p * stride + r * step][column(i, s) + q]

The method is told in ``csrc/depthwise.h``, ``depthwise_row.h`` and ``depthwise_row_weight.h``. A plane, or a block of
its rows, is packed padded, its column phases apart; then tiles of some rows of one vector go over it: an input row lies
under several kernel rows, so a tile holds the weights of a kernel column and loads each of its input vectors once for
all of them. Rows end in a vector that overlaps, and planes in rows that do, so that stores are whole. One kernel row
(`depthwise_rows`, `depthwise_row_weights`) is not packed: rows are read where they are, but for the outputs near their
ends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import vector
from .depthwise_plan import KERNEL_ROWS, RECORD, ROW_ENDS, ROW_SPAN, ROW_TAPS, TILE_ROWS
from .flags import STRICT
from .vector import (
    Emit,
    address,
    addresses,
    call_apart,
    fill_with,
    flush_denormals,
    gather_rows,
    lanes,
    restore_mode,
    spread_rows,
    void,
)

# kernel rows, stride, rows of the tile
_TILES = [
    (R, stride, rows)
    for stride in (1, 2)
    for R in range(1, KERNEL_ROWS + 1)
    for rows in TILE_ROWS
    if (stride == 1 or (R % 2 and R > 1)) and (rows != 7 or R % 2)
]


def _number(R: int, stride: int, rows: int) -> int:
    return R * 100 + stride * 10 + rows


def _tile(R: int, stride: int, rows: int, e: Emit, args: Sequence[Any]) -> None:
    x, x_row, columns, taps, w, y, y_row, cols, bias = args
    builder = e.builder
    sums = e.variables(rows)
    start = e.broadcast(bias)
    short = builder.icmp_signed("<", cols, e.const(e.lanes))
    mask = e.between(e.const(0), 1, e.const(0), cols)
    last = e.plus(cols, -e.lanes)
    vectors = builder.sdiv(e.plus(cols, e.lanes - 1), e.const(e.lanes))
    weight_row = e.times(taps, e.element_bytes)
    with e.loop(vectors) as number:
        at = e.larger(e.smaller(e.times(number, e.lanes), last), e.const(0))
        here = e.times(at, e.element_bytes)
        for slot in sums:
            builder.store(start, slot)
        with e.loop(taps) as t:
            place = builder.add(w, e.times(t, e.element_bytes))
            weights = []
            for _ in range(R):
                weights.append(e.broadcast(place))
                place = builder.add(place, weight_row)
            place = builder.add(builder.add(x, here), e.word(builder.add(columns, e.times(t, 8))))
            for i in range((rows - 1) * stride + R):
                pixels = e.load(place)
                place = builder.add(place, x_row)
                for r in range(R):
                    if i >= r and (i - r) % stride == 0 and (i - r) // stride < rows:
                        slot = sums[(i - r) // stride]
                        builder.store(e.fma(weights[r], pixels, builder.load(slot)), slot)
        with builder.if_else(short) as (then, otherwise):
            for branch, whole in ((then, False), (otherwise, True)):
                with branch:
                    place = builder.add(y, here)
                    for slot in sums:
                        if whole:
                            e.store(builder.load(slot), place)
                        else:
                            e.store_masked(builder.load(slot), place, mask)
                        place = builder.add(place, y_row)


@intrinsic
def row_tile(
    typingctx: Any,
    like: Any,
    number: Any,
    x: Any,
    x_row: Any,
    columns: Any,
    taps: Any,
    w: Any,
    y: Any,
    y_row: Any,
    cols: Any,
    bias: Any,
) -> Any:
    """Tile `number` = R * 100 + stride * 10 + rows over `cols` columns::

        y[i][q] = bias + sum over r, t of w[r][t] * x[i * stride + r][columns[t] + q]

    x_row, y_row and what is at `columns` (int64) in bytes; w has R rows of `taps`.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        def case(R: int, stride: int, rows: int) -> Callable[[], None]:
            name = f"row_tile.{R}.{stride}.{rows}"
            return lambda: call_apart(e, name, functools.partial(_tile, R, stride, rows), args[1:])

        e.cases(args[0], {_number(*tile): case(*tile) for tile in _TILES}, lambda: None)

    return addresses(like, 10), void(body)


def tile_of(R: int, rows: int) -> int:
    """Rows of the tiles that `rows` are cut into: least work, some 2 rows' worth a tile besides."""
    best, least = 1, 3 * rows
    for size in TILE_ROWS:
        cost = (rows + size - 1) // size * (size + 2)
        if size <= rows and (size != 7 or R % 2 == 1) and cost < least:
            best, least = size, cost
    return best


def pack(like: Any, source: int, box: int, row_from: int, column_from: int, rows: int, p: Any) -> None:
    """`rows` rows of the sources from the grid's row and column on, their column phases apart, zeros around them."""
    item = like.itemsize
    top = row_from * p.stride_h - p.pad_h
    first = min(max(-top, 0), rows)
    last = max(first, min(p.from_h - top, rows))
    for i in range(p.sources):
        for phase in range(p.phases_w):
            left = column_from * p.stride_w + phase * p.step_w % p.stride_w - p.pad_w
            low = min(max(-(left // p.stride_w), 0), p.pitch)
            high = max(low, min(-((left - p.from_w) // p.stride_w), p.pitch))
            place = box + (i * p.phases_w + phase) * p.plane_bytes
            begin = source + ((i * p.from_h + top + first) * p.from_w + left) * item
            if first > 0:
                fill_with(like, place, 0, first * p.pitch)
            gather_rows(
                like,
                place + first * p.row_bytes,
                p.row_bytes,
                begin,
                p.from_w * item,
                last - first,
                low,
                high,
                p.pitch,
                p.stride_w,
            )
            fill_with(like, place + last * p.row_bytes, 0, (rows - last) * p.pitch + lanes(like))


def _depthwise() -> Callable[..., int]:
    def depthwise(
        source: Any, weights: Any, target: Any, bias: Any, scratch: Any, plan: Any, flags: int, share: int
    ) -> int:
        """One share of forward (source x, target y) or backward_input (source y, target x).

        weights: for each output R rows of the taps of all sources. bias: a number for each output, or a single zero.
        backward_input of stride 2: by phases; the kernel rows of a phase, then its columns, from the last to the first.
        """
        p = plan[0]
        mode = flush_denormals() if not flags & STRICT else 0
        item = source.itemsize
        word = (((address(scratch) + 63) // 64 * 64) - address(scratch)) // 8 + share * p.worker_words
        columns = address(scratch) + word * 8
        box, phases = columns + p.box_at, columns + p.phases_at
        taps = p.sources * p.S
        for i in range(p.sources):
            for s in range(p.S):
                plane = (i * p.phases_w + s % p.phases_w) * p.plane_bytes
                scratch[word + i * p.S + s] = plane + s * p.step_w // p.stride_w * item
        from_plane, to_plane = p.from_h * p.from_w, target.shape[2] * target.shape[3]
        to_width = target.shape[3]
        step = bias.size > 1
        for number in range(p.items * share // p.shares, p.items * (share + 1) // p.shares):
            j0 = number % p.blocks_w * p.block_cols
            cols = min(p.block_cols, p.cols - j0)
            i0 = number // p.blocks_w % p.blocks_h * p.block_rows
            rows = min(p.block_rows, p.rows - i0)
            plane = number // p.blocks_w // p.blocks_h
            channel = plane % p.groups
            begin = address(source) + plane * p.sources * from_plane * item
            packed_rows = (rows - 1) * p.stride_h + (p.R - 1) * p.step_h + 1
            if p.strided:
                packed_rows = rows + (p.R - 1) // 2
            pack(source, begin, box, i0, j0, packed_rows, p)
            if p.strided:
                w = address(weights) + channel * p.R * p.S * item
                halo_h, halo_w = (p.R - 1) // 2, (p.S - 1) // 2
                for a in range(2):
                    down = (p.R - a + 1) // 2
                    size = tile_of(down, rows)
                    for b in range(2):
                        across = (p.S - b + 1) // 2
                        x = box + (halo_h + 1 - down) * p.row_bytes + (halo_w + 1 - across) * item
                        for i in range(0, rows, size):
                            row = min(i, rows - size)
                            row_tile(
                                source,
                                down * 100 + 10 + size,
                                x + row * p.row_bytes,
                                p.row_bytes,
                                columns,
                                across,
                                w,
                                phases + b * p.phase_bytes + row * p.phase_row,
                                p.phase_row,
                                p.phase_row // item,
                                address(bias),
                            )
                        w += down * across * item
                    # row i, column c * 2 + b of x: the rows and columns that lie in x
                    h0, v0 = 2 * (i0 + p.origin_h) + a - p.x_pad_h, 2 * p.origin_w - p.x_pad_w
                    first = max(0, (1 - h0) // 2)
                    last = max(first, min(rows, (p.x_h - h0 + 1) // 2))
                    spread_rows(
                        source,
                        address(target) + (plane * to_plane + (h0 + 2 * first) * to_width + v0) * item,
                        2 * to_width * item,
                        phases + first * p.phase_row,
                        p.phase_row,
                        p.phase_bytes,
                        last - first,
                        max(0, -v0),
                        min(p.x_w - v0, 2 * p.cols),
                        p.cols,
                        2,
                    )
                continue
            for o in range(p.outputs):
                k = channel * p.outputs + o
                to = address(target) + ((plane * p.outputs + o) * to_plane + i0 * to_width + j0) * item
                for first in range(min(p.step_h, rows)):  # rows step_h apart share their input
                    some = (rows - first + p.step_h - 1) // p.step_h
                    size = tile_of(p.R, some)
                    for i in range(0, some, size):
                        row = min(i, some - size)
                        row_tile(
                            source,
                            p.R * 100 + p.stride_h * 10 + size,
                            box + (first + row * p.step_h * p.stride_h) * p.row_bytes,
                            p.step_h * p.row_bytes,
                            columns,
                            taps,
                            address(weights) + k * p.R * taps * item,
                            to + (first + row * p.step_h) * to_width * item,
                            p.step_h * to_width * item,
                            cols,
                            address(bias) + (k * item if step else 0),
                        )
        if not flags & STRICT:
            restore_mode(mode)
        return 0

    return depthwise


# ---- one kernel row


_VECTORS = 8  # of outputs in registers over all taps


def _deep(registers: int) -> int:
    """Taps, a vector's length apart, whose weights are in registers too."""
    return 8 if registers >= 32 else 4


def _filter(deep: int, e: Emit, args: Sequence[Any]) -> None:
    x, w, count, out, add = args
    builder = e.builder
    sums = e.variables(_VECTORS)
    with e.loop(count) as b:
        here = e.times(b, e.element_bytes)
        place, weight = builder.add(x, here), builder.add(w, here)
        weights = [e.broadcast(e.plus(weight, a * e.vector_bytes)) for a in range(deep)]
        for u in range(_VECTORS + deep - 1):
            pixels = e.load(e.plus(place, u * e.vector_bytes))
            for a in range(deep):
                if 0 <= u - a < _VECTORS:
                    builder.store(e.fma(weights[a], pixels, builder.load(sums[u - a])), sums[u - a])
    with builder.if_then(builder.icmp_signed("!=", add, e.const(0))):
        for v, slot in enumerate(sums):
            builder.store(builder.fadd(builder.load(slot), e.load(e.plus(out, v * e.vector_bytes))), slot)
    for v, slot in enumerate(sums):
        e.store(builder.load(slot), e.plus(out, v * e.vector_bytes))


@intrinsic
def filter_taps(typingctx: Any, like: Any, deep: Any, x: Any, w: Any, count: Any, out: Any, add: Any) -> Any:
    """Eight vectors of outputs under `deep` taps at a time, a vector's length apart::

        out[v] (`add`: +)= sum over b < count, a < deep of w[b + a * L] * x[b + (v + a) * L ...]

    Such taps read the same vectors one further on, so deep + 7 loads serve deep * 8 multiply-adds.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        def case(deep: int) -> Callable[[], None]:
            return lambda: call_apart(e, f"filter.{deep}", functools.partial(_filter, deep), args[1:])

        e.cases(args[0], {deep: case(deep) for deep in range(1, _deep(vector.target.registers) + 1)}, lambda: None)

    return addresses(like, 6), void(body)


@intrinsic
def most_taps(typingctx: Any, like: Any) -> Any:
    """The largest `deep` of :func:`filter_taps`: a constant of the compiled code."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
        return ir.Constant(vector.I64, _deep(vector.target.registers))

    return types.intp(like), codegen


def _taps(many: int, e: Emit, args: Sequence[Any]) -> None:
    x, step, w, taps, cols, bias, y = args
    builder = e.builder
    start = e.broadcast(bias)
    sums = e.variables(many, lambda _: start)
    with e.loop(taps) as t:
        weight = e.broadcast(builder.add(w, e.times(t, e.element_bytes)))
        place = builder.add(x, builder.mul(t, step))
        for v, slot in enumerate(sums):
            pixels = e.load(e.plus(place, v * e.vector_bytes))
            builder.store(e.fma(weight, pixels, builder.load(slot)), slot)
    if many > 1:
        for v, slot in enumerate(sums):
            e.store(builder.load(slot), e.plus(y, v * e.vector_bytes))
        return
    with builder.if_else(builder.icmp_signed("<", cols, e.const(e.lanes))) as (then, otherwise):
        with then:
            e.store_masked(builder.load(sums[0]), y, e.between(e.const(0), 1, e.const(0), cols))
        with otherwise:
            e.store(builder.load(sums[0]), y)


@intrinsic
def plain_taps(
    typingctx: Any, like: Any, many: Any, x: Any, step: Any, w: Any, taps: Any, cols: Any, bias: Any, y: Any
) -> Any:
    """y[q] = bias + sum over t of w[t] * x[t * step + q] for eight vectors of q (`many`: 1), or one of `cols` (0)."""

    def body(e: Emit, args: Sequence[Any]) -> None:
        def case(many: int) -> Callable[[], None]:
            return lambda: call_apart(e, f"taps.{many}", functools.partial(_taps, many), args[1:])

        e.cases(args[0], {1: case(_VECTORS)}, case(1))

    return addresses(like, 8), void(body)


@intrinsic
def copy_biased(typingctx: Any, like: Any, out: Any, source: Any, bias: Any) -> Any:
    """out = source + bias[0], eight vectors."""

    def body(e: Emit, args: Sequence[Any]) -> None:
        out, source, bias = args
        added = e.broadcast(bias)
        for v in range(_VECTORS):
            value = e.load(e.plus(source, v * e.vector_bytes))
            e.store(e.builder.fadd(value, added), e.plus(out, v * e.vector_bytes))

    return addresses(like, 3), void(body)


def span(like: Any, x: int, w: int, cols: int, bias: int, y: int, sums: int, p: Any) -> None:
    """`cols` outputs whose pixels are all there; fewer than a vector's only where a whole vector may be read."""
    item, count = like.itemsize, lanes(like)
    many, most = 8 * count, most_taps(like)
    q = 0
    while q < cols:
        left = cols - q
        if left >= many or (cols >= many and left > many // 4):
            at = min(q, cols - many)
            if count <= p.S and p.dilation == 1:
                for s in range(0, p.S, most * count):
                    now = min(p.S - s, most * count)
                    deep = (now + count - 1) // count
                    full = now - (deep - 1) * count
                    place = x + (at + s) * item
                    filter_taps(like, deep, place, w + s * item, full, sums, 1 if s > 0 else 0)
                    if full < count and deep > 1:
                        filter_taps(like, deep - 1, place + full * item, w + (s + full) * item, count - full, sums, 1)
                copy_biased(like, y + at * item, sums, bias)
            else:
                plain_taps(like, 1, x + at * item, p.dilation * item, w, p.S, many, bias, y + at * item)
            q += many
        else:
            at = max(0, min(q, cols - count))
            plain_taps(like, 0, x + at * item, p.dilation * item, w, p.S, cols - at, bias, y + at * item)
            q += count


def _depthwise_rows() -> Callable[..., int]:
    def depthwise_rows(
        source: Any, weights: Any, target: Any, bias: Any, scratch: Any, plan: Any, flags: int, share: int
    ) -> int:
        """One share of forward (source x, target y) or backward_input (source y, target x; weights turned round)."""
        p = plan[0]
        mode = flush_denormals() if not flags & STRICT else 0
        item, count = source.itemsize, lanes(source)
        base = (address(scratch) + 63) // 64 * 64 + share * p.worker_words * 8
        ends, sums = base + p.box_at, base + p.phases_at
        step = bias.size > 1
        for number in range(p.items * share // p.shares, p.items * (share + 1) // p.shares):
            first = number % p.blocks_w * p.block_cols
            end = min(p.cols, first + p.block_cols)
            row = number // p.blocks_w % p.rows
            plane = number // p.blocks_w // p.rows
            k = plane % (p.groups * p.outputs)
            x = address(source) + (plane // p.outputs * p.rows + row) * p.from_w * item
            y = address(target) + (plane * p.rows + row) * p.cols * item
            w = address(weights) + k * p.S * item
            own_bias = address(bias) + (k * item if step else 0)
            # outputs low .. high have all their pixels inside the row
            low = max(first, min(p.pad_w, end))
            high = max(low, min(p.from_w + p.pad_w - p.reach, end))
            if high - low < count:
                low, high = end, end
            q = first
            while q < end:
                if q == low and low < high:
                    span(source, x + (q - p.pad_w) * item, w, high - low, own_bias, y + q * item, sums, p)
                    q = high
                    continue
                some = min((low if q < low else end) - q, ROW_ENDS)
                left = q - p.pad_w
                width = max(some, count) + p.reach
                begin, stop = min(max(-left, 0), width), max(0, min(p.from_w - left, width))
                gather_rows(source, ends, 0, x + left * item, 0, 1, begin, max(begin, stop), width, 1)
                span(source, ends, w, some, own_bias, y + q * item, sums, p)
                q += some
        if not flags & STRICT:
            restore_mode(mode)
        return 0

    return depthwise_rows


# ---- one kernel row, backward_weight


def _products(taps: int, e: Emit, args: Sequence[Any]) -> None:
    x, step, y, count, sums = args
    builder = e.builder
    even, odd = e.variables(taps), e.variables(taps)
    places = [x]
    for _ in range(taps - 1):
        places.append(builder.add(places[-1], step))
    pairs = builder.sdiv(count, e.const(2 * e.lanes))
    with e.loop(pairs) as number:
        here = e.times(number, 2 * e.vector_bytes)
        first = e.load(builder.add(y, here))
        second = e.load(e.plus(builder.add(y, here), e.vector_bytes))
        for place, a, b in zip(places, even, odd, strict=True):
            at = builder.add(place, here)
            builder.store(e.fma(first, e.load(at), builder.load(a)), a)
            builder.store(e.fma(second, e.load(e.plus(at, e.vector_bytes)), builder.load(b)), b)
    done = e.times(pairs, 2 * e.lanes)
    rest = builder.sdiv(e.plus(builder.sub(count, done), e.lanes - 1), e.const(e.lanes))
    with e.loop(rest) as number:  # lanes that are not there are zero in both: 0 times inf would be NaN
        from_here = builder.add(done, e.times(number, e.lanes))
        here = e.times(from_here, e.element_bytes)
        mask = e.between(from_here, 1, e.const(0), count)
        last = e.load_masked(builder.add(y, here), mask)
        for place, a in zip(places, even, strict=True):
            builder.store(e.fma(last, e.load_masked(builder.add(place, here), mask), builder.load(a)), a)
    for s in range(taps):
        place = e.plus(sums, s * e.vector_bytes)
        total = builder.fadd(builder.load(even[s]), builder.load(odd[s]))
        e.store(builder.fadd(e.load(place), total), place)


@intrinsic
def row_products(typingctx: Any, like: Any, taps: Any, x: Any, step: Any, y: Any, count: Any, sums: Any) -> Any:
    """sums[s] += y[q] * x[q + s * step], a vector for every tap s < taps <= ROW_TAPS, over `count` outputs q."""

    def body(e: Emit, args: Sequence[Any]) -> None:
        def case(taps: int) -> Callable[[], None]:
            return lambda: call_apart(e, f"row_products.{taps}", functools.partial(_products, taps), args[1:])

        e.cases(args[0], {taps: case(taps) for taps in range(1, ROW_TAPS + 1)}, lambda: None)

    return addresses(like, 6), void(body)


@intrinsic
def sum_lanes(typingctx: Any, like: Any, out: Any, sums: Any, count: Any) -> Any:
    """out[i] = the sum of the lanes of vector i of `sums`, which has whole vectors of them, for i < count."""

    def body(e: Emit, args: Sequence[Any]) -> None:
        out, sums, count = args
        builder = e.builder
        vectors = builder.sdiv(e.plus(count, e.lanes - 1), e.const(e.lanes))
        with e.loop(vectors) as number:
            place = builder.add(sums, e.times(number, e.lanes * e.vector_bytes))
            (totals,) = e.sums([e.load(e.plus(place, i * e.vector_bytes)) for i in range(e.lanes)])
            mask = e.between(e.times(number, e.lanes), 1, e.const(0), count)
            e.store_masked(totals, builder.add(out, e.times(number, e.vector_bytes)), mask)

    return addresses(like, 3), void(body)


def span_products(like: Any, x: int, y: int, count: int, sums: int, p: Any) -> None:
    """All taps of `count` outputs whose pixels are all there."""
    step = p.dilation * like.itemsize
    for s in range(0, p.S, ROW_TAPS):
        place = sums + s * lanes(like) * like.itemsize
        row_products(like, min(p.S - s, ROW_TAPS), x + s * step, step, y, count, place)


def _depthwise_row_weights() -> Callable[..., int]:
    def depthwise_row_weights(source: Any, grad: Any, out: Any, scratch: Any, plan: Any, flags: int, share: int) -> int:
        """One share of backward_weight: source x, grad of y. Rows go by spans that stay in level 1."""
        p = plan[0]
        mode = flush_denormals() if not flags & STRICT else 0
        item, count = source.itemsize, lanes(source)
        base = (address(scratch) + 63) // 64 * 64 + share * p.worker_words * 8
        ends, sums = base + p.box_at, base + p.phases_at
        low = max(0, min(p.pad_w, p.cols))
        high = max(low, min(p.from_w + p.pad_w - p.reach, p.cols))
        outputs = p.groups * p.outputs
        for k in range(p.items * share // p.shares, p.items * (share + 1) // p.shares):
            fill_with(source, sums, 0, (p.S + count - 1) // count * count * count)
            for number in range(p.N * p.rows):
                image, row = number // p.rows, number % p.rows
                x = address(source) + ((image * p.groups + k // p.outputs) * p.rows + row) * p.from_w * item
                y = address(grad) + ((image * outputs + k) * p.rows + row) * p.cols * item
                q = 0
                while q < p.cols:
                    left = q - p.pad_w
                    if low <= q < high:
                        some = min(high - q, ROW_SPAN)
                        span_products(source, x + left * item, y + q * item, some, sums, p)
                    else:
                        some = min((low if q < low else p.cols) - q, ROW_ENDS)
                        width = some + p.reach
                        begin = min(max(-left, 0), width)
                        stop = max(begin, min(p.from_w - left, width))
                        gather_rows(source, ends, 0, x + left * item, 0, 1, begin, stop, width, 1)
                        span_products(source, ends, y + q * item, some, sums, p)
                    q += some
            sum_lanes(source, address(out) + k * p.S * item, sums, p.S)
        if not flags & STRICT:
            restore_mode(mode)
        return 0

    return depthwise_row_weights


def _signature(element: Any) -> Any:
    four, one = types.Array(element, 4, "C", readonly=True), types.Array(element, 1, "C", readonly=True)
    words, record = types.Array(types.int64, 1, "C"), types.Array(numba.from_dtype(RECORD), 1, "C")
    return types.int64(four, one, types.Array(element, 4, "C"), one, words, record, types.int64, types.int64)


def _weights_signature(element: Any) -> Any:
    four = types.Array(element, 4, "C", readonly=True)
    words, record = types.Array(types.int64, 1, "C"), types.Array(numba.from_dtype(RECORD), 1, "C")
    return types.int64(four, four, types.Array(element, 4, "C"), words, record, types.int64, types.int64)


BUILDERS: dict[str, Callable[[], Callable[..., int]]] = {
    "depthwise": _depthwise,
    "depthwise_rows": _depthwise_rows,
    "depthwise_row_weights": _depthwise_row_weights,
}
SIGNATURES: dict[str, Callable[[Any], Any]] = {
    "depthwise": _signature,
    "depthwise_rows": _signature,
    "depthwise_row_weights": _weights_signature,
}
HELPERS = ("tile_of", "pack", "span", "span_products")
