"""FFT convolution: the transform's passes as vector IR, everything around them in plain Numba.

The method is told in ``csrc/fft.h``: products modulo x^N + 1, N = 2M, as complex transforms of M points by splitting
x^m - c^2 into (x^(m/2) - c)(x^(m/2) + c); one twiddle for each node of a binary heap. A block in memory::

    z [M][re, im][lanes]

is as many transforms side by side as a vector has lanes, of blocks of signals under one filter, or of the same block of
as many groups, whose filters' spectra are in the lanes too (``by_group``).
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

from . import vector
from .fft_plan import CHUNK, RECORD
from .flags import BIAS_PER_CHANNEL, BIAS_PER_POSITION
from .vector import (
    I32,
    I64,
    Emit,
    address,
    addresses,
    call_apart,
    flush_denormals,
    gather_rows,
    lanes,
    restore_mode,
    void,
)

NEAR = 16 << 10  # bytes of a node up to which passes go breadth first: half of level 1

Complex = tuple[Any, Any]


# ---- complex vectors


def _load(e: Emit, place: Any) -> Complex:
    return e.load(place), e.load(e.plus(place, e.vector_bytes))


def _store(e: Emit, value: Complex, place: Any) -> None:
    e.store(value[0], place)
    e.store(value[1], e.plus(place, e.vector_bytes))


def _twiddle(e: Emit, roots: Any, node: Any) -> Complex:
    place = e.plus(roots, e.times(node, 2 * e.element_bytes))
    return e.broadcast(place), e.broadcast(e.plus(place, e.element_bytes))


def _add(e: Emit, a: Complex, b: Complex) -> Complex:
    return e.builder.fadd(a[0], b[0]), e.builder.fadd(a[1], b[1])


def _subtract(e: Emit, a: Complex, b: Complex) -> Complex:
    return e.builder.fsub(a[0], b[0]), e.builder.fsub(a[1], b[1])


def _multiply(e: Emit, a: Complex, b: Complex) -> Complex:
    re, im = e.builder.fmul(a[0], b[0]), e.builder.fmul(a[0], b[1])
    return e.fma(e.builder.fneg(a[1]), b[1], re), e.fma(a[1], b[0], im)


def _multiply_conjugate(e: Emit, a: Complex, b: Complex) -> Complex:
    """a conj(b)"""
    re, im = e.builder.fmul(a[0], b[0]), e.builder.fmul(a[1], b[0])
    return e.fma(a[1], b[1], re), e.fma(e.builder.fneg(a[0]), b[1], im)


def _split(e: Emit, a: list[Complex], first: int, second: int, c: Complex) -> None:
    """a, b = a + c b, a - c b"""
    if vector.target.registers == 32 and vector.target.fma:
        # six multiply-adds in place of four and four additions, which with 64-byte vectors take the same ports
        (x, y), (u, v) = a[first], a[second]
        re = e.fma(e.builder.fneg(c[1]), v, e.fma(c[0], u, x))
        im = e.fma(c[1], u, e.fma(c[0], v, y))
        two = ir.Constant(e.vector, [2.0] * e.lanes)
        a[first] = re, im
        a[second] = e.fma(two, x, e.builder.fneg(re)), e.fma(two, y, e.builder.fneg(im))
        return
    turned = _multiply(e, c, a[second])
    a[first], a[second] = _add(e, a[first], turned), _subtract(e, a[first], turned)


def _join(e: Emit, a: list[Complex], first: int, second: int, c: Complex) -> None:
    """a, b = a + b, (a - b) conj(c)"""
    difference = _subtract(e, a[first], a[second])
    a[first] = _add(e, a[first], a[second])
    a[second] = _multiply_conjugate(e, difference, c)


def _split_twice(e: Emit, a: list[Complex], c: Complex, d: Complex) -> None:
    """A node with twiddle c into its grandchildren; d is the twiddle of its first child, i d of the other."""
    _split(e, a, 0, 2, c)
    _split(e, a, 1, 3, c)
    _split(e, a, 0, 1, d)
    a[3] = e.builder.fneg(a[3][1]), a[3][0]
    _split(e, a, 2, 3, d)


def _join_twice(e: Emit, a: list[Complex], c: Complex, d: Complex) -> None:
    _join(e, a, 0, 1, d)
    re, im = _subtract(e, a[2], a[3])
    a[2] = _add(e, a[2], a[3])
    a[3] = _multiply_conjugate(e, (im, e.builder.fneg(re)), d)
    _join(e, a, 0, 2, c)
    _join(e, a, 1, 3, c)


# ---- passes


def _nodes(twice: Callable[..., None], e: Emit, args: Sequence[Any]) -> None:
    """`count` nodes from number h of the heap on, of 4 * quarter points each."""
    roots, z, quarter, h, count = args
    builder = e.builder
    apart = e.times(quarter, 2 * e.vector_bytes)

    def four(place: Any, c: Complex, d: Complex) -> None:
        places = [place]
        for _ in range(3):
            places.append(builder.add(places[-1], apart))
        a = [_load(e, p) for p in places]
        twice(e, a, c, d)
        for value, p in zip(a, places, strict=True):
            _store(e, value, p)

    with e.loop(count) as number:
        node = builder.add(h, number)
        c, d = _twiddle(e, roots, node), _twiddle(e, roots, e.times(node, 2))
        start = builder.add(z, builder.mul(number, e.times(apart, 4)))
        single = builder.icmp_signed("==", quarter, e.const(1))
        with builder.if_else(single) as (then, otherwise):
            with then:
                four(start, c, d)
            with otherwise, e.loop(quarter) as n:
                four(builder.add(start, e.times(n, 2 * e.vector_bytes)), c, d)


def _root(one: Callable[..., None], e: Emit, args: Sequence[Any]) -> None:
    """The root alone, where the number of levels is odd."""
    roots, z, half = args
    c = _twiddle(e, roots, e.const(1))
    with e.loop(half) as n:
        first = e.builder.add(z, e.times(n, 2 * e.vector_bytes))
        second = e.builder.add(first, e.times(half, 2 * e.vector_bytes))
        a = [_load(e, first), _load(e, second)]
        one(e, a, 0, 1, c)
        _store(e, a[0], first)
        _store(e, a[1], second)


def _apart(name: str, body: Callable[[Emit, Sequence[Any]], None]) -> Callable[..., Any]:
    return void(lambda e, args: call_apart(e, name, body, args))


@intrinsic
def forward_nodes(typingctx: Any, like: Any, roots: Any, z: Any, quarter: Any, h: Any, count: Any) -> Any:
    """Two levels of splitting: see :func:`_nodes`."""
    return addresses(like, 5), _apart("fft_forward", functools.partial(_nodes, _split_twice))


@intrinsic
def inverse_nodes(typingctx: Any, like: Any, roots: Any, z: Any, quarter: Any, h: Any, count: Any) -> Any:
    """Two levels of joining."""
    return addresses(like, 5), _apart("fft_inverse", functools.partial(_nodes, _join_twice))


@intrinsic
def forward_root(typingctx: Any, like: Any, roots: Any, z: Any, half: Any) -> Any:
    """The root's splitting alone."""
    return addresses(like, 3), _apart("fft_forward_root", functools.partial(_root, _split))


@intrinsic
def inverse_root(typingctx: Any, like: Any, roots: Any, z: Any, half: Any) -> Any:
    """The root's joining alone."""
    return addresses(like, 3), _apart("fft_inverse_root", functools.partial(_root, _join))


# ---- products of spectra


def _kinds(e: Emit, name: str, body: Callable[..., None], args: Sequence[Any]) -> None:
    """`body` for each of the four kinds, args[0] = 2 * by_group + conjugate."""

    def case(kind: int) -> Callable[[], None]:
        by_group, conjugate = divmod(kind, 2)
        return lambda: call_apart(e, f"{name}.{kind}", functools.partial(body, by_group, conjugate), args[1:])

    e.cases(args[0], {kind: case(kind) for kind in range(1, 4)}, case(0))


def _filter_value(e: Emit, by_group: int, place: Any, wide: Any) -> Complex:
    """A value of a filter's spectrum: of a filter a lane, or of one filter for all lanes."""
    return _load(e, place) if by_group else (e.broadcast(place), e.broadcast(e.plus(place, wide)))


def _middle(by_group: int, conjugate: int, e: Emit, args: Sequence[Any]) -> None:
    roots, z, w, nodes = args
    builder, row = e.builder, 2 * e.vector_bytes
    filter_row = row if by_group else 2 * e.element_bytes
    with e.loop(nodes) as number:
        node = builder.add(nodes, number)
        c, d = _twiddle(e, roots, node), _twiddle(e, roots, e.times(node, 2))
        place = builder.add(z, e.times(number, 4 * row))
        filters = builder.add(w, e.times(number, 4 * filter_row))
        a = [_load(e, e.plus(place, i * row)) for i in range(4)]
        _split_twice(e, a, c, d)
        for i in range(4):
            b = _filter_value(e, by_group, e.plus(filters, i * filter_row), e.element_bytes)
            a[i] = _multiply_conjugate(e, a[i], b) if conjugate else _multiply(e, a[i], b)
        _join_twice(e, a, c, d)
        for i in range(4):
            _store(e, a[i], e.plus(place, i * row))


@intrinsic
def middle(typingctx: Any, like: Any, kind: Any, roots: Any, z: Any, w: Any, nodes: Any) -> Any:
    """One filter a channel: last pass in, product and first pass out while four values are in registers."""
    return addresses(like, 5), void(lambda e, args: _kinds(e, "fft_middle", _middle, args))


def _sum(by_group: int, conjugate: int, e: Emit, args: Sequence[Any]) -> None:
    roots, x, w, z, nodes, count, x_step, w_step, wide, add, last = args
    builder, row = e.builder, 2 * e.vector_bytes
    sums = e.variables(8)
    with e.loop(nodes) as number:
        node = builder.add(nodes, number)
        here = e.times(number, 4 * row)
        place = builder.add(z, here)
        with builder.if_else(builder.icmp_signed("!=", add, e.const(0))) as (then, otherwise):
            with then:
                for i, slot in enumerate(sums):
                    builder.store(e.load(e.plus(place, i * e.vector_bytes)), slot)
            with otherwise:
                for slot in sums:
                    builder.store(e.zero(), slot)
        source, filters = (
            builder.add(x, here),
            builder.add(w, here if by_group else e.times(builder.mul(number, wide), 8)),
        )
        with e.loop(count) as c:
            at, filter_at = builder.add(source, builder.mul(c, x_step)), builder.add(filters, builder.mul(c, w_step))
            for i in range(4):
                a = _load(e, e.plus(at, i * row))
                filter_place = e.plus(filter_at, i * row) if by_group else builder.add(filter_at, e.times(wide, 2 * i))
                b_re, b_im = _filter_value(e, by_group, filter_place, wide)
                minus = e.builder.fneg(b_im)
                terms = ((b_re, b_im), (minus, b_re)) if conjugate else ((b_re, minus), (b_im, b_re))
                for part in (0, 1):  # re: a.re t0 + a.im t1; im alike
                    slot = sums[2 * i + part]
                    first, second = terms[part]
                    total = e.fma(a[0], first, builder.load(slot))
                    builder.store(e.fma(a[1], second, total), slot)
        with builder.if_then(builder.icmp_signed("!=", last, e.const(0))):
            values = [(builder.load(sums[2 * i]), builder.load(sums[2 * i + 1])) for i in range(4)]
            _join_twice(e, values, _twiddle(e, roots, node), _twiddle(e, roots, e.times(node, 2)))
            for i, (re, im) in enumerate(values):
                builder.store(re, sums[2 * i])
                builder.store(im, sums[2 * i + 1])
        for i, slot in enumerate(sums):
            e.store(builder.load(slot), e.plus(place, i * e.vector_bytes))


@intrinsic
def sum_products(
    typingctx: Any,
    like: Any,
    kind: Any,
    roots: Any,
    x: Any,
    w: Any,
    z: Any,
    nodes: Any,
    count: Any,
    x_step: Any,
    w_step: Any,
    wide: Any,
    add: Any,
    last: Any,
) -> Any:
    """z (`add`: +)= the sum over `count` channels of x times their filters; the first pass out where they are `last`.

    Steps in bytes; `wide`: bytes of the values of all filters that lie side by side.
    """
    return addresses(like, 12), void(lambda e, args: _kinds(e, "fft_sum", _sum, args))


def _accumulate(e: Emit, args: Sequence[Any]) -> None:
    x, y, points, total, add = args

    def each(added: bool) -> None:
        with e.loop(points) as f:
            here = e.times(f, 2 * e.vector_bytes)
            place = e.builder.add(total, here)
            product = _multiply_conjugate(e, _load(e, e.builder.add(x, here)), _load(e, e.builder.add(y, here)))
            _store(e, _add(e, _load(e, place), product) if added else product, place)

    e.cases(add, {0: lambda: each(False)}, lambda: each(True))


@intrinsic
def accumulate(typingctx: Any, like: Any, x: Any, y: Any, points: Any, total: Any, add: Any) -> Any:
    """total (`add`: +)= x conj(y)"""
    return addresses(like, 5), _apart("fft_accumulate", _accumulate)


def _fold(e: Emit, args: Sequence[Any]) -> None:
    source, points, out, add = args
    builder = e.builder
    squares = builder.sdiv(e.times(points, 2), e.const(e.lanes))
    with e.loop(squares) as number:
        here = e.times(number, e.lanes * e.vector_bytes)
        place = builder.add(source, here)
        (sums,) = e.sums([e.load(e.plus(place, i * e.vector_bytes)) for i in range(e.lanes)])
        with builder.if_else(builder.icmp_signed("!=", add, e.const(0))) as (then, otherwise):
            for added, branch in ((True, then), (False, otherwise)):
                with branch:
                    for lane in range(e.lanes):
                        pointer = e.element_at(e.plus(builder.add(out, here), lane * e.vector_bytes))
                        value = builder.extract_element(sums, ir.Constant(I32, lane))
                        builder.store(builder.fadd(builder.load(pointer), value) if added else value, pointer)


@intrinsic
def fold_lanes(typingctx: Any, like: Any, source: Any, points: Any, out: Any, add: Any) -> Any:
    """The lane that `out` points to of each of 2 * points vectors (`add`: +)= the sum of all lanes of `source`."""
    return addresses(like, 4), _apart("fft_fold", _fold)


# ---- in and out


@intrinsic
def add_vectors(typingctx: Any, like: Any, out: Any, source: Any, count: Any) -> Any:
    """out += source, `count` vectors."""

    def body(e: Emit, args: Sequence[Any]) -> None:
        out, source, count = args
        with e.loop(count) as number:
            place = e.builder.add(out, e.times(number, e.vector_bytes))
            value = e.load(e.builder.add(source, e.times(number, e.vector_bytes)))
            e.store(e.builder.fadd(e.load(place), value), place)

    return addresses(like, 3), void(body)


def _turn(e: Emit, args: Sequence[Any]) -> None:
    out, out_stride, out_step, source, source_stride, source_step, squares = args
    builder = e.builder
    with e.loop(squares) as number:
        read = builder.add(source, builder.mul(number, source_step))
        write = builder.add(out, builder.mul(number, out_step))
        rows = []
        for _ in range(e.lanes):
            rows.append(e.load(read))
            read = builder.add(read, source_stride)
        for row in e.transposed(rows):
            e.store(row, write)
            write = builder.add(write, out_stride)


@intrinsic
def turn(
    typingctx: Any,
    like: Any,
    out: Any,
    out_stride: Any,
    out_step: Any,
    source: Any,
    source_stride: Any,
    source_step: Any,
    squares: Any,
) -> Any:
    """out[j][i] = source[i][j] in squares of lanes x lanes; from row to row and from square to square so many bytes."""
    return addresses(like, 7), _apart("fft_turn", _turn)


@intrinsic
def put_zeros(typingctx: Any, like: Any, out: Any, stride: Any, count: Any) -> Any:
    """`count` vectors of zeros, `stride` bytes apart."""

    def body(e: Emit, args: Sequence[Any]) -> None:
        out, stride, count = args
        with e.loop(count) as number:
            e.store(e.zero(), e.builder.add(out, e.builder.mul(number, stride)))

    return addresses(like, 3), void(body)


@intrinsic
def narrow(typingctx: Any, like: Any, out: Any, source: Any, rows: Any, wide: Any) -> Any:
    """out[r][l] = source[r][l] for l < wide, where the rows of `source` are vectors."""

    def body(e: Emit, args: Sequence[Any]) -> None:
        out, source, rows, wide = args
        builder = e.builder
        with e.loop(rows) as r:
            read = builder.add(source, e.times(r, e.vector_bytes))
            write = builder.add(out, e.times(builder.mul(r, wide), e.element_bytes))
            with e.loop(wide) as lane:
                step = e.times(lane, e.element_bytes)
                value = builder.load(e.element_at(builder.add(read, step)))
                builder.store(value, e.element_at(builder.add(write, step)))

    return addresses(like, 4), void(body)


def _scale(e: Emit, points: Any) -> Any:
    return e.builder.fdiv(ir.Constant(e.element, 1.0), e.builder.sitofp(points, e.element))


@intrinsic
def finish_row(
    typingctx: Any, like: Any, out: Any, source: Any, count: Any, points: Any, bias: Any, bias_per_position: Any
) -> Any:
    """out[i] = source[i] / points + bias[0 or i] for i < count; returns whether a source is inf or NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
        e = Emit(builder, signature.args[0].dtype)
        _, out, source, count, points, bias, bias_per_position = args
        scale = e.splat(_scale(e, points), e.vector)
        (poison,) = e.variables(1)
        whole = builder.sdiv(count, e.const(e.lanes))
        done, tail = e.times(whole, e.lanes), e.times(whole, e.vector_bytes)
        mask = e.between(done, 1, e.const(0), count)

        def run(per_position: bool) -> None:
            one = None if per_position else e.broadcast(bias)
            with e.loop(whole) as number:
                here = e.times(number, e.vector_bytes)
                value = builder.fmul(e.load(builder.add(source, here)), scale)
                builder.store(e.fma(value, e.zero(), builder.load(poison)), poison)
                added = e.load(builder.add(bias, here)) if per_position else one
                e.store(builder.fadd(value, added), builder.add(out, here))
            with builder.if_then(builder.icmp_signed("<", done, count)):
                value = builder.fmul(e.load(builder.add(source, tail)), scale)
                value = builder.select(mask, value, e.zero())
                builder.store(e.fma(value, e.zero(), builder.load(poison)), poison)
                added = e.load_masked(builder.add(bias, tail), mask) if per_position else one
                e.store_masked(builder.fadd(value, added), builder.add(out, tail), mask)

        e.cases(bias_per_position, {0: lambda: run(False)}, lambda: run(True))
        bad = builder.bitcast(e.is_nonzero(builder.load(poison)), ir.IntType(e.lanes))
        return builder.zext(builder.icmp_unsigned("!=", bad, ir.Constant(bad.type, 0)), I64)

    return types.int64(like, *(types.intp,) * 6), codegen


@intrinsic
def finish_row_reversed(typingctx: Any, like: Any, out: Any, source: Any, count: Any, points: Any) -> Any:
    """out[i] = source[count - 1 - i] / points; returns whether an element is not finite."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
        e = Emit(builder, signature.args[0].dtype)
        _, out, source, count, points = args
        scale = _scale(e, points)
        poison = cgutils.alloca_once_value(builder, ir.Constant(e.element, 0.0))
        with e.loop(count) as i:
            back = builder.sub(e.plus(count, -1), i)
            place = builder.add(source, e.times(back, e.element_bytes))
            value = builder.fmul(builder.load(e.element_at(place)), scale)
            zero = builder.fmul(value, ir.Constant(e.element, 0.0))
            builder.store(builder.fadd(builder.load(poison), zero), poison)
            builder.store(value, e.element_at(builder.add(out, e.times(i, e.element_bytes))))
        bad = builder.fcmp_unordered("!=", builder.load(poison), ir.Constant(e.element, 0.0))
        return builder.zext(bad, I64)

    return types.int64(like, *(types.intp,) * 4), codegen


# ---- plain Numba from here on: the transform of a block


def forward_tree(like: Any, roots: int, z: int, m: int, h: int, last: int, row: int) -> None:
    """Node h of m points, a power of 4, down to nodes of `last` points.

    The nodes that exceed level 1 are taken depth first: before every leaf, those above it that begin with it.
    """
    leaf, deep = m, 0
    while leaf * row > NEAR and leaf > 4 * last:
        leaf, deep = leaf // 4, deep + 1
    for i in range(1 << 2 * deep):
        for level in range(deep):
            leaves = 1 << 2 * (deep - level)
            if i % leaves == 0:
                quarter = m // (1 << 2 * (level + 1))
                forward_nodes(like, roots, z + i * leaf * row, quarter, h * (1 << 2 * level) + i // leaves, 1)
        node, count, points = h * (1 << 2 * deep) + i, 1, leaf
        while points > last:
            forward_nodes(like, roots, z + i * leaf * row, points // 4, node, count)
            node, count, points = 4 * node, 4 * count, points // 4


def inverse_tree(like: Any, roots: int, z: int, m: int, h: int, last: int, row: int) -> None:
    """The way back of :func:`forward_tree`."""
    leaf, deep = m, 0
    while leaf * row > NEAR and leaf > 4 * last:
        leaf, deep = leaf // 4, deep + 1
    for i in range(1 << 2 * deep):
        count, quarter = leaf // (4 * last), last
        while count > 0:
            forth = (h * (1 << 2 * deep) + i) * count
            inverse_nodes(like, roots, z + i * leaf * row, quarter, forth, count)
            quarter, count = 4 * quarter, count // 4
        for back in range(deep):
            leaves = 1 << 2 * (back + 1)
            if (i + 1) % leaves == 0:
                level = deep - 1 - back
                first = i + 1 - leaves
                quarter = m // (1 << 2 * (level + 1))
                inverse_nodes(like, roots, z + first * leaf * row, quarter, h * (1 << 2 * level) + first // leaves, 1)


def forward_block(like: Any, roots: int, z: int, last: int, p: Any) -> None:
    """All of a block, but for the last pass where `last` is 4."""
    row, half = 2 * lanes(like) * like.itemsize, p.points // 2
    if p.log2_points % 2 == 0:
        forward_tree(like, roots, z, p.points, p.one, last, row)
        return
    forward_root(like, roots, z, half)
    for child in range(2):
        forward_tree(like, roots, z + child * half * row, half, 2 + child, last, row)


def inverse_block(like: Any, roots: int, z: int, last: int, p: Any) -> None:
    """All of a block back, but for the first pass where `last` is 4."""
    row, half = 2 * lanes(like) * like.itemsize, p.points // 2
    if p.log2_points % 2 == 0:
        inverse_tree(like, roots, z, p.points, p.one, last, row)
        return
    for child in range(2):
        inverse_tree(like, roots, z + child * half * row, half, 2 + child, last, row)
    inverse_root(like, roots, z, half)


# ---- where the lanes of a batch lie: scratch[word ...] = offsets of rows, then the positions in these where blocks
# begin (which may lie before the row), then how many outputs they have


def lay(scratch: Any, word: int, count: int, batch: int, which: int, channels: int, n: int, lead: int, p: Any) -> int:
    """Batch `batch` of rows of `n` positions in the first of `channels` channels; returns how many lanes there are."""
    total = min(count, p.groups - which * count if p.by_group else p.total - batch * count)
    for lane in range(total):
        group, number = which, batch * count + lane
        if p.by_group:
            group, number = which * count + lane, batch
        signal, block = number // p.blocks, number % p.blocks
        scratch[word + lane] = ((signal // p.rows * p.groups + group) * channels * p.rows + signal % p.rows) * n
        scratch[word + count + lane] = block * p.step - lead
        scratch[word + 2 * count + lane] = min(p.step, n - block * p.step)
    return total


def lay_filters(scratch: Any, word: int, count: int, which: int, block: int, channel: int, p: Any) -> int:
    """The filters of a block of outputs (or of groups), side by side; returns how many there are."""
    first, distance = which * p.w_group + block * count * p.w_output, p.w_output
    total = min(count, p.outputs - block * count)
    if p.by_group:
        first, distance = which * count * p.w_group + block * p.w_output, p.w_group
        total = min(count, p.groups - which * count)
    for lane in range(total):
        scratch[word + lane] = first + lane * distance + channel * p.w_channel
        scratch[word + count + lane] = 0
        scratch[word + 2 * count + lane] = p.taps
    return total


def gather(
    like: Any, source: int, scratch: Any, word: int, total: int, n: int, length: int, z: int, stage: int, p: Any
) -> None:
    """z[i] = block[i] + i block[i + M] of each lane: rows of `n` positions, of which a block has `length` at most."""
    item, count, points = like.itemsize, lanes(like), p.points
    row, pitch = 2 * count * item, CHUNK * item + 64
    lowest, highest = scratch[word + count], scratch[word + count]
    step = 0
    if total == count:
        step = scratch[word + 1] + scratch[word + count + 1] - scratch[word] - scratch[word + count]
    for lane in range(1, total):
        start = scratch[word + count + lane]
        lowest, highest = min(lowest, start), max(highest, start)
        if scratch[word + lane] + start - scratch[word + lane - 1] - scratch[word + count + lane - 1] != step:
            step = 0
    chunk = min(points, CHUNK)
    for v in range(0, 2 * points, chunk):
        out = z + v * row if v < points else z + (v - points) * row + count * item
        last = v + chunk
        if v >= length or highest + last <= 0 or lowest + v >= n:
            put_zeros(like, out, row, chunk)
            continue
        at, stride = stage, pitch
        if step != 0 and lowest + v >= 0 and highest + last <= n and last <= length:
            at, stride = source + (scratch[word] + scratch[word + count] + v) * item, step * item
        else:
            for lane in range(count):
                first, end, begin = 0, 0, source
                if lane < total:
                    start = scratch[word + count + lane] + v
                    end = max(0, min(n - start, length - v, chunk))
                    first = max(0, min(-start, end))
                    begin = source + (scratch[word + lane] + start) * item
                gather_rows(like, stage + lane * pitch, 0, begin, 0, 1, first, end, chunk, 1)
        turn(like, out, row, count * row, at, stride, count * item, chunk // count)


def scatter(
    like: Any, z: int, scratch: Any, word: int, total: int, out: int, bias: int, bias_kind: int, stage: int, p: Any
) -> int:
    """The outputs of a block to their places, divided by M; returns whether one is not finite.

    bias_kind: 0 (`bias` is the address of a zero), BIAS_PER_CHANNEL or BIAS_PER_POSITION, of the first output channel
    of an image and of the image's groups.
    """
    item, count = like.itemsize, lanes(like)
    row, pitch = 2 * count * item, CHUNK * item + 64
    plane = p.rows * p.other_n
    image = p.groups * p.outputs * plane
    longest, poison = 0, 0
    for lane in range(total):
        longest = max(longest, scratch[word + 2 * count + lane])
    done = 0
    while done < longest:
        v = p.window - done if p.reversed else p.window + done
        half = 1 if v >= p.points else 0
        n = v - half * p.points
        run = min(CHUNK, longest - done, n + 1 if p.reversed else p.points - n)
        first = n - run + 1 if p.reversed else n
        turn(
            like, stage, pitch, count * item, z + first * row + half * count * item, row, count * row, -(-run // count)
        )
        for lane in range(total):
            own = min(run, scratch[word + 2 * count + lane] - done)
            if own <= 0:
                continue
            at = scratch[word + lane] + scratch[word + count + lane] + done
            values = stage + lane * pitch
            if p.reversed:
                poison |= finish_row_reversed(like, out + at * item, values + (run - own) * item, own, p.points)
                continue
            place = bias
            if bias_kind == BIAS_PER_CHANNEL:
                place += at % image // plane * item
            elif bias_kind == BIAS_PER_POSITION:
                place += at % image * item
            per_position = 1 if bias_kind == BIAS_PER_POSITION else 0
            poison |= finish_row(like, out + at * item, values, own, p.points, place, per_position)
        done += run
    return poison


# ---- forward and backward_input


def wide_of(like: Any, block: int, p: Any) -> int:
    """Filters that lie side by side in a block of outputs."""
    return min(lanes(like), p.outputs - block * lanes(like))


def filter_step(like: Any, wide: int, p: Any) -> int:
    """Bytes from one channel's filters to the next one's."""
    return p.spectrum if p.by_group else (p.points * wide + lanes(like)) * 2 * like.itemsize


def transform_filters(
    like: Any, weights: int, roots: int, scratch: Any, space: int, which: int, block: int, c: int, out: int, p: Any
) -> None:
    """The spectra of one block of filters for channel c, a filter a lane, to `out`."""
    word = (space + p.lanes_at - address(scratch)) // 8
    total = lay_filters(scratch, word, lanes(like), which, block, c, p)
    gather(like, weights, scratch, word, total, p.taps, p.taps, out, space + p.stage_at, p)
    forward_block(like, roots, out, p.one, p)


def finish(like: Any, operands: Any, z: int, scratch: Any, space: int, total: int, k: int, kind: int, p: Any) -> int:
    """From spectrum to outputs: output channel k of a batch."""
    _, target, bias, roots = operands
    plane = p.rows * p.other_n
    inverse_block(like, roots, z, p.four, p)
    if kind == BIAS_PER_CHANNEL:
        bias += k * like.itemsize
    elif kind == BIAS_PER_POSITION:
        bias += k * plane * like.itemsize
    word = (space + p.lanes_at - address(scratch)) // 8
    out = target + k * plane * like.itemsize
    return scatter(like, z, scratch, word, total, out, bias, kind, space + p.stage_at, p)


def convolve(
    like: Any,
    operands: Any,
    scratch: Any,
    space: int,
    where: Any,
    filters: int,
    kind: int,
    p: Any,
) -> int:
    """The outputs of one batch. operands: the addresses of source, target, bias, roots; where: batch, which group (or
    groups), first and last output channel."""
    source, _, _, roots = operands
    batch, which, first, end = where
    count, item = lanes(like), like.itemsize
    word = (space + p.lanes_at - address(scratch)) // 8
    z, held, stage = space + p.block_at, space + p.held_at, space + p.stage_at
    if p.channels == 1 and p.outputs == 1:
        total = lay(scratch, word, count, batch, which, p.channels, p.from_n, p.lead, p)
        gather(like, source, scratch, word, total, p.from_n, 2 * p.points, z, stage, p)
        forward_block(like, roots, z, p.four, p)
        middle(like, 2 * p.by_group + p.conjugate, roots, z, filters, p.points // 4)
        total = lay(scratch, word, count, batch, which, p.outputs, p.other_n, p.zero, p)
        return finish(like, operands, z, scratch, space, total, first, kind, p)
    poison = 0
    for c_from in range(0, p.channels, p.chunk):
        c_end = min(c_from + p.chunk, p.channels)
        total = lay(scratch, word, count, batch, which, p.channels, p.from_n, p.lead, p)
        for c in range(c_from, c_end):
            to = held + (c - c_from) * p.spectrum
            begin = source + c * p.rows * p.from_n * item
            gather(like, begin, scratch, word, total, p.from_n, 2 * p.points, to, stage, p)
            forward_block(like, roots, to, p.one, p)
        total = lay(scratch, word, count, batch, which, p.outputs, p.other_n, p.zero, p)
        last = 1 if c_end == p.channels else 0
        for k in range(first, end):
            sums = z + k * p.spectrum if p.chunk < p.channels else z
            wide, place = 1, filters + k * p.channels * p.spectrum
            if not p.by_group:
                wide = wide_of(like, k // count, p)
                place = filters + k // count * p.channels * p.spectrum + k % count * item
            step = filter_step(like, wide, p)
            sum_products(
                like,
                2 * p.by_group + p.conjugate,
                roots,
                held,
                place + c_from * step,
                sums,
                p.points // 4,
                c_end - c_from,
                p.spectrum,
                step,
                wide * item,
                1 if c_from > 0 else 0,
                last,
            )
            if last:
                poison |= finish(like, operands, sums, scratch, space, total, k, kind, p)
    return poison


def part(total: int, share: int, shares: int) -> int:
    """Where a share of `total` begins."""
    return total * share // shares


def _fft() -> Callable[..., int]:
    def fft(
        source: Any,
        weights: Any,
        target: Any,
        bias: Any,
        roots: Any,
        scratch: Any,
        plan: Any,
        flags: int,
        stage: int,
        shares: int,
        share: int,
    ) -> int:
        """One share of a stage of forward or backward_input: the filters' spectra, then the outputs.

        Returns whether an output is not finite, so that the call has to be made again by direct summation.
        """
        p = plan[0]
        mode = flush_denormals()
        count = lanes(source)
        base = (address(scratch) + 63) // 64 * 64
        space = base + p.workers_at + share * p.worker_bytes
        weights_at, roots_at = address(weights), address(roots)
        operands = (address(source), address(target), address(bias), roots_at)
        kind = flags & (BIAS_PER_CHANNEL | BIAS_PER_POSITION)
        poison = 0
        if stage == 0:
            spectra = p.group_batches * p.output_blocks * p.channels
            for number in range(part(spectra, share, shares), part(spectra, share + 1, shares)):
                c, rest = number % p.channels, number // p.channels
                block, group = rest % p.output_blocks, rest // p.output_blocks
                wide = wide_of(source, block, p)
                out = base + group * p.filters + block * p.channels * p.spectrum + c * filter_step(source, wide, p)
                if wide == count:
                    transform_filters(source, weights_at, roots_at, scratch, space, group, block, c, out, p)
                else:
                    z = space + p.block_at
                    transform_filters(source, weights_at, roots_at, scratch, space, group, block, c, z, p)
                    narrow(source, out, z, 2 * p.points, wide)
        elif p.by_group:
            filters = space
            total = p.group_batches * p.runs
            for number in range(part(total, share, shares), part(total, share + 1, shares)):
                run, which = number % p.runs, number // p.runs
                for k in range(p.outputs):
                    for c in range(p.channels):
                        out = filters + (k * p.channels + c) * p.spectrum
                        transform_filters(source, weights_at, roots_at, scratch, space, which, k, c, out, p)
                for batch in range(part(p.batches, run, p.runs), part(p.batches, run + 1, p.runs)):
                    where = (batch, which, p.zero, p.outputs)
                    poison |= convolve(source, operands, scratch, space, where, filters, kind, p)
        else:
            total = p.group_batches * p.batches * p.parts
            for number in range(part(total, share, shares), part(total, share + 1, shares)):
                piece, rest = number % p.parts, number // p.parts
                batch, group = rest % p.batches, rest // p.batches
                where = (batch, group, part(p.outputs, piece, p.parts), part(p.outputs, piece + 1, p.parts))
                poison |= convolve(source, operands, scratch, space, where, base + group * p.filters, kind, p)
        restore_mode(mode)
        return poison

    return fft


# ---- backward_weight


def _fft_weight() -> Callable[..., int]:
    def fft_weight(
        source: Any,
        other: Any,
        out: Any,
        roots: Any,
        scratch: Any,
        plan: Any,
        stage: int,
        shares: int,
        share: int,
    ) -> int:
        """One share of a stage of backward_weight: the sums of products of spectra, then the weights.

        Returns whether a weight is not finite, so that the call has to be made again by direct summation.
        """
        p = plan[0]
        mode = flush_denormals()
        item, count = source.itemsize, lanes(source)
        base = (address(scratch) + 63) // 64 * 64
        space = base + p.workers_at + share * p.worker_bytes
        word = (space + p.lanes_at - address(scratch)) // 8
        roots_at, points = address(roots), p.points
        held, z, row_stage = space + p.held_at, space + p.block_at, space + p.stage_at
        poison = 0
        if stage == 0:
            total = p.group_batches * p.runs * p.parts
            for number in range(part(total, share, shares), part(total, share + 1, shares)):
                piece, rest = number % p.parts, number // p.parts
                run, which = rest % p.runs, rest // p.runs
                sums_of_run = base + (run * p.group_batches + which) * p.filters
                first, end = part(p.batches, run, p.runs), part(p.batches, run + 1, p.runs)
                for batch in range(first, end, p.hold):
                    together = min(p.hold, end - batch)
                    for j in range(together):
                        there = lay(scratch, word, count, batch + j, which, p.channels, p.from_n, p.lead, p)
                        for c in range(p.channels):
                            to = held + (j * p.channels + c) * p.spectrum
                            begin = address(source) + c * p.rows * p.from_n * item
                            gather(source, begin, scratch, word, there, p.from_n, 2 * points, to, row_stage, p)
                            forward_block(source, roots_at, to, p.one, p)
                    for k in range(part(p.outputs, piece, p.parts), part(p.outputs, piece + 1, p.parts)):
                        for j in range(together):
                            there = lay(scratch, word, count, batch + j, which, p.outputs, p.other_n, p.zero, p)
                            begin = address(other) + k * p.rows * p.other_n * item
                            gather(source, begin, scratch, word, there, p.other_n, p.step, z, row_stage, p)
                            forward_block(source, roots_at, z, p.one, p)
                            for c in range(p.channels):
                                to, add = space + c * p.spectrum, j > 0
                                if p.by_group:  # the groups' batches are held one at a time
                                    to, add = sums_of_run + (k * p.channels + c) * p.spectrum, batch > first
                                x = held + (j * p.channels + c) * p.spectrum
                                accumulate(source, x, z, points, to, 1 if add else 0)
                        if not p.by_group:
                            for c in range(p.channels):
                                to = sums_of_run + (k // count * p.channels + c) * p.spectrum + k % count * item
                                fold_lanes(source, space + c * p.spectrum, points, to, 1 if batch > first else 0)
        else:
            spectra = p.group_batches * p.output_blocks * p.channels
            for number in range(part(spectra, share, shares), part(spectra, share + 1, shares)):
                c, rest = number % p.channels, number // p.channels
                block, which = rest % p.output_blocks, rest // p.output_blocks
                place = base + which * p.filters + (block * p.channels + c) * p.spectrum
                for run in range(1, p.runs):
                    add_vectors(source, place, place + run * p.group_batches * p.filters, 2 * points)
                there = lay_filters(scratch, word, count, which, block, c, p)
                inverse_block(source, roots_at, place, p.one, p)
                poison |= scatter(
                    source, place, scratch, word, there, address(out), address(roots), p.zero, row_stage, p
                )
        restore_mode(mode)
        return poison

    return fft_weight


def _arrays(element: Any) -> tuple[Any, ...]:
    four, one = types.Array(element, 4, "C", readonly=True), types.Array(element, 1, "C", readonly=True)
    target = types.Array(element, 4, "C")
    words, record = types.Array(types.int64, 1, "C"), types.Array(numba.from_dtype(RECORD), 1, "C")
    return four, one, target, words, record


def _fft_signature(element: Any) -> Any:
    four, one, target, words, record = _arrays(element)
    return types.int64(four, four, target, one, one, words, record, *(types.int64,) * 4)


def _fft_weight_signature(element: Any) -> Any:
    four, one, target, words, record = _arrays(element)
    return types.int64(four, four, target, one, words, record, *(types.int64,) * 3)


BUILDERS: dict[str, Callable[[], Callable[..., int]]] = {"fft": _fft, "fft_weight": _fft_weight}
SIGNATURES: dict[str, Callable[[Any], Any]] = {"fft": _fft_signature, "fft_weight": _fft_weight_signature}
HELPERS = (  # callees first
    *("forward_tree", "inverse_tree", "forward_block", "inverse_block", "lay", "lay_filters", "gather", "scatter"),
    *("wide_of", "filter_step", "transform_filters", "finish", "convolve", "part"),
)
