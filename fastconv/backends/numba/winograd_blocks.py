"""The vector instructions of Winograd's algorithm: its three transforms and the products, as LLVM vector IR.

An axis has the interpolation points 0, infinity and pairs +-p: p = 1/sqrt(2), sqrt(2) for the 6 points of an axis of a
plane, p = 1/2, 1, 2 for the 8 of a row. A row of B^T holds the coefficients of the product of (x - q) over the other
finite points q; the divisors that theory gives to G are in A, where they cost nothing. ``csrc/winograd_transforms.h``
says how these points were chosen and what they err by.

At stride 2 an axis has two phases: the first has the 8 points of a row, or those 6 without infinity, and the second no
transform at all.

Each transform is one function for each kernel, or for each number of outputs, of the stride that the kernel around it
is compiled for: see `kernels` and `_results`. Distances are in bytes but where they count inputs or outputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from . import vector
from .vector import I32, I64, Emit, addresses, call_apart, void
from .winograd_plan import (
    PHASE_1D,
    PHASE_2D,
    PLANE,
    POINTS_1D,
    POINTS_2D,
    SLAB,
    first_phase,
    register_tiles,
)

PAIRS = {2: (0.5**0.5, 2**0.5), 3: (0.5, 1.0, 2.0)}
_DIVISORS = {2: (-1.5, 6.0), 3: (1.40625, -4.5, 90.0)}
_AHEAD = 8  # in-channels that weights are asked for before they are needed

_Body = Callable[[Emit, Sequence[Any]], None]


def _points(p: Any) -> tuple[int, int]:
    """Points of an axis of a plane, and of a row, of the plan `p`: a type of Numba."""
    return (2 * PHASE_2D + 1, 2 * PHASE_1D + 1) if "strided" in p.fields else (POINTS_2D, POINTS_1D)


def kernels(p: Any) -> dict[int, tuple[int, int, int, int]]:
    """What the plan calls a kernel -> (points down, points across, kernel rows, kernel columns)."""
    plane, row = _points(p)
    rows, planes = (range(2, 8), (3, 5)) if row == POINTS_1D else ((3,), (3,))
    found = {taps: (1, row, 1, taps) for taps in rows}
    return found | {PLANE + taps: (plane, plane, taps, taps) for taps in planes}


def _results(p: Any, phases: Sequence[int] = (1, 2)) -> dict[int, tuple[int, int, int, int]]:
    """What the plan calls a result -> (points down, points across, rows of outputs, columns of outputs).

    At stride 2, outputs of so many `phases`.
    """
    plane, row = _points(p)
    if row == POINTS_1D:
        shapes = kernels(p).values()
        tiles = [(down, across, down + 1 - rows, across + 1 - cols) for down, across, rows, cols in shapes]
    else:
        tiles = [(1, row, 1, times * PHASE_1D) for times in phases]
        tiles += [(plane, plane, times * PHASE_2D, times * PHASE_2D) for times in phases]
    return {(PLANE if tile[0] > 1 else 0) + tile[3]: tile for tile in tiles}


def with_plan(like: Any, p: Any, integers: int, codegen_body: _Body) -> Any:
    """An intrinsic's answer: it takes the array, the plan, of which only the types matter, and so many integers."""
    signature = types.void(like, p, *(types.intp,) * integers)
    return signature, void(lambda emit, args: codegen_body(emit, args[1:]))


def choose(emit: Emit, name: str, bodies: dict[int, _Body], args: Sequence[Any]) -> None:
    """Call the body whose key is args[0] on the others: each a function of its own, with all registers for itself."""
    calls: dict[int, Callable[[], None]] = {
        key: functools.partial(call_apart, emit, f"{name}.{key}", body, args[1:]) for key, body in bodies.items()
    }
    emit.cases(args[0], calls, lambda: None)


def real(emit: Emit, value: float) -> ir.Constant:
    return ir.Constant(emit.vector, [ir.Constant(emit.element, value)] * emit.lanes)


class Sum:
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
                total = emit.fma(real(emit, factor), value, total)
        return total


def _transform_line(emit: Emit, d: Sequence[Any]) -> list[Any]:
    """B^T d"""
    first = first_phase(len(d))
    return [*_transform_phase(emit, d[:first]), *d[first:]]


def _transform_phase(emit: Emit, d: Sequence[Any]) -> list[Any]:
    add = Sum(emit)
    if len(d) == 1:
        return list(d)
    if len(d) <= POINTS_2D:
        (near, far) = PAIRS[2]
        even_near, odd_near = add(d[4], (-2, d[2])), add(d[3], (-2, d[1]))
        even_far, odd_far = add(d[4], (-0.5, d[2])), add(d[3], (-0.5, d[1]))
        finite = [
            add(d[0], (1, d[4]), (-2.5, d[2])),
            add(even_near, (near, odd_near)),
            add(even_near, (-near, odd_near)),
            add(even_far, (far, odd_far)),
            add(even_far, (-far, odd_far)),
        ]
        return finite if len(d) < POINTS_2D else [*finite, add(d[5], (1, d[1]), (-2.5, d[3]))]
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
    """G g, but for the divisors, where weights differ"""
    if points == 1:
        return list(g)
    first = first_phase(points)
    return _kernel_phase(emit, points, g) if first == points else [*_kernel_phase(emit, first, g[::2]), g[1]]


def _kernel_phase(emit: Emit, points: int, g: Sequence[Any]) -> list[Any]:
    add = Sum(emit)
    line = [g[0]]
    for p in PAIRS[(points - 1) // 2]:
        even = add(g[0], *((p**i, g[i]) for i in range(2, len(g), 2)))
        odd = add(emit.builder.fmul(real(emit, p), g[1]), *((p**i, g[i]) for i in range(3, len(g), 2)))
        line += [emit.builder.fadd(even, odd), emit.builder.fsub(even, odd)]
    return line if points % 2 else [*line, g[-1]]


def _output_line(emit: Emit, outputs: int, m: Sequence[Any]) -> list[Any]:
    """A^T m, with the divisors: the outputs of two phases added, or one after the other where there are as many"""
    first = first_phase(len(m))
    second = list(m[first:])
    line = _output_phase(emit, len(second) or outputs, m[:first])
    if outputs > len(line):
        return line + second
    return [emit.builder.fadd(a, b) for a, b in zip(line, second, strict=True)] if second else line


def _output_phase(emit: Emit, outputs: int, m: Sequence[Any]) -> list[Any]:
    points, builder = len(m), emit.builder
    if points == 1:
        return list(m)
    add = Sum(emit)
    pairs = (points - 1) // 2
    even = [builder.fadd(m[1 + 2 * i], m[2 + 2 * i]) for i in range(pairs)]
    odd = [builder.fsub(m[1 + 2 * i], m[2 + 2 * i]) for i in range(pairs)]
    ends = {0: m[0]} if points % 2 else {0: m[0], outputs - 1: m[-1]}  # 0 and infinity
    line = []
    for j in range(outputs):
        terms = [
            (p**j / divisor, (odd if j % 2 else even)[i])
            for i, (p, divisor) in enumerate(zip(PAIRS[pairs], _DIVISORS[pairs], strict=True))
        ]
        if j in ends:
            line.append(add(ends[j], *terms))
        else:
            first = builder.fmul(real(emit, terms[0][0]), terms[0][1])
            line.append(add(first, *terms[1:]))
    return line


def _spread_line(emit: Emit, points: int, y: Sequence[Any]) -> list[Any]:
    """A y, with the divisors: what the gradients of a tile's outputs are in its points, where phases are added"""
    if points == 1:
        return list(y)
    first = first_phase(points)
    return _spread_phase(emit, first, y) + list(y[: points - first])


def _spread_phase(emit: Emit, points: int, y: Sequence[Any]) -> list[Any]:
    add, builder = Sum(emit), emit.builder
    pairs = (points - 1) // 2
    line = [y[0]]
    for p, divisor in zip(PAIRS[pairs], _DIVISORS[pairs], strict=True):
        terms = [(p**j / divisor, value) for j, value in enumerate(y)]
        even, odd = (
            add(builder.fmul(real(emit, some[0][0]), some[0][1]), *some[1:]) for some in (terms[::2], terms[1::2])
        )
        line += [builder.fadd(even, odd), builder.fsub(even, odd)]
    return line if points % 2 else [*line, y[-1]]


def _line(emit: Emit, points: int, place: Any, distance: Any, apart: Any, second: Any) -> list[Any]:
    """The inputs of a tile along an axis, `distance` bytes from each other, phase by phase."""
    builder, line = emit.builder, []
    first = first_phase(points)
    if first < points:
        begins = place, builder.add(place, builder.mul(second, distance))
        distance = builder.mul(distance, apart)
    else:
        begins = place, place
    for at, count in zip(begins, (first, points - first), strict=True):
        for _ in range(count):
            line.append(emit.load(at))
            at = builder.add(at, distance)
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
    p: Any,
    which: Any,
    columns: Any,
    count: Any,
    tiles: Any,
    apart_h: Any,
    second_h: Any,
    apart_w: Any,
    second_w: Any,
    advance: Any,
    step: Any,
    v: Any,
    tile: Any,
    rows: Any,
    v_rows: Any,
    v_point: Any,
) -> Any:
    """B^T d B of tiles side by side, from columns[column][point down][L] (`count` columns; overwritten) to v.

    `which`: 1, or 0 for a row. Where `p` is a plan of gradients, A y A^T of `which` result. They are the tiles from
    number `tile` on of their block; `rows` of them lie together, in `v_rows` bytes of v.
    """
    across, row = _points(p)
    shapes = {0: (1, row, 0, 0), 1: (across, across, 0, 0)}
    if "gradient" in p.fields:
        shapes = _results(p, phases=(1,))
    bodies: dict[int, _Body] = {key: functools.partial(_inputs_body, *shape) for key, shape in shapes.items()}
    return with_plan(like, p, 15, lambda emit, args: choose(emit, "inputs", bodies, args))


def _inputs_body(down: int, across: int, rows_out: int, cols_out: int, emit: Emit, args: Sequence[Any]) -> None:
    """Of inputs, or of the gradients of rows_out x cols_out outputs."""
    columns, count, tiles, apart_h, second_h, apart_w, second_w, advance, step, v, tile, rows, v_rows, v_point = args
    builder, column_bytes = emit.builder, down * emit.vector_bytes

    def transformed(points: int, outputs: int, place: Any, distance: Any, *phases: Any) -> list[Any]:
        if not outputs:
            return _transform_line(emit, _line(emit, points, place, distance, *phases))
        places = [builder.add(place, builder.mul(distance, emit.const(number))) for number in range(outputs)]
        return _spread_line(emit, points, [emit.load(each) for each in places])

    if down > 1:
        with emit.loop(count) as j:
            place = builder.add(columns, emit.times(j, column_bytes))
            line = transformed(down, rows_out, place, emit.const(emit.vector_bytes), apart_h, second_h)
            for i, value in enumerate(line):
                emit.store(value, emit.plus(place, i * emit.vector_bytes))
    apart = emit.times(step, column_bytes)
    to_slot, in_row_slot = (cgutils.alloca_once(builder, I64) for _ in range(2))
    builder.store(builder.add(v, builder.mul(builder.sdiv(tile, rows), v_rows)), to_slot)
    builder.store(builder.srem(tile, rows), in_row_slot)
    with emit.loop(tiles) as number:
        start = builder.mul(builder.mul(advance, step), builder.sdiv(number, step))
        place = builder.add(columns, emit.times(builder.add(start, builder.srem(number, step)), column_bytes))
        in_row = builder.load(in_row_slot)
        to = builder.add(builder.load(to_slot), emit.times(in_row, emit.vector_bytes))
        for i in range(down):
            begin = emit.plus(place, i * emit.vector_bytes)
            for value in transformed(across, cols_out, begin, apart, apart_w, second_w):
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
    p: Any,
    kernel: Any,
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
    bodies: dict[int, _Body] = {
        kernel: functools.partial(_weights_body, *shape) for kernel, shape in kernels(p).items()
    }
    return with_plan(like, p, 11, lambda emit, args: choose(emit, "weights", bodies, args))


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


def _weights_body(points_h: int, points_w: int, rows: int, cols: int, emit: Emit, args: Sequence[Any]) -> None:
    flipped, weights, out_stride, in_stride, outputs, first, inputs, vectors, u, u_slab = args
    builder, lanes = emit.builder, emit.lanes
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
        half = [_kernel_line(emit, points_h, g[s::cols]) for s in range(cols)]
        channel = builder.add(first, c)
        number = builder.srem(channel, emit.const(slab))
        to = builder.add(u, builder.mul(builder.sdiv(channel, emit.const(slab)), u_slab))
        to = builder.add(to, emit.times(builder.mul(number, vectors), emit.vector_bytes))
        for i in range(len(half[0])):
            for value in _kernel_line(emit, points_w, [half[s][i] for s in range(cols)]):
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
        lambda emit, args: choose(
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
    p: Any,
    result: Any,
    m: Any,
    m_point: Any,
    m_tile: Any,
    tiles: Any,
    step: Any,
    lead_h: Any,
    lead_w: Any,
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
    bodies: dict[int, _Body] = {
        result: functools.partial(_outputs_body, *shape) for result, shape in _results(p).items()
    }
    return with_plan(like, p, 15, lambda emit, args: choose(emit, "outputs", bodies, args))


def _place(emit: Emit, points: int, outputs: int, lead: Any, number: int) -> Any:
    """Where output `number` of a tile lies, counted from its first."""
    phase = points - first_phase(points)
    if not phase or outputs == phase:
        return emit.const(number)
    if number < phase:
        return emit.plus(lead, 2 * number)
    return emit.builder.sub(emit.const(2 * (number - phase) + 1), lead)


def _outputs_body(down: int, across: int, rows_out: int, cols_out: int, emit: Emit, args: Sequence[Any]) -> None:
    m, m_point, m_tile, tiles, step, lead_h, lead_w, out, rows, row_bytes, columns, bias, channels, poison = args
    builder = emit.builder
    watched = emit.variables(1, lambda number: emit.load(poison))[0]
    biases = emit.load_masked(bias, emit.between(emit.const(0), 1, emit.const(0), channels))
    with emit.loop(tiles) as tile:
        place = builder.add(m, builder.mul(tile, m_tile))
        points = []
        for _ in range(down * across):
            points.append(emit.load(place))
            place = builder.add(place, m_point)
        half = [_output_line(emit, rows_out, points[j::across]) for j in range(across)]
        start = builder.mul(builder.mul(emit.const(cols_out), step), builder.sdiv(tile, step))
        start = builder.add(start, builder.srem(tile, step))
        for i in range(rows_out):
            row = _place(emit, down, rows_out, lead_h, i)
            with builder.if_then(builder.icmp_signed("<", row, rows)):
                values = _output_line(emit, cols_out, [half[j][i] for j in range(across)])
                begin = builder.add(out, builder.mul(row, row_bytes))
                for j, value in enumerate(values):
                    column = builder.add(start, builder.mul(_place(emit, across, cols_out, lead_w, j), step))
                    with builder.if_then(builder.icmp_signed("<", column, columns)):
                        gone = emit.fma(value, emit.zero(), builder.load(watched))
                        builder.store(gone, watched)
                        to = builder.add(begin, emit.times(column, emit.vector_bytes))
                        emit.store(builder.fadd(value, biases), to)
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
