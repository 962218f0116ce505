"""Depthwise 3x3 kernels of stride 1 and one output a channel, on planes read where they are.

The method, and what it gains over packing, is told in ``csrc/depthwise_plane.h``: tiles of some rows of one vector go
over the plane; at the ends of a row, vectors read the lanes that are inside; a row of the result whose taps reach above
or below the plane is a tile of its own. Where planes do not stay near the core from one call to the next, a tile asks
for the rows that the one below it needs.
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

from .depthwise_plan import RECORD, TILE_ROWS
from .flags import STRICT
from .vector import I32, Emit, address, addresses, all_finite, call_apart, flush_denormals, restore_mode, void

_LINE = 64
_TILES = [(R, rows) for R in (1, 2, 3) for rows in TILE_ROWS if R == 3 or rows == 1]  # kernel rows, rows of the tile


def _ask_for(e: Emit, place: Any, write: int) -> None:
    pointer = e.builder.inttoptr(place, ir.IntType(8).as_pointer())
    numbers = [ir.Constant(I32, value) for value in (write, 3, 1)]  # into all levels, data
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
                    _ask_for(e, builder.add(pixels, builder.mul(x_row, e.const(rows + R - 1 + i))), 0)
                    _ask_for(e, builder.add(to, builder.mul(y_row, e.const(rows + i))), 1)
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


def _signature(element: Any) -> Any:
    four, one = types.Array(element, 4, "C", readonly=True), types.Array(element, 1, "C", readonly=True)
    words, record = types.Array(types.int64, 1, "C"), types.Array(numba.from_dtype(RECORD), 1, "C")
    return types.int64(four, one, types.Array(element, 4, "C"), one, words, record, types.int64, types.int64)


BUILDERS: dict[str, Callable[[], Callable[..., int]]] = {"depthwise_planes": _depthwise_planes}
SIGNATURES: dict[str, Callable[[Any], Any]] = {"depthwise_planes": _signature}
HELPERS = ("plane_rows",)
