"""The vector instructions of Winograd's algorithm: its three transforms and the products, as LLVM vector IR.

An axis has the interpolation points 0, infinity and pairs +-p: p = 1/sqrt(2), sqrt(2) for the 6 points of an axis of a
plane, p = 1/2, 1, 2 for the 8 of a row. A row of B^T holds the coefficients of the product of (x - q) over the other
finite points q; the divisors that theory gives to G are in A, where they cost nothing. ``csrc/winograd_transforms.h``
says how these points were chosen and what they err by.

A `kind` is the kernel: 2 to 7, so many taps in a row; 11, 3x3; 13, 5x5. Strides and distances are in bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from . import vector
from .vector import I32, I64, Emit, addresses, call_apart, void
from .winograd_plan import POINTS_1D, POINTS_2D, SLAB, register_tiles

_KINDS = (*range(2, 8), 11, 13)
_PAIRS = {POINTS_2D: (0.5**0.5, 2**0.5), POINTS_1D: (0.5, 1.0, 2.0)}
_DIVISORS = {POINTS_2D: (-1.5, 6.0), POINTS_1D: (1.40625, -4.5, 90.0)}
_AHEAD = 8  # in-channels that weights are asked for before they are needed

_Body = Callable[[Emit, Sequence[Any]], None]


def _shape(kind: int) -> tuple[int, int, int, int]:
    """(points down, points across, kernel rows, kernel columns)"""
    return (1, POINTS_1D, 1, kind) if kind < 8 else (POINTS_2D, POINTS_2D, kind - 8, kind - 8)


def _outputs(kind: int) -> tuple[int, int]:
    points_h, points_w, rows, cols = _shape(kind)
    return points_h + 1 - rows, points_w + 1 - cols


def _choose(emit: Emit, name: str, bodies: dict[int, _Body], args: Sequence[Any]) -> None:
    """Call the body whose key is args[0] on the others: each a function of its own, with all registers for itself."""
    calls: dict[int, Callable[[], None]] = {
        key: functools.partial(call_apart, emit, f"{name}.{key}", body, args[1:]) for key, body in bodies.items()
    }
    emit.cases(args[0], calls, lambda: None)


def _real(emit: Emit, value: float) -> ir.Constant:
    return ir.Constant(emit.vector, [ir.Constant(emit.element, value)] * emit.lanes)


class _Sum:
    """Sums of vectors times constants, one after the other, as fused multiply-adds."""

    def __init__(self, emit: Emit):
        self.emit = emit

    def __call__(self, first: Any, *terms: tuple[float, Any]) -> Any:
        emit, total = self.emit, first
        for factor, value in terms:
            if factor == 1:
                total = emit.builder.fadd(total, value)
            elif factor == -1:
                total = emit.builder.fsub(total, value)
            else:
                total = emit.fma(_real(emit, factor), value, total)
        return total


def _transform_line(emit: Emit, d: Sequence[Any]) -> list[Any]:
    """B^T d"""
    add = _Sum(emit)
    if len(d) == 1:
        return list(d)
    if len(d) == POINTS_2D:
        (near, far) = _PAIRS[POINTS_2D]
        even_near, odd_near = add(d[4], (-2, d[2])), add(d[3], (-2, d[1]))
        even_far, odd_far = add(d[4], (-0.5, d[2])), add(d[3], (-0.5, d[1]))
        return [
            add(d[0], (1, d[4]), (-2.5, d[2])),
            add(even_near, (near, odd_near)),
            add(even_near, (-near, odd_near)),
            add(even_far, (far, odd_far)),
            add(even_far, (-far, odd_far)),
            add(d[5], (1, d[1]), (-2.5, d[3])),
        ]
    even_near, odd_near = add(d[6], (-5, d[4]), (4, d[2])), add(d[5], (-5, d[3]), (4, d[1]))
    even_one, odd_one = add(d[6], (-4.25, d[4]), (1, d[2])), add(d[5], (-4.25, d[3]), (1, d[1]))
    even_far, odd_far = add(d[6], (-1.25, d[4]), (0.25, d[2])), add(d[5], (-1.25, d[3]), (0.25, d[1]))
    return [
        add(d[0], (-1, d[6]), (5.25, add(d[4], (-1, d[2])))),
        add(even_near, (0.5, odd_near)),
        add(even_near, (-0.5, odd_near)),
        add(even_one, (1, odd_one)),
        add(even_one, (-1, odd_one)),
        add(even_far, (2, odd_far)),
        add(even_far, (-2, odd_far)),
        add(d[7], (-1, d[1]), (5.25, add(d[3], (-1, d[5])))),
    ]


def _kernel_line(emit: Emit, points: int, g: Sequence[Any]) -> list[Any]:
    """G g, but for the divisors"""
    if points == 1:
        return list(g)
    add = _Sum(emit)
    line = [g[0]]
    for p in _PAIRS[points]:
        even = add(g[0], *((p**i, g[i]) for i in range(2, len(g), 2)))
        odd = add(emit.builder.fmul(_real(emit, p), g[1]), *((p**i, g[i]) for i in range(3, len(g), 2)))
        line += [emit.builder.fadd(even, odd), emit.builder.fsub(even, odd)]
    return [*line, g[-1]]


def _output_line(emit: Emit, outputs: int, m: Sequence[Any]) -> list[Any]:
    """A^T m, with the divisors"""
    points, builder = len(m), emit.builder
    if points == 1:
        return list(m)
    add = _Sum(emit)
    pairs = range(points // 2 - 1)
    even = [builder.fadd(m[1 + 2 * i], m[2 + 2 * i]) for i in pairs]
    odd = [builder.fsub(m[1 + 2 * i], m[2 + 2 * i]) for i in pairs]
    line = []
    for j in range(outputs):
        terms = [
            (p**j / divisor, (odd if j % 2 else even)[i])
            for i, (p, divisor) in enumerate(zip(_PAIRS[points], _DIVISORS[points], strict=True))
        ]
        if j in (0, outputs - 1):
            line.append(add(m[0 if j == 0 else points - 1], *terms))
        else:
            first = builder.fmul(_real(emit, terms[0][0]), terms[0][1])
            line.append(add(first, *terms[1:]))
    return line


# ---- inputs


@intrinsic
def turn_rows(
    typingctx: Any,
    like: Any,
    out: Any,
    apart: Any,
    source: Any,
    source_stride: Any,
    channels: Any,
    low: Any,
    high: Any,
    count: Any,
) -> Any:
    """One row of L channels turned: vector j, at out + j*apart, holds column j of each, or zero outside of [low, high).

    Of fewer channels the last one fills the lanes. `source` is column 0 of the first channel and may point before its
    array; up to L vectors beyond `count` are overwritten.
    """

    def body(emit: Emit, args: Sequence[Any]) -> None:
        out, apart, source, source_stride, channels, low, high, count = args
        builder, lanes = emit.builder, emit.lanes
        there = builder.sub(high, low)
        first = builder.add(source, emit.times(low, emit.element_bytes))
        places = [first]
        for lane in range(1, lanes):
            number = emit.smaller(emit.const(lane), emit.plus(channels, -1))
            places.append(builder.add(first, builder.mul(number, source_stride)))
        start = builder.add(out, builder.mul(low, apart))

        def square(at: Any, load: Callable[[Any], Any]) -> None:
            offset = emit.times(at, emit.element_bytes)
            place = builder.add(start, builder.mul(at, apart))
            for turned in emit.transposed([load(builder.add(row, offset)) for row in places]):
                emit.store(turned, place)
                place = builder.add(place, apart)

        with builder.if_else(builder.icmp_signed(">=", there, emit.const(lanes))) as (enough, few):
            with enough:
                squares = builder.sdiv(emit.plus(there, lanes - 1), emit.const(lanes))
                with emit.loop(squares) as number:  # the last one overlaps the one before: the same numbers again
                    square(emit.smaller(emit.times(number, lanes), emit.plus(there, -lanes)), emit.load)
            with few, builder.if_then(builder.icmp_signed(">", there, emit.const(0))):
                mask = emit.between(emit.const(0), 1, emit.const(0), there)
                square(emit.const(0), lambda place: emit.load_masked(place, mask))
        for begin, end in ((emit.const(0), low), (high, count)):
            with emit.loop(emit.larger(builder.sub(end, begin), emit.const(0))) as j:
                emit.store(emit.zero(), builder.add(out, builder.mul(builder.add(begin, j), apart)))

    return addresses(like, 8), void(lambda emit, args: call_apart(emit, "turn_rows", body, args))


@intrinsic
def transform_inputs(
    typingctx: Any,
    like: Any,
    plane: Any,
    columns: Any,
    count: Any,
    tiles: Any,
    outputs: Any,
    step: Any,
    v: Any,
    tile: Any,
    rows: Any,
    v_rows: Any,
    v_point: Any,
) -> Any:
    """B^T d B of tiles side by side, from columns[column][point down][L] (`count` columns; overwritten) to v.

    `plane`: 1, or 0 for a row. They are the tiles from number `tile` on of their block; `rows` of them make a register
    tile, which has `v_rows` bytes of v.
    """
    return addresses(like, 11), void(
        lambda emit, args: _choose(
            emit,
            "inputs",
            {
                0: functools.partial(_inputs_body, 1, POINTS_1D),
                1: functools.partial(_inputs_body, POINTS_2D, POINTS_2D),
            },
            args,
        )
    )


def _inputs_body(down: int, across: int, emit: Emit, args: Sequence[Any]) -> None:
    columns, count, tiles, outputs, step, v, tile, rows, v_rows, v_point = args
    builder, column_bytes = emit.builder, down * emit.vector_bytes
    if down > 1:
        with emit.loop(count) as j:
            place = builder.add(columns, emit.times(j, column_bytes))
            line = [emit.load(emit.plus(place, i * emit.vector_bytes)) for i in range(down)]
            for i, value in enumerate(_transform_line(emit, line)):
                emit.store(value, emit.plus(place, i * emit.vector_bytes))
    apart = emit.times(step, column_bytes)
    to_slot, in_row_slot = (cgutils.alloca_once(builder, I64) for _ in range(2))
    builder.store(builder.add(v, builder.mul(builder.sdiv(tile, rows), v_rows)), to_slot)
    builder.store(builder.srem(tile, rows), in_row_slot)
    with emit.loop(tiles) as number:
        start = builder.mul(builder.mul(outputs, step), builder.sdiv(number, step))
        place = builder.add(columns, emit.times(builder.add(start, builder.srem(number, step)), column_bytes))
        in_row = builder.load(in_row_slot)
        to = builder.add(builder.load(to_slot), emit.times(in_row, emit.vector_bytes))
        for i in range(down):
            at = emit.plus(place, i * emit.vector_bytes)
            line = []
            for _ in range(across):
                line.append(emit.load(at))
                at = builder.add(at, apart)
            for value in _transform_line(emit, line):
                emit.store(value, to)
                to = builder.add(to, v_point)
        following = emit.plus(in_row, 1)
        full = builder.icmp_signed("==", following, rows)
        builder.store(builder.select(full, emit.const(0), following), in_row_slot)
        further = builder.add(builder.load(to_slot), v_rows)
        builder.store(builder.select(full, further, builder.load(to_slot)), to_slot)


# ---- weights


@intrinsic
def transform_weights(
    typingctx: Any,
    like: Any,
    kind: Any,
    flipped: Any,
    weights: Any,
    out_stride: Any,
    in_stride: Any,
    outputs: Any,
    first: Any,
    inputs: Any,
    vectors: Any,
    u: Any,
    u_slab: Any,
) -> Any:
    """G g G^T of the kernels of up to L out-channels and `inputs` in-channels, to u.

    `weights` is the kernel of the first of both; of fewer `outputs` than L the last one fills the lanes. In-channel
    `first` + c goes to u[slab][f][in-channel of the slab][vectors], u being that of the first vector of in-channel 0.
    """
    return addresses(like, 11), void(
        lambda emit, args: _choose(
            emit,
            "weights",
            {kind: functools.partial(_weights_body, kind) for kind in _KINDS},
            args,
        )
    )


def _kernels_turned(emit: Emit, taps: int, places: Sequence[Any]) -> list[Any]:
    """Tap after tap, as vectors of the out-channels whose kernels begin at `places`."""
    lanes, turned = emit.lanes, []
    if taps < lanes:
        mask = ir.Constant(emit.bits, [lane < taps for lane in range(lanes)])
        return emit.transposed([emit.load_masked(place, mask) for place in places])[:taps]
    for begin in range(0, taps, lanes):
        at = min(begin, taps - lanes)  # the last ones overlap those before
        columns = emit.transposed([emit.load(emit.plus(place, at * emit.element_bytes)) for place in places])
        turned += columns[begin - at :]
    return turned


def _weights_body(kind: int, emit: Emit, args: Sequence[Any]) -> None:
    flipped, weights, out_stride, in_stride, outputs, first, inputs, vectors, u, u_slab = args
    builder, lanes = emit.builder, emit.lanes
    down, across, rows, cols = _shape(kind)
    slab = min(lanes, SLAB)
    point = (2 * slab + 1) * emit.vector_bytes
    places = []
    for lane in range(lanes):
        number = emit.smaller(emit.const(lane), emit.plus(outputs, -1))
        places.append(builder.add(weights, builder.mul(number, out_stride)))
    ahead = emit.times(in_stride, _AHEAD)
    with emit.loop(inputs) as c:
        offset = builder.mul(c, in_stride)
        here = [builder.add(place, offset) for place in places]
        for place in here:
            _prefetch(emit, builder.add(place, ahead))
        g = _kernels_turned(emit, rows * cols, here)
        back = builder.icmp_signed("!=", flipped, emit.const(0))
        g = [builder.select(back, b, a) for a, b in zip(g, g[::-1], strict=True)]
        half = [_kernel_line(emit, down, g[s::cols]) for s in range(cols)]
        channel = builder.add(first, c)
        number = builder.srem(channel, emit.const(slab))
        to = builder.add(u, builder.mul(builder.sdiv(channel, emit.const(slab)), u_slab))
        to = builder.add(to, emit.times(builder.mul(number, vectors), emit.vector_bytes))
        for i in range(down):
            for value in _kernel_line(emit, across, [half[s][i] for s in range(cols)]):
                emit.store(value, to)
                to = emit.plus(to, point)


def _prefetch(emit: Emit, address: Any) -> None:
    pointer = emit.builder.inttoptr(address, ir.IntType(8).as_pointer())
    numbers = [ir.Constant(I32, value) for value in (0, 3, 1)]  # to be read, into all levels, data
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, *(number.type for number in numbers)])
    function = cgutils.get_or_insert_function(emit.builder.module, kind, "llvm.prefetch.p0")
    emit.builder.call(function, [pointer, *numbers])


# ---- products


def product_shapes() -> list[tuple[int, int]]:
    """(tiles, vectors of out-channels) of the register tiles, in the order of their numbers."""
    return [(tiles, vectors) for vectors in (1, 2) for tiles in range(1, register_tiles(vector.target) + 1)]


@intrinsic
def multiply_tiles(
    typingctx: Any,
    like: Any,
    shape: Any,
    v: Any,
    v_chunk: Any,
    u: Any,
    u_slab: Any,
    inputs: Any,
    m: Any,
    again: Any,
) -> Any:
    """m[tile][vector] = sum over `inputs` channels of v[chunk][tile][channel] * u[slab][channel][vector].

    Of one point of the tiles; `shape` counts :func:`product_shapes`. With `again` the sums are added to what is in m.
    """
    return addresses(like, 8), void(
        lambda emit, args: _choose(
            emit,
            "products",
            {number: functools.partial(_products_body, *shape) for number, shape in enumerate(product_shapes())},
            args,
        )
    )


def _products_body(tiles: int, vectors: int, emit: Emit, args: Sequence[Any]) -> None:
    v, v_chunk, u, u_slab, inputs, m, again = args
    builder, lanes = emit.builder, emit.lanes
    slab = min(lanes, SLAB)
    sums = emit.variables(tiles * vectors)
    in_chunk = lanes // slab
    with emit.loop(builder.sdiv(emit.plus(inputs, slab - 1), emit.const(slab))) as number:
        chunk = builder.sdiv(number, emit.const(in_chunk))
        begin = builder.srem(number, emit.const(in_chunk))
        values = builder.add(v, builder.mul(chunk, v_chunk))
        values = builder.add(values, emit.times(begin, slab * emit.element_bytes))
        weights = builder.add(u, builder.mul(number, u_slab))
        left = emit.smaller(builder.sub(inputs, emit.times(number, slab)), emit.const(slab))
        with emit.loop(left) as c:
            value = builder.add(values, emit.times(c, emit.element_bytes))
            row = builder.add(weights, emit.times(c, vectors * emit.vector_bytes))
            held = [emit.load(emit.plus(row, k * emit.vector_bytes)) for k in range(vectors)]
            for tile in range(tiles):
                spread = emit.broadcast(emit.plus(value, tile * emit.vector_bytes))
                for k in range(vectors):
                    slot = sums[tile * vectors + k]
                    builder.store(emit.fma(spread, held[k], builder.load(slot)), slot)
    with builder.if_then(builder.icmp_signed("!=", again, emit.const(0))):  # long sums in parts err less
        for number, slot in enumerate(sums):
            before = emit.load(emit.plus(m, number * emit.vector_bytes))
            builder.store(builder.fadd(builder.load(slot), before), slot)
    for number, slot in enumerate(sums):
        emit.store(builder.load(slot), emit.plus(m, number * emit.vector_bytes))


# ---- outputs


def _same(value: Any, number: int) -> Any:
    return value


@intrinsic
def transform_outputs(
    typingctx: Any,
    like: Any,
    kind: Any,
    m: Any,
    m_point: Any,
    m_tile: Any,
    tiles: Any,
    step: Any,
    out: Any,
    rows: Any,
    row_bytes: Any,
    columns: Any,
    bias: Any,
    channels: Any,
    poison: Any,
) -> Any:
    """A^T m A of tiles side by side, to out[row][column][L]: the first `rows` rows of each, `columns` columns in all.

    `bias` has `channels` elements, added after a look at the outputs: where one is not finite, `poison` becomes NaN.
    """
    return addresses(like, 13), void(
        lambda emit, args: _choose(
            emit,
            "outputs",
            {kind: functools.partial(_outputs_body, kind) for kind in _KINDS},
            args,
        )
    )


def _outputs_body(kind: int, emit: Emit, args: Sequence[Any]) -> None:
    m, m_point, m_tile, tiles, step, out, rows, row_bytes, columns, bias, channels, poison = args
    builder = emit.builder
    down, across, _, _ = _shape(kind)
    rows_out, cols_out = _outputs(kind)
    watched = emit.variables(1, lambda number: emit.load(poison))[0]
    biases = emit.load_masked(bias, emit.between(emit.const(0), 1, emit.const(0), channels))
    apart = emit.times(step, emit.vector_bytes)
    with emit.loop(tiles) as tile:
        place = builder.add(m, builder.mul(tile, m_tile))
        points = []
        for _ in range(down * across):
            points.append(emit.load(place))
            place = builder.add(place, m_point)
        half = [_output_line(emit, rows_out, points[j::across]) for j in range(across)]
        start = builder.mul(builder.mul(emit.const(cols_out), step), builder.sdiv(tile, step))
        start = builder.add(start, builder.srem(tile, step))
        begin = builder.add(out, emit.times(start, emit.vector_bytes))
        for i in range(rows_out):
            with builder.if_then(builder.icmp_signed("<", emit.const(i), rows)):
                values = _output_line(emit, cols_out, [half[j][i] for j in range(across)])
                to = builder.add(begin, builder.mul(emit.const(i), row_bytes))
                for j, value in enumerate(values):
                    there = builder.icmp_signed("<", builder.add(start, builder.mul(emit.const(j), step)), columns)
                    with builder.if_then(there):
                        gone = emit.fma(value, emit.zero(), builder.load(watched))
                        builder.store(gone, watched)
                        emit.store(builder.fadd(value, biases), to)
                    to = builder.add(to, apart)
    emit.store(builder.load(watched), poison)


@intrinsic
def store_turned(
    typingctx: Any,
    like: Any,
    outputs: Any,
    pixels: Any,
    channels: Any,
    target: Any,
    target_stride: Any,
    bias: Any,
) -> Any:
    """target[channel][pixel] = outputs[pixel][channel of L], plus bias[channel][pixel] where that address is not 0."""

    def body(emit: Emit, args: Sequence[Any]) -> None:
        outputs, pixels, channels, target, target_stride, bias = args
        builder, lanes = emit.builder, emit.lanes
        biased = builder.icmp_signed("!=", bias, emit.const(0))

        def square(at: Any, load: Callable[[Any], Any], store: Callable[[Any, Any], None]) -> None:
            place = builder.add(outputs, emit.times(at, emit.vector_bytes))
            rows = [emit.load(emit.plus(place, j * emit.vector_bytes)) for j in range(lanes)]
            offset = emit.times(at, emit.element_bytes)
            for lane, value in enumerate(emit.transposed(rows)):
                with builder.if_then(builder.icmp_signed("<", emit.const(lane), channels)):
                    total = emit.variables(1, functools.partial(_same, value))[0]
                    with builder.if_then(biased):
                        builder.store(builder.fadd(value, load(builder.add(bias, offset))), total)
                    store(builder.load(total), builder.add(target, offset))
                offset = builder.add(offset, target_stride)

        with builder.if_else(builder.icmp_signed(">=", pixels, emit.const(lanes))) as (enough, few):
            with enough:
                squares = builder.sdiv(emit.plus(pixels, lanes - 1), emit.const(lanes))
                with emit.loop(squares) as number:  # the last one overlaps the one before: the same numbers again
                    at = emit.smaller(emit.times(number, lanes), emit.plus(pixels, -lanes))
                    square(at, emit.load, emit.store)
            with few:
                mask = emit.between(emit.const(0), 1, emit.const(0), pixels)
                square(
                    emit.const(0),
                    lambda place: emit.load_masked(place, mask),
                    lambda value, place: emit.store_masked(value, place, mask),
                )

    return addresses(like, 6), void(lambda emit, args: call_apart(emit, "store_turned", body, args))
