"""Depthwise convolution: backward_weight of several kernel rows.

::

    w[r][s] = sum over images, p, q of  y[p][q] * x[p * stride + r * step][column(s) + q]

The method is told in ``csrc/depthwise_weight.h``: x is packed as for forward, y read where it is. A tile is some rows
of y under all kernel rows and some taps: it holds the rows of y and meets each vector of x once for all of them. The
sums stay in registers for a whole block; their lanes are summed at the end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic

from .depthwise_kernels import pack, sum_lanes
from .depthwise_plan import KERNEL_ROWS, RECORD
from .flags import STRICT
from .vector import Emit, address, addresses, call_apart, fill_with, flush_denormals, lanes, restore_mode, void

_ROWS = 4  # of y in a tile; single ones are left
_TAPS = (0, 0, 4, 3, 2, 2, 1, 1)  # that a tile takes at a time, by kernel rows: at most 10 sums


def _number(R: int, stride: int, taps: int, rows: int, part: int) -> int:
    return (((stride * 8 + R) * 8 + taps) * 8 + rows) * 2 + part


def _tile(R: int, stride: int, taps: int, rows: int, part: bool, e: Emit, args: Sequence[Any]) -> None:
    x, x_row, columns, y, y_row, tiles, cols, out, out_row = args
    builder = e.builder
    sums = e.variables(R * taps)
    starts = [builder.add(x, e.word(e.plus(columns, 8 * s))) for s in range(taps)]
    mask = e.between(e.const(0), 1, e.const(0), cols)
    x_tile, y_tile = e.times(x_row, rows * stride), e.times(y_row, rows)
    with e.loop(e.const(1) if part else builder.sdiv(cols, e.const(e.lanes))) as number:
        here = e.times(number, e.vector_bytes)
        with e.loop(tiles) as tile:
            place, held = builder.add(builder.add(y, here), builder.mul(tile, y_tile)), []
            for _ in range(rows):
                held.append(e.load_masked(place, mask) if part else e.load(place))
                place = builder.add(place, y_row)
            down = builder.add(here, builder.mul(tile, x_tile))
            for s, start in enumerate(starts):
                place = builder.add(start, down)
                for i in range((rows - 1) * stride + R):
                    pixels = e.load(place)
                    if part:  # lanes that are not there are zero in both: 0 times inf would be NaN
                        pixels = builder.select(mask, pixels, e.zero())
                    place = builder.add(place, x_row)
                    for r in range(R):
                        if i >= r and (i - r) % stride == 0 and (i - r) // stride < rows:
                            slot = sums[r * taps + s]
                            builder.store(e.fma(held[(i - r) // stride], pixels, builder.load(slot)), slot)
    for r in range(R):
        for s in range(taps):
            place = e.plus(out, s * e.vector_bytes)
            e.store(builder.fadd(builder.load(sums[r * taps + s]), e.load(place)), place)
        out = builder.add(out, out_row)


@intrinsic
def tap_tiles(
    typingctx: Any,
    like: Any,
    number: Any,
    x: Any,
    x_row: Any,
    columns: Any,
    y: Any,
    y_row: Any,
    tiles: Any,
    cols: Any,
    out: Any,
    out_row: Any,
) -> Any:
    """Tiles one below the other, of `number` (kernel rows, stride, taps, rows of y, part) over `cols` columns::

        out[r][s] += y[i][q] * x[i * stride + r][columns[s] + q], a vector each

    Rows and what is at `columns` (int64) in bytes. `part`: a single vector, `cols` lanes of it; else whole vectors.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        def case(R: int, stride: int, taps: int, rows: int, part: bool) -> Callable[[], None]:
            name = f"tap_tiles.{R}.{stride}.{taps}.{rows}.{part}"
            return lambda: call_apart(e, name, functools.partial(_tile, R, stride, taps, rows, part), args[1:])

        shapes = [
            (R, stride, taps, rows, part)
            for stride in (1, 2)
            for R in range(2, KERNEL_ROWS + 1)
            if stride == 1 or R % 2
            for taps in sorted({1, _TAPS[R]})
            for rows in (1, _ROWS)
            for part in (False, True)
        ]
        e.cases(args[0], {_number(*shape): case(*shape) for shape in shapes}, lambda: None)

    return addresses(like, 10), void(body)


def _depthwise_weights() -> Callable[..., int]:
    def depthwise_weights(source: Any, grad: Any, out: Any, scratch: Any, plan: Any, flags: int, share: int) -> int:
        """One share of backward_weight: source x, grad of y. An item is a channel and some of its outputs.

        The tiles are called here alone: Numba would compile them anew for each function that they pass by.
        """
        p = plan[0]
        mode = flush_denormals() if not flags & STRICT else 0
        item, count = source.itemsize, lanes(source)
        word = (((address(scratch) + 63) // 64 * 64) - address(scratch)) // 8 + share * p.worker_words
        columns = address(scratch) + word * 8
        box, sums = columns + p.box_at, columns + p.phases_at
        for s in range(p.S):
            scratch[word + s] = s % p.phases_w * p.plane_bytes + s * p.step_w // p.stride_w * item
        numbers, most = p.R * p.S, _TAPS[p.R]
        x_row, y_row = p.step_h * p.row_bytes, p.step_h * p.cols * item
        apart = (numbers + count - 1) // count * count * count * item  # from an output's sums to the next
        for number in range(p.items * share // p.shares, p.items * (share + 1) // p.shares):
            channel, part = number // p.parts, number % p.parts
            first, end = p.outputs * part // p.parts, p.outputs * (part + 1) // p.parts
            fill_with(source, sums, 0, (end - first) * (apart // item))
            for block in range(p.N * p.blocks_h * p.blocks_w):
                j0 = block % p.blocks_w * p.block_cols
                i0 = block // p.blocks_w % p.blocks_h * p.block_rows
                cols, rows = min(p.block_cols, p.cols - j0), min(p.block_rows, p.rows - i0)
                plane = block // (p.blocks_w * p.blocks_h) * p.groups + channel
                begin = address(source) + plane * p.from_h * p.from_w * item
                pack(source, begin, box, i0, j0, (rows - 1) * p.stride_h + (p.R - 1) * p.step_h + 1, p)
                for o in range(first, end):
                    y = address(grad) + (((plane * p.outputs + o) * p.rows + i0) * p.cols + j0) * item
                    out_of = sums + (o - first) * apart
                    for row in range(min(p.step_h, rows)):  # rows step_h apart share their input
                        below = (rows - row + p.step_h - 1) // p.step_h
                        s = 0
                        while s < p.S:
                            taps = most if p.S - s >= most else 1
                            for kind in range(4):  # tiles of rows and single ones, of whole vectors and of a part
                                part, single = kind // 2, kind % 2
                                whole, many = cols // count * count, below // 4
                                j, some = (whole, cols - whole) if part == 1 else (0, whole)
                                i, many = (many * 4, below - many * 4) if single == 1 else (0, many)
                                if some > 0 and many > 0:
                                    shape = ((p.stride_h * 8 + p.R) * 8 + taps) * 8 + (1 if single == 1 else 4)
                                    tap_tiles(
                                        source,
                                        shape * 2 + part,
                                        box + row * p.row_bytes + i * p.stride_h * x_row + j * item,
                                        x_row,
                                        columns + s * 8,
                                        y + row * p.cols * item + i * y_row + j * item,
                                        y_row,
                                        many,
                                        some,
                                        out_of + s * count * item,
                                        p.S * count * item,
                                    )
                            s += taps
            for o in range(first, end):
                to = address(out) + (channel * p.outputs + o) * numbers * item
                sum_lanes(source, to, sums + (o - first) * apart, numbers)
        if not flags & STRICT:
            restore_mode(mode)
        return 0

    return depthwise_weights


def _signature(element: Any) -> Any:
    four = types.Array(element, 4, "C", readonly=True)
    words, record = types.Array(types.int64, 1, "C"), types.Array(numba.from_dtype(RECORD), 1, "C")
    return types.int64(four, four, types.Array(element, 4, "C"), words, record, types.int64, types.int64)


BUILDERS: dict[str, Callable[[], Callable[..., int]]] = {"depthwise_weights": _depthwise_weights}
SIGNATURES: dict[str, Callable[[Any], Any]] = {"depthwise_weights": _signature}
HELPERS = ("pack",)
