"""The vector instructions of backward_weight by Winograd's algorithm: the products and G^T; as :mod:`.winograd_blocks`.

Output channels are in the lanes of the sums; tiles are the loop, so nothing is summed over lanes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from numba.extending import intrinsic

from . import vector
from .vector import Emit, addresses, void
from .winograd_blocks import PAIRS, Sum, choose, kernels, real, with_plan
from .winograd_plan import VECTORS, first_phase


def _scalars(lanes: int, vectors: int) -> int:
    """Input channels of a register tile of so many vectors of output channels: a divisor of the lanes."""
    return min(lanes, 8 if vectors == 1 or vector.target.registers >= 32 else 4)


@intrinsic
def sum_products(
    typingctx: Any,
    like: Any,
    vectors: Any,
    v: Any,
    u: Any,
    chunk: Any,
    v_rows: Any,
    u_rows: Any,
    tiles: Any,
    together: Any,
    rows: Any,
    cols: Any,
    line: Any,
    point: Any,
    inputs: Any,
    m: Any,
    channel: Any,
    again: Any,
) -> Any:
    """m[input channel][vector] (`again`: +)= sum over tiles of v[input channel] * u[vector].

    Of `rows` x `cols` points that meet one weight, `line` and `point` apart. `together` tiles lie side by side, others
    `v_rows` and `u_rows` further; chunks of L channels of both are `chunk` apart. Input channels to a whole register
    tile beyond `inputs` are computed as well. All distances in bytes.
    """
    bodies: dict[int, Any] = {count: functools.partial(_products_body, count) for count in range(1, VECTORS + 1)}
    return addresses(like, 16), void(lambda emit, args: choose(emit, "weight_products", bodies, args))


def _products_body(vectors: int, emit: Emit, args: Sequence[Any]) -> None:
    v, u, chunk, v_rows, u_rows, tiles, together, rows, cols, line, point, inputs, m, channel, again = args
    builder, scalars = emit.builder, _scalars(emit.lanes, vectors)
    count, lanes = emit.const(scalars), emit.const(emit.lanes)
    some = builder.sdiv(builder.add(tiles, emit.plus(together, -1)), together)
    with emit.loop(builder.sdiv(emit.plus(inputs, scalars - 1), count)) as number:
        first = builder.mul(number, count)
        begin = builder.add(v, builder.mul(builder.sdiv(first, lanes), chunk))
        begin = builder.add(begin, emit.times(builder.srem(first, lanes), emit.element_bytes))
        sums = emit.variables(scalars * vectors)
        with emit.loop(rows) as row, emit.loop(cols) as col, emit.loop(some) as turn:
            offset = builder.add(builder.mul(row, line), builder.mul(col, point))
            values = builder.add(builder.add(begin, offset), builder.mul(turn, v_rows))
            gradients = [builder.add(builder.add(u, offset), builder.mul(turn, u_rows))]
            for _ in range(1, vectors):
                gradients.append(builder.add(gradients[-1], chunk))
            with emit.loop(emit.smaller(builder.sub(tiles, builder.mul(turn, together)), together)) as tile:
                here = emit.times(tile, emit.vector_bytes)
                held = [emit.load(builder.add(place, here)) for place in gradients]
                value = builder.add(values, here)
                for i in range(scalars):
                    spread = emit.broadcast(emit.plus(value, i * emit.element_bytes))
                    for slot, gradient in zip(sums[i * vectors : (i + 1) * vectors], held, strict=True):
                        builder.store(emit.fma(spread, gradient, builder.load(slot)), slot)
        to = builder.add(m, builder.mul(first, channel))
        places = []
        for _ in range(scalars):
            places += [emit.plus(to, k * emit.vector_bytes) for k in range(vectors)]
            to = builder.add(to, channel)
        with builder.if_then(builder.icmp_signed("!=", again, emit.const(0))):
            for slot, place in zip(sums, places, strict=True):
                builder.store(builder.fadd(builder.load(slot), emit.load(place)), slot)
        for slot, place in zip(sums, places, strict=True):
            emit.store(builder.load(slot), place)


@intrinsic
def transform_sums(
    typingctx: Any,
    like: Any,
    p: Any,
    kernel: Any,
    m: Any,
    channel: Any,
    channels: Any,
    vectors: Any,
    turned: Any,
    poison: Any,
) -> Any:
    """G^T m G of `channels` input channels, `channel` bytes apart, to turned[channel][tap][vectors].

    m is [f][vectors] of each. Where a weight is not finite, `poison` becomes NaN.
    """
    bodies: dict[int, Any] = {key: functools.partial(_sums_body, *shape) for key, shape in kernels(p).items()}
    return with_plan(like, p, 7, lambda emit, args: choose(emit, "weight_sums", bodies, args))


def _taps_line(emit: Emit, points: int, taps: int, t: Sequence[Any]) -> list[Any]:
    """G^T t, t of the points whose weights differ"""
    first = first_phase(points)
    if points == 1:
        return list(t)
    if first == points:
        return _taps_phase(emit, points, taps, t)
    begin, end = _taps_phase(emit, first, 2, t[:first])
    return [begin, t[first], end]


def _taps_phase(emit: Emit, points: int, taps: int, t: Sequence[Any]) -> list[Any]:
    add, builder = Sum(emit), emit.builder
    pairs = PAIRS[(points - 1) // 2]
    even = [builder.fadd(t[1 + 2 * i], t[2 + 2 * i]) for i in range(len(pairs))]
    odd = [builder.fsub(t[1 + 2 * i], t[2 + 2 * i]) for i in range(len(pairs))]
    ends = {0: t[0]} if points % 2 else {0: t[0], taps - 1: t[-1]}  # 0 and infinity
    line = []
    for j in range(taps):
        terms = [(p**j, value) for p, value in zip(pairs, odd if j % 2 else even, strict=True)]
        if j in ends:
            line.append(add(ends[j], *terms))
        else:
            line.append(add(builder.fmul(real(emit, terms[0][0]), terms[0][1]), *terms[1:]))
    return line


def _sums_body(points_h: int, points_w: int, rows: int, cols: int, emit: Emit, args: Sequence[Any]) -> None:
    m, channel, channels, vectors, turned, poison = args
    builder = emit.builder
    down, across = (first_phase(points) + (points > first_phase(points)) for points in (points_h, points_w))
    watched = emit.variables(1, lambda number: emit.load(poison))[0]
    step = emit.times(vectors, emit.vector_bytes)
    with emit.loop(channels) as c, emit.loop(vectors) as k:
        offset = emit.times(k, emit.vector_bytes)
        place = builder.add(builder.add(m, builder.mul(c, channel)), offset)
        points = []
        for _ in range(down * across):
            points.append(emit.load(place))
            place = builder.add(place, step)
        half = [_taps_line(emit, points_h, rows, points[j::across]) for j in range(across)]
        to = builder.add(builder.add(turned, builder.mul(emit.times(c, rows * cols), step)), offset)
        for i in range(rows):
            for value in _taps_line(emit, points_w, cols, [column[i] for column in half]):
                builder.store(emit.fma(value, emit.zero(), builder.load(watched)), watched)
                emit.store(value, to)
                to = builder.add(to, step)
    emit.store(builder.load(watched), poison)
