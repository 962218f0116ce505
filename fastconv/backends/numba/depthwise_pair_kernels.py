"""Depthwise 3x3 kernels of stride 2 and one output a channel, on planes read where they are.

The method, and what it gains over packing, is told in ``csrc/depthwise_pairs.h``: a vector of columns goes down the
plane with the 9 weights held. forward unzips the rows of x, backward_input zips two vectors of a row of y into four of
x; the vectors at the ends of a row read the lanes that are inside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic

from .depthwise_plan import RECORD
from .flags import STRICT
from .vector import Emit, address, addresses, all_finite, call_apart, flush_denormals, lanes, restore_mode, void

_INSIDE, _EVEN, _ODD = 0, 1, 2  # columns: all pixels inside their rows, or not all, and the result's width


def _orders(e: Emit) -> tuple[list[int], list[int], list[int]]:
    """The even elements of two vectors, 16 bytes of each at a time; those put in order; and the way back.

    Within 16 bytes a shuffle of two vectors is one instruction and takes a cycle, across them two and three.
    """
    piece = 16 // e.element_bytes
    even = [
        part * e.lanes + begin + lane
        for begin in range(0, e.lanes, piece)
        for part in (0, 1)
        for lane in range(0, piece, 2)
    ]
    in_order = [even.index(lane) for lane in range(0, 2 * e.lanes, 2)]
    return even, in_order, [in_order.index(lane) for lane in range(e.lanes)]


def _weights(e: Emit, w: Any) -> list[Any]:
    return [e.broadcast(e.plus(w, number * e.element_bytes)) for number in range(9)]


def _add(e: Emit, weights: Sequence[Any], pixels: Sequence[Any], slot: Any) -> None:
    total = e.builder.load(slot)
    for weight, pixel in zip(weights, pixels, strict=True):
        total = e.fma(weight, pixel, total)
    e.builder.store(total, slot)


def _pair_column(inside: bool, e: Emit, args: Sequence[Any]) -> None:
    x, height, width, pad_h, pad_w, w, y, cols, bias, at, first, end = args
    builder = e.builder
    weights, start = _weights(e, w), e.broadcast(bias)
    even, in_order, _ = _orders(e)
    odd = [lane + 1 for lane in even]
    left, top = builder.sub(e.times(at, 2), pad_w), builder.sub(e.times(first, 2), pad_h)
    x_row, y_row = e.times(width, e.element_bytes), e.times(cols, e.element_bytes)
    x = builder.add(x, builder.add(builder.mul(top, x_row), e.times(left, e.element_bytes)))
    y = builder.add(y, builder.add(builder.mul(first, y_row), e.times(at, e.element_bytes)))
    starts = [0, e.lanes, 1, 1 + e.lanes]
    masks = [] if inside else [e.between(e.plus(left, lane), 1, e.const(0), width) for lane in starts]
    sums, middle, following = e.variables(3)

    def pixels(row: Any) -> list[Any]:
        """Those under the three columns of the kernel."""
        places = [e.plus(builder.add(x, builder.mul(row, x_row)), lane * e.element_bytes) for lane in starts]
        if inside:
            a, b, c, d = (e.load(place) for place in places)
        else:
            a, b, c, d = (e.load_masked(place, mask) for place, mask in zip(places, masks, strict=True))
        return [e.shuffle(a, b, even), e.shuffle(c, d, even), e.shuffle(c, d, odd)]

    def is_row(row: Any) -> Any:
        return builder.icmp_unsigned("<", builder.add(top, row), height)  # no negative one either

    with builder.if_then(is_row(e.const(0))):
        _add(e, weights[:3], pixels(e.const(0)), sums)
    with e.loop(builder.sub(end, first)) as number:
        row = e.times(number, 2)
        builder.store(start, middle)  # three short chains of sums: one of nine would be waited for
        builder.store(e.zero(), following)
        with builder.if_then(is_row(e.plus(row, 1))):
            _add(e, weights[3:6], pixels(e.plus(row, 1)), middle)
        with builder.if_then(is_row(e.plus(row, 2))):
            below = pixels(e.plus(row, 2))
            _add(e, weights[6:], below, sums)
            _add(e, weights[:3], below, following)
        total = builder.fadd(builder.load(sums), builder.load(middle))
        e.store(e.shuffle(total, total, in_order), builder.add(y, builder.mul(number, y_row)))
        builder.store(builder.load(following), sums)


@intrinsic
def pair_column(
    typingctx: Any,
    like: Any,
    inside: Any,
    x: Any,
    height: Any,
    width: Any,
    pad_h: Any,
    pad_w: Any,
    w: Any,
    y: Any,
    cols: Any,
    bias: Any,
    at: Any,
    first: Any,
    end: Any,
) -> Any:
    """A vector of columns of y from `at` on, rows `first` to `end`, of `cols`::

        y[i][j] = bias + sum over r < 3, s < 3 of w[r][s] * x[2 i + r - pad_h][2 j + s - pad_w]

    `inside`: the columns of x are. Its rows and columns that are not count as zero.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        def case(inside: bool) -> Callable[[], None]:
            return lambda: call_apart(e, f"pair_column.{inside}", functools.partial(_pair_column, inside), args[1:])

        e.cases(args[0], {1: case(True)}, case(False))

    return addresses(like, 13), void(body)


def _spread_column(kind: int, e: Emit, args: Sequence[Any]) -> None:
    y, rows, cols, w, x, height, width, at, first, end = args
    builder = e.builder
    weights = _weights(e, w)
    _, _, before = _orders(e)
    piece = 16 // e.element_bytes
    low = [  # of two vectors in the order `before`
        lane + part * e.lanes
        for begin in range(0, e.lanes, piece)
        for lane in range(begin, begin + piece // 2)
        for part in (0, 1)
    ]
    high = [lane + piece // 2 for lane in low]
    x_row, y_row = e.times(width, e.element_bytes), e.times(cols, e.element_bytes)
    y = builder.add(y, builder.add(builder.mul(first, y_row), e.times(at, e.element_bytes)))
    x = builder.add(x, builder.add(builder.mul(first, e.times(x_row, 2)), e.times(at, 2 * e.element_bytes)))
    masks = [] if kind == _INSIDE else [e.between(e.plus(at, lane), 1, e.const(0), cols) for lane in (0, 1)]
    here, following = e.variables(2)

    def load(row: Any) -> None:
        """The pixels of a row of y, and those after them, where there is such a row."""
        place = builder.add(y, builder.mul(row, y_row))
        for slot in (here, following):
            builder.store(e.zero(), slot)
        with builder.if_then(builder.icmp_signed("<", builder.add(first, row), rows)):
            for lane, slot in enumerate((here, following)):
                start = e.plus(place, lane * e.element_bytes)
                value = e.load(start) if kind == _INSIDE else e.load_masked(start, masks[lane])
                builder.store(e.shuffle(value, value, before), slot)

    def store(evens: Any, odds: Any, place: Any) -> None:
        values = e.shuffle(evens, odds, low), e.shuffle(evens, odds, high)
        e.store(values[0], place)
        if kind == _ODD:  # all but the last, which is beyond the row
            last = e.shuffle(*values, range(e.lanes - 1, 2 * e.lanes - 1))
            e.store(last, e.plus(place, e.vector_bytes - e.element_bytes))
        else:
            e.store(values[1], e.plus(place, e.vector_bytes))

    def product(number: int, slot: Any) -> Any:
        return builder.fmul(weights[number], builder.load(slot))

    load(e.const(0))
    with e.loop(builder.sub(end, first)) as number:
        place = builder.add(x, builder.mul(number, e.times(x_row, 2)))
        store(product(4, here), e.fma(weights[5], builder.load(here), product(3, following)), place)
        below = e.plus(e.times(builder.add(first, number), 2), 1)
        with builder.if_then(builder.icmp_signed("<", below, height)):
            evens = product(7, here)
            odds = e.fma(weights[8], builder.load(here), product(6, following))
            load(e.plus(number, 1))
            evens = e.fma(weights[1], builder.load(here), evens)
            odds = e.fma(weights[2], builder.load(here), e.fma(weights[0], builder.load(following), odds))
            store(evens, odds, builder.add(place, x_row))


@intrinsic
def spread_column(
    typingctx: Any,
    like: Any,
    kind: Any,
    y: Any,
    rows: Any,
    cols: Any,
    w: Any,
    x: Any,
    height: Any,
    width: Any,
    at: Any,
    first: Any,
    end: Any,
) -> Any:
    """Two vectors of columns of x from 2 `at` on, pairs of rows `first` to `end`, or the last row::

        x[h][v] = sum over r, s with h + 1 - r = 2 i, v + 1 - s = 2 j of w[r][s] * y[i][j]

    `kind`: 0 where all columns wanted of y are inside it; else 1, or 2 where the last column of x would be outside.
    """

    def body(e: Emit, args: Sequence[Any]) -> None:
        def case(kind: int) -> Callable[[], None]:
            return lambda: call_apart(e, f"spread_column.{kind}", functools.partial(_spread_column, kind), args[1:])

        e.cases(args[0], {_INSIDE: case(_INSIDE), _EVEN: case(_EVEN)}, case(_ODD))

    return addresses(like, 11), void(body)


def _depthwise_pairs() -> Callable[..., int]:
    def depthwise_pairs(
        source: Any, weights: Any, target: Any, bias: Any, scratch: Any, plan: Any, flags: int, share: int
    ) -> int:
        """One share of forward (source x, target y).

        Returns 1, and computes nothing, where a weight is not finite; else 0.
        """
        p = plan[0]
        if not all_finite(source, address(weights), weights.size):
            return 1
        mode = flush_denormals() if not flags & STRICT else 0
        item, count = source.itemsize, lanes(source)
        step = bias.size > 1
        for number in range(p.items * share // p.shares, p.items * (share + 1) // p.shares):
            plane, part = number // p.blocks_h, number % p.blocks_h
            channel = plane % p.groups
            row, last = p.rows * part // p.blocks_h, p.rows * (part + 1) // p.blocks_h
            while row < last:
                end = min(row + p.block_rows, last)
                for j in range(0, p.cols, count):
                    at = min(j, p.cols - count)
                    left = 2 * at - p.pad_w
                    pair_column(
                        source,
                        left >= 0 and left + 1 + 2 * count <= p.from_w,
                        address(source) + plane * p.from_h * p.from_w * item,
                        p.from_h,
                        p.from_w,
                        p.pad_h,
                        p.pad_w,
                        address(weights) + channel * 9 * item,
                        address(target) + plane * p.rows * p.cols * item,
                        p.cols,
                        address(bias) + (channel * item if step else 0),
                        at,
                        row,
                        end,
                    )
                row = end
        if not flags & STRICT:
            restore_mode(mode)
        return 0

    return depthwise_pairs


def _depthwise_spread() -> Callable[..., int]:
    def depthwise_spread(
        source: Any, weights: Any, target: Any, bias: Any, scratch: Any, plan: Any, flags: int, share: int
    ) -> int:
        """One share of backward_input (source y, target x).

        Returns 1, and computes nothing, where a weight is not finite; else 0.
        """
        p = plan[0]
        if not all_finite(source, address(weights), weights.size):
            return 1
        mode = flush_denormals() if not flags & STRICT else 0
        item, count = source.itemsize, lanes(source)
        for number in range(p.items * share // p.shares, p.items * (share + 1) // p.shares):
            plane, part = number // p.blocks_h, number % p.blocks_h
            row, last = p.rows * part // p.blocks_h, p.rows * (part + 1) // p.blocks_h
            while row < last:
                end = min(row + p.block_rows, last)
                for j in range(0, p.cols, count):
                    at = min(j, p.cols - count)
                    kind = 2 if 2 * (at + count) > p.x_w else 1 if at + 1 + count > p.from_w else 0
                    spread_column(
                        source,
                        kind,
                        address(source) + plane * p.from_h * p.from_w * item,
                        p.from_h,
                        p.from_w,
                        address(weights) + plane % p.groups * 9 * item,
                        address(target) + plane * p.x_h * p.x_w * item,
                        p.x_h,
                        p.x_w,
                        at,
                        row,
                        end,
                    )
                row = end
        if not flags & STRICT:
            restore_mode(mode)
        return 0

    return depthwise_spread


def _signature(element: Any) -> Any:
    four, one = types.Array(element, 4, "C", readonly=True), types.Array(element, 1, "C", readonly=True)
    words, record = types.Array(types.int64, 1, "C"), types.Array(numba.from_dtype(RECORD), 1, "C")
    return types.int64(four, one, types.Array(element, 4, "C"), one, words, record, types.int64, types.int64)


BUILDERS: dict[str, Callable[[], Callable[..., int]]] = {
    "depthwise_pairs": _depthwise_pairs,
    "depthwise_spread": _depthwise_spread,
}
SIGNATURES: dict[str, Callable[[Any], Any]] = dict.fromkeys(BUILDERS, _signature)
HELPERS = ()
