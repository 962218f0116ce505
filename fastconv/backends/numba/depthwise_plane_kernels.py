"""Depthwise 3x3 kernels of stride 1, on planes read where they are: one output a channel, or any in backward_input.

The method, and what it gains over packing, is told in ``csrc/depthwise_plane.h``: tiles of some rows of one vector go
over the plane; at the ends of a row, vectors read the lanes that are inside; a row of the result whose taps reach above
or below the plane is a tile of its own. Where planes do not stay near the core from one call to the next, a tile asks
for the rows that the one below it needs. A gradient of several outputs a channel is the sum of as many planes: tiles go
over some of them at a time and add to what is there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .depthwise_plan import RECORD, SUM_ROWS, TILE_ROWS
from .flags import STRICT
from .vector import I32, Emit, address, addresses, all_finite, call_apart, flush_denormals, restore_mode, void

_LINE = 64
_TILES = [(R, rows) for R in (1, 2, 3) for rows in TILE_ROWS if R == 3 or rows == 1]  # kernel rows, rows of the tile


def ask_for(e: Emit, place: Any, write: int, level: int = 3) -> None:
    """A line of the cache, into the levels down to `level` (3: all)."""
    pointer = e.builder.inttoptr(place, ir.IntType(8).as_pointer())
    numbers = [ir.Constant(I32, value) for value in (write, level, 1)]  # 3: into all levels; data
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, *(number.type for number in numbers)])
    e.builder.call(cgutils.get_or_insert_function(e.builder.module, kind, "llvm.prefetch.p0"), [pointer, *numbers])


def _tile(R: int, rows: int, e: Emit, args: Sequence[Any]) -> None:
    x, width, pad, w, y, cols, bias, far = args
    builder = e.builder
    start = e.broadcast(bias)
    sums = e.variables(rows, lambda number: start)
    x_row, y_row = e.times(width, e.element_bytes), e.times(cols, e.element_bytes)
    weights = [e.broadcast(e.plus(w, number * e.element_bytes)) for number in range(3 * R)]
    last = e.plus(cols, -e.lanes)
    with e.loop(builder.sdiv(e.plus(cols, e.lanes - 1), e.const(e.lanes))) as number:
        at = e.smaller(e.times(number, e.lanes), last)
        left = builder.sub(at, pad)
        pixels, to = (builder.add(a, e.times(b, e.element_bytes)) for a, b in ((x, left), (y, at)))
        if rows > 1:
            lines = builder.and_(e.times(number, e.vector_bytes), e.const(_LINE - 1))
            with builder.if_then(builder.and_(builder.icmp_signed("!=", far, e.const(0)), _is_zero(e, lines))):
                for i in range(rows):
                    ask_for(e, builder.add(pixels, builder.mul(x_row, e.const(rows + R - 1 + i))), 0)
                    ask_for(e, builder.add(to, builder.mul(y_row, e.const(rows + i))), 1)
        for slot in sums:
            builder.store(start, slot)
        inside = builder.and_(
            builder.icmp_signed(">=", left, e.const(0)),
            builder.icmp_signed("<=", e.plus(left, 2 + e.lanes), width),
        )
        with builder.if_else(inside) as (whole, some):
            with whole:
                _add_taps(e, R, weights, pixels, x_row, sums, lambda t: e.load)
            with some:
                masks = [e.between(e.plus(left, t), 1, e.const(0), width) for t in range(3)]
                _add_taps(e, R, weights, pixels, x_row, sums, lambda t: lambda place: e.load_masked(place, masks[t]))
        for slot in sums:
            e.store(builder.load(slot), to)
            to = builder.add(to, y_row)


def _is_zero(e: Emit, value: Any) -> Any:
    return e.builder.icmp_signed("==", value, e.const(0))


def _add_taps(
    e: Emit,
    R: int,
    weights: Sequence[Any],
    pixels: Any,
    x_row: Any,
    sums: Sequence[Any],
    load: Callable[[int], Callable[[Any], Any]],
) -> None:
    for t in range(3):
        place = e.plus(pixels, t * e.element_bytes)
        for i in range(len(sums) + R - 1):
            value = load(t)(place)
            place = e.builder.add(place, x_row)
            for r in range(max(0, i - len(sums) + 1), min(R, i + 1)):
                slot = sums[i - r]
                e.builder.store(e.fma(weights[3 * r + t], value, e.builder.load(slot)), slot)


@intrinsic
def plane_tile(
    typingctx: Any,
    like: Any,
    number: Any,
    x: Any,
    width: Any,
    pad: Any,
    w: Any,
    y: Any,
    cols: Any,
    bias: Any,
    far: Any,
) -> Any:
    """Tile `number` = R * 100 + rows over `cols` columns, at least a vector of them::

        y[i][q] = bias + sum over r < R, t < 3 of w[r][t] * x[i + r][q + t - pad], columns from 0 to `width` alone

    With `far` the rows below are asked for.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        def case(R: int, rows: int) -> Callable[[], None]:
            name = f"plane_tile.{R}.{rows}"
            return lambda: call_apart(e, name, functools.partial(_tile, R, rows), args[1:])

        e.cases(args[0], {R * 100 + rows: case(R, rows) for R, rows in _TILES}, lambda: None)

    return addresses(like, 9), void(body)


def _sum_tile(rows: int, e: Emit, args: Sequence[Any]) -> None:
    x, down, width, pad, w, w_row, sources, y, cols, add, ahead = args
    builder = e.builder
    x_row, y_row = e.times(width, e.element_bytes), e.times(cols, e.element_bytes)
    sums = e.variables(rows)
    last = e.plus(cols, -e.lanes)
    with e.loop(builder.sdiv(e.plus(cols, e.lanes - 1), e.const(e.lanes))) as number:
        first = e.times(number, e.lanes)
        at = e.smaller(first, last)
        left = builder.sub(at, pad)
        pixels, to = (builder.add(a, e.times(b, e.element_bytes)) for a, b in ((x, left), (y, at)))
        with builder.if_else(_is_zero(e, add)) as (anew, more):
            with anew:
                for slot in sums:
                    builder.store(e.zero(), slot)
            with more:
                for i, slot in enumerate(sums):
                    builder.store(e.load(builder.add(to, e.times(y_row, i))), slot)
        inside = builder.and_(
            builder.icmp_signed(">=", left, e.const(0)),
            builder.icmp_signed("<=", e.plus(left, 2 + e.lanes), width),
        )
        with builder.if_else(inside) as (whole, some):
            with whole, e.loop(sources) as source:
                place = builder.add(pixels, builder.mul(source, down))
                with builder.if_then(builder.icmp_signed("!=", ahead, e.const(0))):
                    for i in range(rows):
                        ask_for(e, builder.add(builder.add(place, ahead), e.times(x_row, 1 + i)), 0, 2)
                _add_source(e, builder.add(w, e.times(source, 3 * e.element_bytes)), w_row, place, x_row, sums, None)
            with some:
                masks = _inside(e, left, width)
                with e.loop(sources) as source:
                    place = builder.add(pixels, builder.mul(source, down))
                    weights = builder.add(w, e.times(source, 3 * e.element_bytes))
                    _add_source(e, weights, w_row, place, x_row, sums, masks)
        with builder.if_else(builder.icmp_signed("==", first, at)) as (apart, overlapping):
            with apart:
                for i, slot in enumerate(sums):
                    e.store(builder.load(slot), builder.add(to, e.times(y_row, i)))
            with overlapping:  # the first lanes are done
                mask = e.between(at, 1, first, cols)
                for i, slot in enumerate(sums):
                    e.store_masked(builder.load(slot), builder.add(to, e.times(y_row, i)), mask)


def _inside(e: Emit, left: Any, width: Any) -> list[Any]:
    """The lanes under each column of the kernel that are in the row."""
    return [e.between(e.plus(left, t), 1, e.const(0), width) for t in range(3)]


def _add_source(e: Emit, w: Any, w_row: Any, pixels: Any, x_row: Any, sums: Sequence[Any], masks: Any) -> None:
    """The taps of one source, column by column, as three weights and the sums fill the registers."""
    for t in range(3):
        weights = [e.broadcast(e.plus(e.plus(w, e.times(w_row, r)), t * e.element_bytes)) for r in range(3)]
        place = e.plus(pixels, t * e.element_bytes)
        for i in range(len(sums) + 2):
            value = e.load_masked(place, masks[t]) if masks else e.load(place)
            place = e.builder.add(place, x_row)
            for r in range(max(0, i - len(sums) + 1), min(3, i + 1)):
                slot = sums[i - r]
                e.builder.store(e.fma(weights[r], value, e.builder.load(slot)), slot)


def _sum_row(R: int, e: Emit, args: Sequence[Any]) -> None:
    """One row under R kernel rows: a sum for each tap, as one alone would wait for its own additions."""
    x, down, width, pad, w, w_row, sources, y, cols, add, _ = args
    builder = e.builder
    x_row = e.times(width, e.element_bytes)
    sums = e.variables(3 * R)
    last = e.plus(cols, -e.lanes)
    with e.loop(builder.sdiv(e.plus(cols, e.lanes - 1), e.const(e.lanes))) as number:
        first = e.times(number, e.lanes)
        at = e.smaller(first, last)
        left = builder.sub(at, pad)
        pixels, to = (builder.add(a, e.times(b, e.element_bytes)) for a, b in ((x, left), (y, at)))
        for slot in sums:
            builder.store(e.zero(), slot)
        masks = _inside(e, left, width)
        with e.loop(sources) as source:
            place = builder.add(pixels, builder.mul(source, down))
            weights = builder.add(w, e.times(source, 3 * e.element_bytes))
            for tap, slot in enumerate(sums):
                r, t = divmod(tap, 3)
                step = t * e.element_bytes
                value = e.load_masked(e.plus(builder.add(place, e.times(x_row, r)), step), masks[t])
                weight = e.broadcast(e.plus(builder.add(weights, e.times(w_row, r)), step))
                builder.store(e.fma(weight, value, builder.load(slot)), slot)
        total = builder.load(sums[0])
        for slot in sums[1:]:
            total = builder.fadd(total, builder.load(slot))
        before = e.load_masked(to, e.splat(builder.icmp_signed("!=", add, e.const(0)), e.bits))
        e.store_most(builder.fadd(total, before), to, e.between(at, 1, first, cols))  # the lanes before are done


@intrinsic
def plane_sum(
    typingctx: Any,
    like: Any,
    number: Any,
    x: Any,
    down: Any,
    width: Any,
    pad: Any,
    w: Any,
    w_row: Any,
    sources: Any,
    y: Any,
    cols: Any,
    add: Any,
    ahead: Any,
) -> Any:
    """Tile `number` = R * 100 + rows over `cols` columns, at least a vector of them, summed over some sources::

        y[i][q] = sum over s < sources, r < R, t < 3 of w[r][s][t] * x[s][i + r][q + t - pad]

    and with `add` added to what is there; columns from 0 to `width` alone. Strides in bytes: `down` from a source to
    the next, `w_row`. What is `ahead` bytes further on is asked for, if that is not 0.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        def case(R: int, rows: int) -> Callable[[], None]:
            tile = functools.partial(_sum_row, R) if rows == 1 else functools.partial(_sum_tile, rows)
            return lambda: call_apart(e, f"plane_sum.{R}.{rows}", tile, args[1:])

        shapes = [(R, 1) for R in (1, 2, 3)] + [(3, rows) for rows in SUM_ROWS if rows > 1]
        e.cases(args[0], {R * 100 + rows: case(R, rows) for R, rows in shapes}, lambda: None)

    return addresses(like, 12), void(body)


def sum_rows(left: int) -> int:
    """Rows of the next tile where so many are left: nearly the same for all; no two tiles have a row in common."""
    most = min(left, SUM_ROWS[0])
    tiles = (left + SUM_ROWS[0] - 1) // SUM_ROWS[0]
    best = 1
    for size in SUM_ROWS:
        if size <= most and (size * tiles >= left or best == 1):
            best = size
    return best


def plane_rows(rows: int) -> int:
    """Rows of the tiles that `rows` are cut into: least work, some 2 rows' worth a tile besides."""
    best, least = 1, 3 * rows
    for size in TILE_ROWS:
        cost = (rows + size - 1) // size * (size + 2)
        if size <= rows and cost < least:
            best, least = size, cost
    return best


def _depthwise_planes() -> Callable[..., int]:
    def depthwise_planes(
        source: Any, weights: Any, target: Any, bias: Any, scratch: Any, plan: Any, flags: int, share: int
    ) -> int:
        """One share of forward (source x, target y) or backward_input (source y, target x, the weights turned).

        Returns 1, and computes nothing, where a weight is not finite; else 0.
        """
        p = plan[0]
        if not all_finite(source, address(weights), weights.size):
            return 1
        mode = flush_denormals() if not flags & STRICT else 0
        item = source.itemsize
        step = bias.size > 1
        whole = p.from_h + p.pad_h - 2  # rows from pad_h to here have all their kernel rows inside
        for number in range(p.items * share // p.shares, p.items * (share + 1) // p.shares):
            plane, part = number // p.blocks_h, number % p.blocks_h
            channel = plane % p.groups
            x = address(source) + plane * p.from_h * p.from_w * item
            y = address(target) + plane * p.rows * p.cols * item
            own_bias = address(bias) + (channel * item if step else 0)
            row, end = p.rows * part // p.blocks_h, p.rows * (part + 1) // p.blocks_h
            while row < end:
                above = max(p.pad_h - row, 0)
                kernel_rows = min(p.from_h + p.pad_h - row, 3) - above
                rows, size = 1, 1
                if p.pad_h <= row < whole:
                    rows = min(end, whole) - row
                    size = plane_rows(rows)
                for i in range(0, rows, size):
                    first = row + min(i, rows - size)
                    plane_tile(
                        source,
                        kernel_rows * 100 + size,
                        x + (first - p.pad_h + above) * p.from_w * item,
                        p.from_w,
                        p.pad_w,
                        address(weights) + (channel * 9 + above * 3) * item,
                        y + first * p.cols * item,
                        p.cols,
                        own_bias,
                        p.far,
                    )
                row += rows
        if not flags & STRICT:
            restore_mode(mode)
        return 0

    return depthwise_planes


def _depthwise_sums() -> Callable[..., int]:
    def depthwise_sums(
        source: Any, weights: Any, target: Any, bias: Any, scratch: Any, plan: Any, flags: int, share: int
    ) -> int:
        """One share of backward_input of several outputs a channel (source y, target x, the weights turned).

        Returns 1, and computes nothing, where a weight is not finite; else 0.
        """
        p = plan[0]
        if not all_finite(source, address(weights), weights.size):
            return 1
        mode = flush_denormals() if not flags & STRICT else 0
        item = source.itemsize
        whole = p.from_h + p.pad_h - 2  # rows from pad_h to here have all their kernel rows inside
        down, w_row = p.from_h * p.from_w * item, 3 * p.sources * item
        for number in range(p.items * share // p.shares, p.items * (share + 1) // p.shares):
            plane, part = number // p.blocks_h, number % p.blocks_h
            x = address(source) + plane * p.sources * down
            y = address(target) + plane * p.rows * p.cols * item
            w = address(weights) + plane % p.groups * 3 * w_row
            row, end = p.rows * part // p.blocks_h, p.rows * (part + 1) // p.blocks_h
            while row < end:
                above = max(p.pad_h - row, 0)
                kernel_rows = min(p.from_h + p.pad_h - row, 3) - above
                size = sum_rows(min(end, whole) - row) if p.pad_h <= row < whole else 1
                for first in range(0, p.sources, p.together):
                    plane_sum(
                        source,
                        kernel_rows * 100 + size,
                        x + first * down + (row - p.pad_h + above) * p.from_w * item,
                        down,
                        p.from_w,
                        p.pad_w,
                        w + above * w_row + first * 3 * item,
                        w_row,
                        min(p.together, p.sources - first),
                        y + row * p.cols * item,
                        p.cols,
                        first,
                        p.ahead * item,
                    )
                row += size
        if not flags & STRICT:
            restore_mode(mode)
        return 0

    return depthwise_sums


def _signature(element: Any) -> Any:
    four, one = types.Array(element, 4, "C", readonly=True), types.Array(element, 1, "C", readonly=True)
    words, record = types.Array(types.int64, 1, "C"), types.Array(numba.from_dtype(RECORD), 1, "C")
    return types.int64(four, one, types.Array(element, 4, "C"), one, words, record, types.int64, types.int64)


BUILDERS: dict[str, Callable[[], Callable[..., int]]] = {
    "depthwise_planes": _depthwise_planes,
    "depthwise_sums": _depthwise_sums,
}
SIGNATURES: dict[str, Callable[[Any], Any]] = dict.fromkeys(BUILDERS, _signature)
HELPERS = ("plane_rows", "sum_rows")
