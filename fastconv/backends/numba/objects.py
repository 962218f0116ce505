"""Arrays that kernels take as the Python objects they are, so that handing one over costs nothing.

Numba's own arrays cost some 100 ns each: reference counts, shape and strides are copied out of every one. A kernel
whose sizes stand in a plan needs an array's address alone, which NumPy's C interface keeps behind the object's header.
The caller vouches for type, dtype and layout, and calls :func:`fastconv.backends.numba.compiled.builtin`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import RequireLiteralValue
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

from .vector import I64, Emit

DATA = object.__basicsize__  # PyArrayObject: the header of every object, then `char *data`


class ArrayObject(types.Type):  # type: ignore[misc]
    """An ndarray of elements of `dtype`, any shape, as the object it is."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        super().__init__(name=f"ArrayObject({dtype})")


register_model(ArrayObject)(models.OpaqueModel)


@unbox(ArrayObject)
def _unbox(kind: Any, value: Any, context: Any) -> NativeValue:
    return NativeValue(value)


@intrinsic
def data(typingctx: Any, array: Any) -> Any:
    """Where an array's elements start."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        place = builder.add(builder.ptrtoint(args[0], I64), ir.Constant(I64, DATA))
        return builder.load(builder.inttoptr(place, I64.as_pointer()))

    return types.intp(array), codegen


@intrinsic
def words(typingctx: Any, array: Any, count: Any) -> Any:
    """The first `count` (a literal) elements of an int64 array, as a tuple."""
    if not isinstance(count, types.IntegerLiteral):
        raise RequireLiteralValue("count")
    kind = types.UniTuple(types.int64, count.literal_value)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        place = builder.add(builder.ptrtoint(args[0], I64), ir.Constant(I64, DATA))
        start = builder.load(builder.inttoptr(place, I64.as_pointer().as_pointer()))
        found = [builder.load(builder.gep(start, [ir.Constant(I64, i)])) for i in range(signature.return_type.count)]
        return cgutils.pack_array(builder, found)

    return kind(array, count), codegen


@intrinsic
def item_bytes(typingctx: Any, like: Any) -> Any:
    """Bytes of an element: a constant of the compiled code."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return ir.Constant(I64, Emit(builder, signature.args[0].dtype).element_bytes)

    return types.intp(like), codegen


@intrinsic
def zero(typingctx: Any, like: Any) -> Any:
    """0 of an array's type of elements."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(signature.return_type), 0.0)

    return like.dtype(like), codegen


@intrinsic
def number_at(typingctx: Any, like: Any, address: Any) -> Any:
    """The element of an array's type at an address."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        emit = Emit(builder, signature.args[0].dtype)
        return builder.load(emit.element_at(args[1]), align=emit.element_bytes)

    return like.dtype(like, types.intp), codegen


@intrinsic
def put(typingctx: Any, like: Any, address: Any, value: Any) -> Any:
    """Stores an element of an array's type at an address."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        emit = Emit(builder, signature.args[0].dtype)
        builder.store(args[2], emit.element_at(args[1]), align=emit.element_bytes)
        return context.get_dummy_value()

    return types.void(like, types.intp, like.dtype), codegen
