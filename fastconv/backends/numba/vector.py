"""The vector instructions of the Numba kernels: intrinsics that emit LLVM vector IR.

Numba's own types end at scalars, and what LLVM's vectoriser makes of a convolution's loops reaches a few per cent of
the peak. So the innermost blocks are written here as IR over ``<L x float>`` with their accumulators in registers, and
everything around them (packing order, tiles, threads) is plain Numba in :mod:`.kernels`.

Every intrinsic takes addresses as ``intp``; its first argument is an array that gives the element type and nothing
else. The vector length is that of :data:`target`, which :mod:`.build` sets, under a lock, before it compiles.

Each block is a function of its own inside the LLVM module (``noinline``), one for each shape of :func:`block_shapes`; a
``switch`` on the shape's number calls it. So each keeps all registers for itself, and the kernel around it stays small
enough to compile in seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .cpu import GUARDED_SHAPE, ISAS, Isa, architecture, block_shapes, channel_shapes, panel_rows, panel_shapes

target: Isa = ISAS[-1]

_I1, _I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)


class Emit:
    """The vocabulary: one builder, one element type, vectors of the target's length."""

    def __init__(self, builder: ir.IRBuilder, dtype: types.Float) -> None:
        self.builder = builder
        self.single = dtype == types.float32
        self.element = ir.FloatType() if self.single else ir.DoubleType()
        self.element_bytes = 4 if self.single else 8
        self.lanes = target.vector_bytes // self.element_bytes
        self.vector = ir.VectorType(self.element, self.lanes)
        self.bits = ir.VectorType(_I1, self.lanes)
        self.small = ir.VectorType(I32, self.lanes)
        self.index = ir.VectorType(I64, self.lanes)
        self.vector_bytes = target.vector_bytes
        self.suffix = f"v{self.lanes}{'f32' if self.single else 'f64'}"

    def at(self, builder: ir.IRBuilder) -> Emit:
        """The same vocabulary on another builder."""
        other = object.__new__(Emit)
        other.__dict__.update(self.__dict__, builder=builder)
        return other

    # -- integers

    def const(self, value: int) -> ir.Constant:
        return ir.Constant(I64, value)

    def plus(self, address: Any, amount: int | Any) -> Any:
        if isinstance(amount, int):
            return self.builder.add(address, self.const(amount)) if amount else address
        return self.builder.add(address, amount)

    def times(self, value: Any, amount: int) -> Any:
        return self.builder.mul(value, self.const(amount))

    def smaller(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def larger(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed(">", a, b), a, b)

    def word(self, address: Any) -> Any:
        """The int64 at an address."""
        return self.builder.load(self.builder.inttoptr(address, I64.as_pointer()), align=8)

    # -- vectors

    def zero(self) -> ir.Constant:
        return ir.Constant(self.vector, None)

    def load(self, address: Any) -> Any:
        pointer = self.builder.inttoptr(address, self.vector.as_pointer())
        return self.builder.load(pointer, align=self.element_bytes)

    def store(self, value: Any, address: Any) -> None:
        pointer = self.builder.inttoptr(address, self.vector.as_pointer())
        self.builder.store(value, pointer, align=self.element_bytes)

    def splat(self, value: Any, kind: ir.VectorType) -> Any:
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
        lanes = ir.Constant(ir.VectorType(I32, self.lanes), None)
        return self.builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), lanes)

    def element_at(self, address: Any) -> Any:
        return self.builder.inttoptr(address, self.element.as_pointer())

    def broadcast(self, address: Any) -> Any:
        return self.splat(self.builder.load(self.element_at(address), align=self.element_bytes), self.vector)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        if not target.fma:  # llvm.fma would call the C library, lane by lane
            return self.builder.fadd(self.builder.fmul(a, b), c)
        return self._call(f"llvm.fma.{self.suffix}", self.vector, [a, b, c])

    def sums(self, vectors: Sequence[Any]) -> list[Any]:
        """Each vector's sum over its lanes, in order, as the lanes of as few vectors as it takes.

        A tree over all of them at once: every step halves the lanes that a sum still has, and joins two vectors.
        """
        vectors, part = list(vectors), self.lanes
        while part > 1:
            starts = range(0, 2 * self.lanes, part)
            low = [start + lane for start in starts for lane in range(part // 2)]
            if len(vectors) % 2:
                vectors.append(self.zero())
            vectors = [
                self.builder.fadd(self.shuffle(a, b, low), self.shuffle(a, b, [lane + part // 2 for lane in low]))
                for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
            part //= 2
        return vectors

    def transposed(self, vectors: Sequence[Any]) -> list[Any]:
        """The square of lanes x lanes that the vectors are the rows of, turned."""
        rows, distance = list(vectors), 1
        order = list(range(self.lanes))
        while distance < self.lanes:  # swap the off-diagonal quarters of every 2*distance square
            low = [lane if not lane & distance else lane - distance + self.lanes for lane in range(self.lanes)]
            high = [lane + distance if not lane & distance else lane + self.lanes for lane in range(self.lanes)]
            if self.single and distance == 1:  # in another order, by interleaving: one instruction each
                fours = range(0, self.lanes, 4)
                low = [lane for f in fours for lane in (f, self.lanes + f, f + 1, self.lanes + f + 1)]
                high = [lane + 2 for lane in low]
                order = [j & ~3 | (j & 1) << 1 | (j & 2) >> 1 for j in order]
            for one in range(self.lanes):
                if not one & distance:
                    a, b = rows[one], rows[one + distance]
                    rows[one], rows[one + distance] = self.shuffle(a, b, low), self.shuffle(a, b, high)
            distance *= 2
        return [rows[place] for place in order]

    def shuffle(self, a: Any, b: Any, lanes: Sequence[int]) -> Any:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, self.lanes), list(lanes)))

    # -- masks

    def counting(self, kind: ir.VectorType) -> ir.Constant:
        return ir.Constant(kind, list(range(self.lanes)))

    def between(self, first: Any, step: int | Any, low: Any, high: Any) -> Any:
        """The lanes whose number, first + lane*step, is in [low, high), all of them within a tile and so in 32 bits."""
        lane: Any = self.counting(self.small)
        if not isinstance(step, int):
            lane = self.builder.mul(lane, self._small(step))
        lane = self.builder.add(self._small(first), lane)
        above = self.builder.icmp_signed(">=", lane, self._small(low))
        return self.builder.and_(above, self.builder.icmp_signed("<", lane, self._small(high)))

    def _small(self, value: Any) -> Any:
        return self.splat(self.builder.trunc(value, I32), self.small)

    def is_nonzero(self, vector: Any) -> Any:
        return self.builder.fcmp_unordered("!=", vector, self.zero())

    def mask(self, bits: Any) -> Any:
        """The lanes whose bit is set in an int64."""
        narrow = self.builder.trunc(bits, ir.IntType(self.lanes)) if self.lanes < 64 else bits
        return self.builder.bitcast(narrow, self.bits)

    def load_masked(self, address: Any, mask: Any) -> Any:
        """The chosen lanes; the others are zero and their memory is not touched."""
        pointer = self.builder.inttoptr(address, self.vector.as_pointer())
        align = ir.Constant(I32, self.element_bytes)
        return self._call(f"llvm.masked.load.{self.suffix}.p0", self.vector, [pointer, align, mask, self.zero()])

    def store_masked(self, value: Any, address: Any, mask: Any) -> None:
        pointer = self.builder.inttoptr(address, self.vector.as_pointer())
        align = ir.Constant(I32, self.element_bytes)
        self._call(f"llvm.masked.store.{self.suffix}.p0", ir.VoidType(), [value, pointer, align, mask])

    def store_most(self, value: Any, address: Any, mask: Any) -> None:
        """As :meth:`store_masked`, where the mask is mostly full: a masked store is microcode, or a branch a lane."""
        number = self.builder.bitcast(mask, ir.IntType(self.lanes))
        full = self.builder.icmp_unsigned("==", number, ir.Constant(number.type, -1))
        with self.builder.if_else(full) as (then, otherwise):
            with then:
                self.store(value, address)
            with otherwise:
                self.store_masked(value, address, mask)

    def _pointers(self, address: Any, stride_bytes: Any) -> Any:
        offsets = self.builder.mul(self.splat(stride_bytes, self.index), self.counting(self.index))
        addresses = self.builder.add(self.splat(address, self.index), offsets)
        return self.builder.inttoptr(addresses, ir.VectorType(self.element.as_pointer(), self.lanes))

    def gather(self, address: Any, stride_bytes: Any, mask: Any) -> Any:
        align = ir.Constant(I32, self.element_bytes)
        operands = [self._pointers(address, stride_bytes), align, mask, self.zero()]
        return self._call(f"llvm.masked.gather.{self.suffix}.v{self.lanes}p0", self.vector, operands)

    def scatter(self, value: Any, address: Any, stride_bytes: Any, mask: Any) -> None:
        align = ir.Constant(I32, self.element_bytes)
        operands = [value, self._pointers(address, stride_bytes), align, mask]
        self._call(f"llvm.masked.scatter.{self.suffix}.v{self.lanes}p0", ir.VoidType(), operands)

    def _call(self, name: str, result: ir.Type, operands: Sequence[Any]) -> Any:
        kind = ir.FunctionType(result, [operand.type for operand in operands])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), operands)

    # -- control flow

    @contextmanager
    def loop(self, count: Any) -> Any:
        """for i in range(count), yielding i."""
        with cgutils.for_range(self.builder, count) as each:
            yield each.index

    def cases(self, value: Any, bodies: dict[int, Callable[[], None]], otherwise: Callable[[], None]) -> None:
        """The body whose key `value` equals, else `otherwise`."""
        after = self.builder.append_basic_block("cases.after")
        other = self.builder.append_basic_block("cases.other")
        switch = self.builder.switch(value, other)
        blocks = [(other, otherwise)]
        for key, body in bodies.items():
            block = self.builder.append_basic_block(f"cases.{key}")
            switch.add_case(key, block)
            blocks.append((block, body))
        for block, body in blocks:
            self.builder.position_at_end(block)
            body()
            self.builder.branch(after)
        self.builder.position_at_end(after)

    def variables(self, count: int, initial: Callable[[int], Any] | None = None) -> list[Any]:
        slots = [cgutils.alloca_once(self.builder, self.vector) for _ in range(count)]
        for number, slot in enumerate(slots):
            self.builder.store(initial(number) if initial else self.zero(), slot)
        return slots


def void(codegen_body: Callable[[Emit, Sequence[Any]], None]) -> Callable[..., Any]:
    """A codegen function from a body that takes the vocabulary and the arguments after the array."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        codegen_body(Emit(builder, signature.args[0].dtype), args[1:])
        return context.get_dummy_value()

    return codegen


def addresses(like: Any, integers: int) -> Any:
    """The types of an intrinsic that takes the array and so many addresses and sizes, and returns nothing."""
    return types.void(like, *(types.intp,) * integers)


Shapes = Sequence[tuple[int, int]]
_Body = Callable[[Emit, int, int, bool, Sequence[Any]], None]


def _switch(emit: Emit, name: str, shapes: Shapes, body: _Body, args: Sequence[Any]) -> None:
    """Call the block of shape number args[0] on the other arguments; emits the blocks.

    The number after the last shape is the guarded block, of shape :data:`GUARDED_SHAPE`.
    """
    builder = emit.builder
    after = builder.append_basic_block(f"{name}.after")
    switch = builder.switch(args[0], after)
    for number, (rows, cols) in enumerate([*shapes, GUARDED_SHAPE]):
        guarded = number == len(shapes)
        block = builder.append_basic_block(f"{name}.{number}")
        switch.add_case(number, block)
        builder.position_at_end(block)
        call_apart(
            emit,
            f"{name}.{rows}x{cols}{'.guarded' * guarded}",
            functools.partial(_block, body, rows, cols, guarded),
            args[1:],
        )
        builder.branch(after)
    builder.position_at_end(after)


def _block(body: _Body, rows: int, cols: int, guarded: bool, emit: Emit, args: Sequence[Any]) -> None:
    body(emit, rows, cols, guarded, args)


def call_apart(emit: Emit, name: str, body: Callable[[Emit, Sequence[Any]], None], args: Sequence[Any]) -> None:
    """Call `body` as a function of its own inside the module, which keeps all registers for itself."""
    builder = emit.builder
    full_name = f"fastconv.{name}.{emit.suffix}"
    function = builder.module.globals.get(full_name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [I64] * len(args)), full_name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        function.attributes.add("nounwind")
        inner = ir.IRBuilder(function.append_basic_block("entry"))
        body(emit.at(inner), function.args)
        inner.ret_void()
    builder.call(function, args)


# ---- what the kernels call


@intrinsic
def address(typingctx: Any, array: Any) -> Any:
    """Where an array's elements start."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, context.get_value_type(types.intp))

    return types.intp(array), codegen


@intrinsic
def lanes(typingctx: Any, like: Any) -> Any:
    """Elements in a vector: a constant of the compiled code."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        return ir.Constant(I64, Emit(builder, signature.args[0].dtype).lanes)

    return types.intp(like), codegen


def _correlate_intrinsic(name: str, shapes: Callable[[Isa], Shapes]) -> Any:
    def block(
        typingctx: Any,
        like: Any,
        shape: Any,
        source: Any,
        offsets: Any,
        guards: Any,
        weights: Any,
        weight_stride: Any,
        taps: Any,
        bias: Any,
        out: Any,
        out_stride: Any,
        segments: Any,
        pieces: Any,
    ) -> Any:
        """rows output channels x cols vectors of positions, summed over taps in registers, then stored piece by piece.

        ::

            sum[i][v] = bias[i] + over t < taps of weights[i*weight_stride + t] * source[v*L + offsets[t] ...]

        with `weight_stride`, `out_stride` and every offset in bytes. Vector v is stored in the pieces
        [segments[v], segments[v+1]): a piece is (byte offset from `out`, lane mask), and the mask's lanes go to out +
        offset + lane. That is how a run of positions across rows with gaps lands in a dense output.

        The guarded block reads `guards` too, for each tap the offset of a plane that is non-zero where the source has
        an element, and leaves out the terms that have none. Elsewhere they are added as weight times 0, which would be
        NaN where a weight is not finite.
        """
        return addresses(like, 12), void(lambda emit, args: _switch(emit, name, shapes(target), _correlate_body, args))

    return intrinsic(block)


correlate_block = _correlate_intrinsic("correlate", block_shapes)
channel_block = _correlate_intrinsic("channels", channel_shapes)


_TAPS_AT_ONCE = 128


def _correlate_body(emit: Emit, rows: int, cols: int, guarded: bool, args: Sequence[Any]) -> None:
    """The sums of 128 taps at a time are in registers, their totals in memory.

    In one float32 sum over 4608 taps (resnet_7) the largest error was 9 times torch's. So it is equal to torch's, for
    about 4% of the time.
    """
    source, offsets, guards, weights, weight_stride, taps, bias, out, out_stride, segments, pieces = args
    builder = emit.builder
    space = builder.ptrtoint(cgutils.alloca_once(builder, emit.vector, size=rows * cols), I64)
    starts = [emit.broadcast(emit.plus(bias, i * emit.element_bytes)) for i in range(rows)]
    sums = emit.variables(rows * cols, lambda number: starts[number // cols])
    row_of = [weights]
    for _ in range(rows - 1):
        row_of.append(builder.add(row_of[-1], weight_stride))

    def load(table: Any, t: Any, v: int) -> Any:
        place = builder.add(source, emit.word(emit.plus(table, emit.times(t, 8))))
        return emit.load(emit.plus(place, v * emit.vector_bytes))

    def add(i: int, v: int, weight: Any, vector: Any, keep: Any) -> None:
        slot = sums[i * cols + v]
        before = builder.load(slot)
        total = emit.fma(weight, vector, before)
        builder.store(builder.select(keep, total, before) if guarded else total, slot)

    def tap(t: Any) -> None:
        column = emit.times(t, emit.element_bytes)
        keep = [emit.is_nonzero(load(guards, t, v)) if guarded else None for v in range(cols)]
        if cols < rows:  # the shorter side of the block stays in registers, the longer one streams by
            vectors = [load(offsets, t, v) for v in range(cols)]
            for i in range(rows):
                weight = emit.broadcast(builder.add(row_of[i], column))
                for v in range(cols):
                    add(i, v, weight, vectors[v], keep[v])
        else:
            weight_of = [emit.broadcast(builder.add(row_of[i], column)) for i in range(rows)]
            for v in range(cols):
                vector = load(offsets, t, v)
                for i in range(rows):
                    add(i, v, weight_of[i], vector, keep[v])

    places = [[emit.plus(space, (v * rows + i) * emit.vector_bytes) for v in range(cols)] for i in range(rows)]
    more = builder.sdiv(emit.plus(taps, _TAPS_AT_ONCE - 1), emit.const(_TAPS_AT_ONCE))
    with emit.loop(emit.larger(more, emit.const(1))) as number:
        start = emit.times(number, _TAPS_AT_ONCE)
        with emit.loop(emit.smaller(builder.sub(taps, start), emit.const(_TAPS_AT_ONCE))) as t:
            tap(builder.add(start, t))
        again = builder.icmp_signed(">", number, emit.const(0))
        with builder.if_else(again) as (then, otherwise):
            with then:
                for i in range(rows):
                    for v in range(cols):
                        total = builder.fadd(emit.load(places[i][v]), builder.load(sums[i * cols + v]))
                        emit.store(total, places[i][v])
            with otherwise:
                for i in range(rows):
                    for v in range(cols):
                        emit.store(builder.load(sums[i * cols + v]), places[i][v])
        for slot in sums:
            builder.store(emit.zero(), slot)

    with emit.loop(emit.const(cols)) as v:
        segment = builder.add(segments, emit.times(v, 8))
        totals = builder.add(space, emit.times(v, rows * emit.vector_bytes))
        first = emit.word(segment)
        with emit.loop(builder.sub(emit.word(emit.plus(segment, 8)), first)) as number:
            piece = emit.plus(pieces, emit.times(builder.add(first, number), 16))
            place = builder.add(out, emit.word(piece))
            mask = emit.mask(emit.word(emit.plus(piece, 8)))
            for i in range(rows):
                emit.store_most(emit.load(emit.plus(totals, i * emit.vector_bytes)), place, mask)
                place = builder.add(place, out_stride)


@intrinsic
def copy_panels(
    typingctx: Any,
    like: Any,
    cols: Any,
    out: Any,
    source: Any,
    offsets: Any,
    taps: Any,
    panels: Any,
    longer: Any,
    there: Any,
) -> Any:
    """Panels of vectors, side by side in the source: each to out[tap][vector], one panel after the other.

    The first `longer` of the `panels` have `cols` vectors, the others one less. Vector v of tap t is read at source +
    offsets[t] + v vectors; from element `there` on, nothing is read and zeros are written.
    """

    def body(emit: Emit, args: Sequence[Any]) -> None:
        cols, out, source, offsets, taps, panels, longer, there = args
        builder = emit.builder
        less = emit.plus(cols, -1)
        vectors = builder.add(builder.mul(panels, less), longer)
        whole = builder.icmp_signed(">=", there, emit.times(vectors, emit.lanes))

        def copy(most: int, load: Callable[[Any, Any], Any]) -> None:
            with emit.loop(taps) as t:
                begin = builder.add(source, emit.word(emit.plus(offsets, emit.times(t, 8))))
                for width, low, high in ((most, emit.const(0), longer), (most - 1, longer, panels)):
                    with emit.loop(builder.sub(high, low)) as number:
                        before = builder.add(emit.times(builder.add(low, number), most - 1), longer)
                        if width == most:
                            before = emit.times(number, most)
                        to = builder.add(builder.mul(before, taps), emit.times(t, width))
                        to = builder.add(out, emit.times(to, emit.vector_bytes))
                        place = builder.add(begin, emit.times(before, emit.vector_bytes))
                        for v in range(width):
                            value = load(emit.plus(place, v * emit.vector_bytes), emit.plus(before, v))
                            emit.store(value, emit.plus(to, v * emit.vector_bytes))

        def load_there(place: Any, number: Any) -> Any:
            first = emit.times(number, emit.lanes)
            return emit.load_masked(place, emit.between(first, 1, emit.const(0), there))

        def copy_both(most: int) -> None:
            with builder.if_else(whole) as (then, otherwise):
                with then:
                    copy(most, lambda place, number: emit.load(place))
                with otherwise:
                    copy(most, load_there)

        emit.cases(cols, {most: functools.partial(copy_both, most) for most in (1, 2)}, lambda: copy_both(3))

    return addresses(like, 8), void(lambda emit, args: call_apart(emit, "copy_panels", body, args))


@intrinsic
def panel_block(
    typingctx: Any,
    like: Any,
    shape: Any,
    panel: Any,
    weights: Any,
    weight_stride: Any,
    taps: Any,
    bias: Any,
    again: Any,
    out: Any,
    out_stride: Any,
) -> Any:
    """rows output channels x the vectors of a panel: out[i][v] = sum over `taps` of weights[i][t] * panel[t][v].

    Strides in bytes; `shape` counts :func:`fastconv.backends.numba.cpu.panel_shapes`. Each sum starts from bias[i] or,
    with `again`, from what is in `out`.
    """
    return addresses(like, 9), void(_panel_switch)


def _panel_switch(emit: Emit, args: Sequence[Any]) -> None:
    calls: dict[int, Callable[[], None]] = {}
    for number, (rows, cols) in enumerate(panel_shapes(target)):
        if rows > panel_rows(target)[cols - 1]:
            continue
        body = functools.partial(_panel_body, rows, cols)
        calls[number] = functools.partial(call_apart, emit, f"panel.{rows}x{cols}", body, args[1:])
    emit.cases(args[0], calls, lambda: None)


def _panel_body(rows: int, cols: int, emit: Emit, args: Sequence[Any]) -> None:
    panel, weights, weight_stride, taps, bias, again, out, out_stride = args
    builder = emit.builder
    sums = emit.variables(rows * cols)
    row_of, out_row = [weights], [out]
    for _ in range(rows - 1):
        row_of.append(builder.add(row_of[-1], weight_stride))
        out_row.append(builder.add(out_row[-1], out_stride))
    with emit.loop(taps) as t:
        at = builder.add(panel, emit.times(t, cols * emit.vector_bytes))
        held = [emit.load(emit.plus(at, v * emit.vector_bytes)) for v in range(cols)]
        column = emit.times(t, emit.element_bytes)
        for i in range(rows):
            weight = emit.broadcast(builder.add(row_of[i], column))
            for v in range(cols):
                slot = sums[i * cols + v]
                builder.store(emit.fma(weight, held[v], builder.load(slot)), slot)
    with builder.if_else(builder.icmp_signed("!=", again, emit.const(0))) as (then, otherwise):
        with then:
            for number, slot in enumerate(sums):
                before = emit.load(emit.plus(out_row[number // cols], number % cols * emit.vector_bytes))
                builder.store(builder.fadd(builder.load(slot), before), slot)
        with otherwise:
            for i in range(rows):
                start = emit.broadcast(emit.plus(bias, i * emit.element_bytes))
                for slot in sums[i * cols : (i + 1) * cols]:
                    builder.store(builder.fadd(builder.load(slot), start), slot)
    for number, slot in enumerate(sums):
        emit.store(builder.load(slot), emit.plus(out_row[number // cols], number % cols * emit.vector_bytes))


@intrinsic
def store_pieces(
    typingctx: Any,
    like: Any,
    sums: Any,
    sums_stride: Any,
    rows: Any,
    vectors: Any,
    out: Any,
    out_stride: Any,
    segments: Any,
    pieces: Any,
) -> Any:
    """Rows of vectors to their places, piece by piece: see :func:`correlate_block` for the two tables."""

    def body(emit: Emit, args: Sequence[Any]) -> None:
        sums, sums_stride, rows, vectors, out, out_stride, segments, pieces = args
        builder = emit.builder
        together = 8  # rows, planes of the target: a mask is made once for all of them
        with emit.loop(builder.sdiv(emit.plus(rows, together - 1), emit.const(together))) as block:
            first_row = emit.times(block, together)
            count = emit.smaller(emit.const(together), builder.sub(rows, first_row))
            begin = builder.add(sums, builder.mul(first_row, sums_stride))
            first_out = builder.add(out, builder.mul(first_row, out_stride))
            with emit.loop(vectors) as v:
                segment = builder.add(segments, emit.times(v, 8))
                first = emit.word(segment)
                here = builder.add(begin, emit.times(v, emit.vector_bytes))
                with emit.loop(builder.sub(emit.word(emit.plus(segment, 8)), first)) as number:
                    piece = emit.plus(pieces, emit.times(builder.add(first, number), 16))
                    mask = emit.mask(emit.word(emit.plus(piece, 8)))
                    place = builder.add(first_out, emit.word(piece))
                    with emit.loop(count) as row:
                        value = emit.load(builder.add(here, builder.mul(row, sums_stride)))
                        emit.store_most(value, builder.add(place, builder.mul(row, out_stride)), mask)

    return addresses(like, 8), void(lambda emit, args: call_apart(emit, "store_pieces", body, args))


@intrinsic
def gradient_block(
    typingctx: Any,
    like: Any,
    shape: Any,
    grad: Any,
    grad_stride: Any,
    source: Any,
    offsets: Any,
    guard: Any,
    vectors: Any,
    out: Any,
    out_stride: Any,
    rows_wanted: Any,
    cols_wanted: Any,
) -> Any:
    """rows channels of the output's gradient x cols taps, each the dot product of two runs of `vectors` vectors.

    ::

        out[i*out_stride + j] += sum over f of grad[i*grad_stride + f] * source[f + offsets[j]]

    for i < `rows_wanted`, j < `cols_wanted`; strides and offsets in bytes. What lies beyond is computed from whatever
    is there (so it has to be readable) and dropped. The guarded block leaves out the positions f where `guard` is zero.
    """
    return addresses(like, 11), void(
        lambda emit, args: _switch(emit, "gradient", block_shapes(target), _gradient_body, args)
    )


def _gradient_body(emit: Emit, rows: int, cols: int, guarded: bool, args: Sequence[Any]) -> None:
    grad, grad_stride, source, offsets, guard, vectors, out, out_stride, rows_wanted, cols_wanted = args
    builder = emit.builder
    sums = emit.variables(rows * cols)
    grad_row = [grad]
    for _ in range(rows - 1):
        grad_row.append(builder.add(grad_row[-1], grad_stride))
    tap = [builder.add(source, emit.word(emit.plus(offsets, 8 * j))) for j in range(cols)]

    def add(i: int, j: int, left: Any, right: Any, keep: Any) -> None:
        slot = sums[i * cols + j]
        before = builder.load(slot)
        total = emit.fma(left, right, before)
        builder.store(builder.select(keep, total, before) if guarded else total, slot)

    with emit.loop(vectors) as f:
        here = emit.times(f, emit.vector_bytes)
        keep = emit.is_nonzero(emit.load(builder.add(guard, here))) if guarded else None
        if cols < rows:
            right = [emit.load(builder.add(tap[j], here)) for j in range(cols)]
            for i in range(rows):
                left = emit.load(builder.add(grad_row[i], here))
                for j in range(cols):
                    add(i, j, left, right[j], keep)
        else:
            lefts = [emit.load(builder.add(grad_row[i], here)) for i in range(rows)]
            for j in range(cols):
                right_j = emit.load(builder.add(tap[j], here))
                for i in range(rows):
                    add(i, j, lefts[i], right_j, keep)
    totals = emit.sums([builder.load(slot) for slot in sums])
    space = cgutils.alloca_once(builder, emit.vector, size=len(totals))
    base = builder.ptrtoint(space, I64)
    for number, total in enumerate(totals):
        emit.store(total, emit.plus(base, number * emit.vector_bytes))
    with emit.loop(rows_wanted) as i:
        row_in = builder.add(base, emit.times(i, cols * emit.element_bytes))
        row_out = builder.add(out, builder.mul(i, out_stride))
        with emit.loop(cols_wanted) as j:
            step = emit.times(j, emit.element_bytes)
            place = emit.element_at(builder.add(row_out, step))
            value = builder.load(emit.element_at(builder.add(row_in, step)))
            builder.store(builder.fadd(builder.load(place), value), place)


@intrinsic
def gather_rows(
    typingctx: Any,
    like: Any,
    out: Any,
    out_stride: Any,
    source: Any,
    source_stride: Any,
    rows: Any,
    low: Any,
    high: Any,
    columns: Any,
    step: Any,
) -> Any:
    """out[row][c] = source[row][c*step] where low <= c < high, else 0, for c < columns and, beyond, to whole vectors.

    Row strides in bytes. The excess of a row goes where the next row starts and is overwritten by it: rows may be as
    near as `columns` elements. `source` may point before its array: nothing outside of low and high is touched.
    """

    def body(emit: Emit, args: Sequence[Any]) -> None:
        out, out_stride, source, source_stride, rows, low, high, columns, step = args
        builder = emit.builder
        vectors = builder.sdiv(emit.plus(columns, emit.lanes - 1), emit.const(emit.lanes))
        step_bytes = emit.times(step, emit.element_bytes)

        def each(step: int) -> None:
            # Columns of vectors from the right, rows inside: the masks are made once for all rows, and what spills over
            # from the last column is overwritten by the first, which comes after it.
            with emit.loop(vectors) as done:
                number = builder.sub(emit.plus(vectors, -1), done)
                first = emit.times(number, emit.lanes)
                read = builder.add(source, builder.mul(first, step_bytes))
                write = builder.add(out, emit.times(number, emit.vector_bytes))

                def copy(load: Callable[[Any], Any]) -> None:
                    with emit.loop(rows) as row:
                        value = load(builder.add(read, builder.mul(row, source_stride)))
                        emit.store(value, builder.add(write, builder.mul(row, out_stride)))

                if target.masks or step == 0:
                    copy(by(step, first, False) if step else by_many(first))
                else:  # a masked load is a branch for each lane: only where it has to be
                    end = emit.plus(first, emit.lanes + (step > 1))  # whole vectors end behind the last column
                    whole = builder.and_(builder.icmp_signed(">=", first, low), builder.icmp_signed("<=", end, high))
                    with builder.if_else(whole) as (then, otherwise):
                        with then:
                            copy(by(step, first, True))
                        with otherwise:
                            copy(by(step, first, False))

        def by(step: int, first: Any, whole: bool) -> Callable[[Any], Any]:
            """Every step-th element of as many vectors: the even ones, of these the even ones and so on."""
            bounds = emit.times(low, step), emit.plus(emit.times(high, step), 1 - step)
            starts = [emit.plus(emit.times(first, step), part * emit.lanes) for part in range(step)]
            masks = [] if whole else [emit.between(start, 1, *bounds) for start in starts]

            def load(place: Any) -> Any:
                places = [emit.plus(place, part * emit.vector_bytes) for part in range(step)]
                parts = [emit.load(each) for each in places] if whole else [*map(emit.load_masked, places, masks)]
                while len(parts) > 1:
                    even = range(0, 2 * emit.lanes, 2)
                    parts = [emit.shuffle(a, b, even) for a, b in zip(parts[::2], parts[1::2], strict=True)]
                return parts[0]

            return load

        def by_many(first: Any) -> Callable[[Any], Any]:
            mask = emit.between(first, 1, low, high)
            return lambda place: emit.gather(place, step_bytes, mask)

        def along() -> None:
            """Rows one by one, where they are long: masks at their ends alone."""
            wide = emit.lanes
            begin = builder.sdiv(emit.plus(low, wide - 1), emit.const(wide))
            end = emit.larger(builder.sdiv(high, emit.const(wide)), begin)
            with emit.loop(rows) as row:
                read = builder.add(source, builder.mul(row, source_stride))
                write = builder.add(out, builder.mul(row, out_stride))
                for start, stop in ((emit.const(0), begin), (begin, end), (end, vectors)):
                    with emit.loop(builder.sub(stop, start)) as number:
                        here = builder.add(start, number)
                        place = builder.add(read, emit.times(here, emit.vector_bytes))
                        if start is begin:
                            value = emit.load(place)
                        else:
                            value = emit.load_masked(place, emit.between(emit.times(here, wide), 1, low, high))
                        emit.store(value, builder.add(write, emit.times(here, emit.vector_bytes)))

        def one() -> None:
            with builder.if_else(builder.icmp_signed(">", vectors, emit.const(4))) as (then, otherwise):
                with then:
                    along()
                with otherwise:
                    each(1)

        emit.cases(step, {1: one, 2: lambda: each(2), 4: lambda: each(4)}, lambda: each(0))

    return addresses(like, 9), void(lambda emit, args: call_apart(emit, "gather_rows", body, args))


@intrinsic
def fill_with(typingctx: Any, like: Any, out: Any, number: Any, count: Any) -> Any:
    """out[i] = number, an int, for i < count and, beyond, to whole vectors."""

    def body(emit: Emit, args: Sequence[Any]) -> None:
        out, number, count = args
        value = emit.splat(emit.builder.sitofp(number, emit.element), emit.vector)
        vectors = emit.builder.sdiv(emit.plus(count, emit.lanes - 1), emit.const(emit.lanes))
        with emit.loop(vectors) as position:
            emit.store(value, emit.builder.add(out, emit.times(position, emit.vector_bytes)))

    return addresses(like, 3), void(body)


@intrinsic
def all_finite(typingctx: Any, like: Any, source: Any, count: Any) -> Any:
    """Whether none of `count` elements is inf or NaN."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        emit = Emit(builder, signature.args[0].dtype)
        _, source, count = args
        found = cgutils.alloca_once(builder, emit.bits)
        builder.store(ir.Constant(emit.bits, None), found)
        vectors = builder.sdiv(emit.plus(count, emit.lanes - 1), emit.const(emit.lanes))
        with emit.loop(vectors) as number:
            mask = emit.between(emit.times(number, emit.lanes), 1, emit.const(0), count)
            value = emit.load_masked(builder.add(source, emit.times(number, emit.vector_bytes)), mask)
            gone = builder.fsub(value, value)  # 0, or NaN
            builder.store(builder.or_(builder.load(found), builder.fcmp_unordered("uno", gone, gone)), found)
        bits = builder.bitcast(builder.load(found), ir.IntType(emit.lanes))
        return builder.icmp_unsigned("==", bits, ir.Constant(bits.type, 0))

    return types.boolean(like, types.intp, types.intp), codegen


@intrinsic
def spread_rows(
    typingctx: Any,
    like: Any,
    out: Any,
    out_stride: Any,
    source: Any,
    source_stride: Any,
    phase_stride: Any,
    rows: Any,
    low: Any,
    high: Any,
    columns: Any,
    step: Any,
) -> Any:
    """out[row][c*step + b] = source[b][row][c] for c < columns, b < step, where low <= c*step + b < high.

    Strides in bytes; high <= columns*step. The source is readable to whole vectors; `out` may point before its array.
    """

    def body(emit: Emit, args: Sequence[Any]) -> None:
        out, out_stride, source, source_stride, phase_stride, rows, low, high, columns, step = args
        builder = emit.builder
        lanes = emit.lanes
        vectors = builder.sdiv(emit.plus(columns, lanes - 1), emit.const(lanes))

        def two() -> None:
            with emit.loop(vectors) as number:
                first = emit.times(number, 2 * lanes)
                masks = [emit.between(emit.plus(first, half * lanes), 1, low, high) for half in (0, 1)]
                read = builder.add(source, emit.times(number, emit.vector_bytes))
                write = builder.add(out, emit.times(first, emit.element_bytes))

                def copy(whole: bool) -> None:
                    with emit.loop(rows) as row:
                        place = builder.add(read, builder.mul(row, source_stride))
                        phases = emit.load(place), emit.load(builder.add(place, phase_stride))
                        begin = builder.add(write, builder.mul(row, out_stride))
                        for half in (0, 1):
                            here = range(half * lanes // 2, (half + 1) * lanes // 2)
                            value = emit.shuffle(*phases, [lane for pair in here for lane in (pair, lanes + pair)])
                            place = emit.plus(begin, half * emit.vector_bytes)
                            if whole:
                                emit.store(value, place)
                            else:
                                emit.store_masked(value, place, masks[half])

                inside = builder.and_(
                    builder.icmp_signed(">=", first, low),
                    builder.icmp_signed("<=", emit.plus(first, 2 * lanes), high),
                )
                with builder.if_else(inside) as (then, otherwise):
                    with then:
                        copy(True)
                    with otherwise:
                        copy(False)

        def many() -> None:
            step_bytes = emit.times(step, emit.element_bytes)
            with emit.loop(step) as b, emit.loop(vectors) as number:
                first = builder.add(builder.mul(emit.times(number, lanes), step), b)
                mask = emit.between(first, step, low, high)
                read = builder.add(
                    source, builder.add(builder.mul(b, phase_stride), emit.times(number, emit.vector_bytes))
                )
                write = builder.add(out, emit.times(first, emit.element_bytes))
                with emit.loop(rows) as row:
                    value = emit.load(builder.add(read, builder.mul(row, source_stride)))
                    emit.scatter(value, builder.add(write, builder.mul(row, out_stride)), step_bytes, mask)

        emit.cases(step, {2: two}, many)

    return addresses(like, 10), void(body)


@intrinsic
def transpose(
    typingctx: Any, like: Any, out: Any, out_stride: Any, source: Any, source_stride: Any, rows: Any, columns: Any
) -> Any:
    """out[j][i] = source[i][j] for i < rows, j < columns, and nothing else; strides in bytes. In squares of L x L."""

    def body(emit: Emit, args: Sequence[Any]) -> None:
        out, out_stride, source, source_stride, rows, columns = args
        builder, lanes = emit.builder, emit.lanes

        def squares(total: Any) -> Any:
            return builder.sdiv(emit.plus(total, lanes - 1), emit.const(lanes))

        def edge(i: Any, j: Any, start: Any, place: Any) -> None:
            in_columns = emit.between(j, 1, emit.const(0), columns)
            in_rows = emit.between(i, 1, emit.const(0), rows)
            vectors = []
            for lane in range(lanes):
                row = emit.plus(i, lane)  # below the last row, that row again: readable, and not stored
                row = builder.select(builder.icmp_signed("<", row, rows), row, emit.plus(rows, -1))
                vectors.append(emit.load_masked(builder.add(start, builder.mul(row, source_stride)), in_columns))
            for lane, value in enumerate(emit.transposed(vectors)):
                wanted = builder.icmp_signed("<", emit.plus(j, lane), columns)
                mask = builder.and_(in_rows, emit.splat(wanted, emit.bits))
                emit.store_masked(value, builder.add(place, builder.mul(emit.const(lane), out_stride)), mask)

        with emit.loop(squares(rows)) as square_i, emit.loop(squares(columns)) as square_j:
            i, j = emit.times(square_i, lanes), emit.times(square_j, lanes)
            start = builder.add(source, emit.times(j, emit.element_bytes))
            place = builder.add(out, builder.add(emit.times(i, emit.element_bytes), builder.mul(j, out_stride)))
            inside = builder.and_(
                builder.icmp_signed("<=", emit.plus(i, lanes), rows),
                builder.icmp_signed("<=", emit.plus(j, lanes), columns),
            )
            with builder.if_else(inside) as (then, otherwise):
                with then:  # a masked store may cost many plain ones
                    places = [
                        builder.add(start, builder.mul(emit.plus(i, lane), source_stride)) for lane in range(lanes)
                    ]
                    for lane, value in enumerate(emit.transposed([emit.load(each) for each in places])):
                        emit.store(value, builder.add(place, builder.mul(emit.const(lane), out_stride)))
                with otherwise:
                    edge(i, j, start, place)

    return addresses(like, 6), void(body)


# ---- the floating-point mode: denormals


@intrinsic
def flush_denormals(typingctx: Any) -> Any:
    """Treat denormals as zero in this thread from now on; returns the mode before, for :func:`restore_mode`.

    x86: flush-to-zero and denormals-are-zero of MXCSR. AArch64: FZ of FPCR. Elsewhere nothing changes.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        before = _read_mode(builder)
        _write_mode(builder, builder.or_(before, ir.Constant(I64, _FLUSH.get(architecture(), 0))))
        return before

    return types.intp(), codegen


@intrinsic
def restore_mode(typingctx: Any, mode: Any) -> Any:
    """Set the floating-point mode that :func:`flush_denormals` returned."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        _write_mode(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


_FLUSH = {"x86": 0x8040, "aarch64": 1 << 24}


def _mxcsr(builder: ir.IRBuilder, name: str, slot: Any) -> None:
    pointer = builder.bitcast(slot, _I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer()])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [pointer])


def _read_mode(builder: ir.IRBuilder) -> Any:
    if architecture() == "x86":
        slot = cgutils.alloca_once(builder, I32)
        _mxcsr(builder, "llvm.x86.sse.stmxcsr", slot)
        return builder.zext(builder.load(slot), I64)
    if architecture() == "aarch64":
        kind = ir.FunctionType(I64, [])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.get.fpcr"), [])
    return ir.Constant(I64, 0)


def _write_mode(builder: ir.IRBuilder, mode: Any) -> None:
    if architecture() == "x86":
        slot = cgutils.alloca_once(builder, I32)
        builder.store(builder.trunc(mode, I32), slot)
        _mxcsr(builder, "llvm.x86.sse.ldmxcsr", slot)
    elif architecture() == "aarch64":
        kind = ir.FunctionType(ir.VoidType(), [I64])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.set.fpcr"), [mode])
