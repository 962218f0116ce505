"""What threads need to hand work to each other without the GIL: intrinsics on words (int64) at addresses.

Loads, stores and exchanges are sequentially consistent: what a thread wrote before one of them, a thread that sees it
reads after its own. The locks are those of Python's C interface, which need no GIL and may be released by another
thread than acquired them: sleep and alarm clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .cpu import architecture
from .vector import I32, I64

_CLOCK = getattr(time, "CLOCK_MONOTONIC", 1)
_POINTER = ir.IntType(8).as_pointer()


def _on_words(count: int, body: Callable[[ir.IRBuilder, Sequence[Any]], Any]) -> Any:
    """For @intrinsic: the type of `count` int64 to an int64, and what makes its code."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[Any]) -> Any:
        return body(builder, args)

    return types.int64(*(types.int64,) * count), codegen


def _place(builder: ir.IRBuilder, address: Any) -> Any:
    return builder.inttoptr(address, I64.as_pointer())


def _call(builder: ir.IRBuilder, result: ir.Type, name: str, *args: Any) -> Any:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@intrinsic
def load(typingctx: Any, address: Any) -> Any:
    """The word at an address."""
    return _on_words(1, lambda builder, args: builder.load_atomic(_place(builder, args[0]), "seq_cst", 8))


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Puts a word in place; returns it."""

    def body(builder: ir.IRBuilder, args: Sequence[Any]) -> Any:
        builder.store_atomic(args[1], _place(builder, args[0]), "seq_cst", 8)
        return args[1]

    return _on_words(2, body)


@intrinsic
def exchange(typingctx: Any, address: Any, value: Any) -> Any:
    """Puts a word in place; returns the one that was there."""
    return _on_words(2, lambda builder, args: builder.atomic_rmw("xchg", _place(builder, args[0]), args[1], "seq_cst"))


@intrinsic
def replace(typingctx: Any, address: Any, old: Any, new: Any) -> Any:
    """Puts `new` in place where `old` is; returns whether it was."""

    def body(builder: ir.IRBuilder, args: Sequence[Any]) -> Any:
        both = builder.cmpxchg(_place(builder, args[0]), args[1], args[2], "seq_cst", "seq_cst")
        return builder.zext(builder.extract_value(both, 1), I64)

    return _on_words(3, body)


@intrinsic
def pause(typingctx: Any) -> Any:
    """Some ten nanoseconds in which the CPU's other thread has the core."""

    def body(builder: ir.IRBuilder, args: Sequence[Any]) -> Any:
        if architecture() == "x86":
            _call(builder, ir.VoidType(), "llvm.x86.sse2.pause")
        elif architecture() == "aarch64":  # about as long as an x86 pause, where `yield` is a no-op
            _call(builder, ir.VoidType(), "llvm.aarch64.isb", ir.Constant(I32, 15))
        return ir.Constant(I64, 0)

    return _on_words(0, body)


@intrinsic
def nanoseconds(typingctx: Any) -> Any:
    """The time since some moment."""

    def body(builder: ir.IRBuilder, args: Sequence[Any]) -> Any:
        now = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))  # struct timespec
        _call(builder, I32, "clock_gettime", ir.Constant(I32, _CLOCK), builder.bitcast(now, _POINTER))
        seconds, rest = (builder.extract_value(builder.load(now), i) for i in range(2))
        return builder.add(builder.mul(seconds, ir.Constant(I64, 10**9)), rest)

    return _on_words(0, body)


@intrinsic
def acquire(typingctx: Any, lock: Any) -> Any:
    """Sleeps until the lock has been released."""

    def body(builder: ir.IRBuilder, args: Sequence[Any]) -> Any:
        lock = builder.inttoptr(args[0], _POINTER)
        return builder.zext(_call(builder, I32, "PyThread_acquire_lock", lock, ir.Constant(I32, 1)), I64)

    return _on_words(1, body)


@intrinsic
def release(typingctx: Any, lock: Any) -> Any:
    def body(builder: ir.IRBuilder, args: Sequence[Any]) -> Any:
        _call(builder, ir.VoidType(), "PyThread_release_lock", builder.inttoptr(args[0], _POINTER))
        return ir.Constant(I64, 0)

    return _on_words(1, body)


@intrinsic
def call(typingctx: Any, function: Any, arguments: Any, share: Any) -> Any:
    """function(arguments, share), of two words, as C calls it."""

    def body(builder: ir.IRBuilder, args: Sequence[Any]) -> Any:
        kind = ir.FunctionType(I64, [I64, I64])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return _on_words(3, body)
