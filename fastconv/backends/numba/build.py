"""Compiles kernels to object files: the only part of a call that needs numba, and then only the first time.

Numba's own pipeline makes machine code of every function that it meets, and again of all that it inlines into another.
So our functions have a target of their own, the CPU's with another code generator: functions are only translated and
linked; what comes of a kernel and all that it calls is optimised once and made into machine code once.

Numba's wrapper for Python copies sizes and reference counts out of each array and looks at each type, 100 ns an array.
Here the caller vouches for types, so the entry reads shapes and address straight from the objects (NumPy's C
interface), gives up the lock that Python threads share, and calls the kernel.
"""

from __future__ import annotations

import importlib
import sys
from functools import cached_property
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import _dynfunc, types
from numba.core import cgutils
from numba.core.codegen import CPUCodeLibrary, JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher, CPUTarget, cpu_target
from numba.np import arrayobj

from . import vector
from .compiled import MODULES
from .cpu import Isa
from .machine_code import ENTRY, KERNEL
from .objects import DATA, ArrayObject

_OPTIONS = {"nopython": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_OPTIONS |= {"_nrt": False}  # the kernels allocate nothing


class _Library(CPUCodeLibrary):  # type: ignore[misc]
    """Functions that are linked into others and never run by themselves: neither optimised nor made into code."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._verify_declare_only_symbols()
        self._finalized = True


class _Codegen(JITCPUCodegen):  # type: ignore[misc]
    _library_class = _Library

    def object_file(self, library: _Library, exported: tuple[str, ...]) -> bytes:
        """The machine code of `library`, optimised as a whole, with these names to be found in it."""
        module = library._final_module
        for function in module.functions:
            if not function.is_declaration and function.name not in exported:
                function.linkage = "internal"
        passes, builder = self._module_pass_manager(loop_vectorize=False, slp_vectorize=False)
        passes.run(module, builder)
        missing = [function.name for function in module.functions if function.name.startswith(("numba_", "NRT_"))]
        if missing:  # what needs them crashes in a process that has not imported numba
            raise RuntimeError(f"{library.name} calls functions of Numba's run time: {', '.join(missing)}")
        code: bytes = self._tm.emit_object(module)
        return code


class _Target(CPUTarget):  # type: ignore[misc]
    """Numba's CPU target, its types and its implementations, with :class:`_Codegen`."""

    @property
    def typing_context(self) -> Any:
        return cpu_target.typing_context

    @cached_property
    def target_context(self) -> Any:
        context = cpu_target.target_context
        return context.subtarget(_internal_codegen=_Codegen("fastconv"), get_executable=_not_executable)


def _not_executable(library: Any, fndesc: Any, env: Any) -> Any:
    """What stands for a function where Numba asks for one to call: each its own, as calls are looked up by it."""
    return _dynfunc.make_function(fndesc.lookup_module(), fndesc.qualname.split(".")[-1], "", 0, env, (library,))


class _Dispatcher(CPUDispatcher):  # type: ignore[misc]
    targetdescr = _Target("cpu")


def signature(name: str, dtype: np.dtype[Any]) -> Any:
    """Numba's types of that kernel's arguments and result."""
    return _module(name).SIGNATURES[name](numba.from_dtype(dtype))


def _module(name: str) -> Any:
    return importlib.import_module(f".{MODULES[name]}", __package__)


def object_file(name: str, dtype: np.dtype[Any], isa: Isa) -> bytes:
    """The machine code of the kernel `name` for arrays of `dtype` and the vectors of `isa`."""
    module = _module(name)
    kinds = signature(name, dtype)
    with global_compiler_lock:
        vector.target = isa
        # Fresh callees, as their code depends on the target too.
        for helper in module.HELPERS:
            plain = getattr(module, helper)
            plain = getattr(plain, "py_func", plain)
            fresh = _Dispatcher(plain, targetoptions=_OPTIONS)
            for place in (module, sys.modules[plain.__module__]):  # where it is from, for others from there
                setattr(place, helper, fresh)
        kernel = _Dispatcher(module.BUILDERS[name](), targetoptions=_OPTIONS)
        kernel.compile(kinds)
        (compiled,) = kernel.overloads.values()
        context = compiled.target_context
        library = context.codegen().create_library(name)
        library.add_ir_module(_entry(context, library, compiled.fndesc, kinds))
        library.add_linking_library(compiled.library)
        library.finalize()
        library.get_function(compiled.fndesc.llvm_func_name).name = KERNEL
        code: bytes = context.codegen().object_file(library, (ENTRY, KERNEL))
    return code


_POINTER = ir.IntType(8).as_pointer()
_I64 = ir.IntType(64)


def _entry(context: Any, library: Any, kernel: Any, kinds: Any) -> ir.Module:
    """A module with ENTRY: ``PyObject *entry(PyObject *self, PyObject *const *arguments, Py_ssize_t how_many)``.

    Its arguments are the kernel's. Where the last one, the share, is replaced by two, a pool and a number of shares, it
    runs that many on the threads of the pool (:mod:`.workers`) and returns their results or-ed together.
    """
    module = library.create_ir_module(ENTRY)
    function = ir.Function(module, ir.FunctionType(_POINTER, [_POINTER, _POINTER.as_pointer(), _I64]), ENTRY)
    builder = ir.IRBuilder(function.append_basic_block())
    _, given, how_many = function.args
    count = len(kinds.args)
    in_shares = isinstance(kinds.args[-1], types.Integer)
    one_share = builder.icmp_signed("==", how_many, ir.Constant(_I64, count))
    all_shares = builder.icmp_signed("==", how_many, ir.Constant(_I64, count + 1 if in_shares else count))
    with builder.if_then(builder.not_(builder.or_(one_share, all_shares)), likely=False):
        _fail(builder, "PyErr_BadArgument")
    objects = [_item(builder, given, i) for i in range(count)]
    arguments = [_unpacked(context, builder, kind, each) for kind, each in zip(kinds.args, objects, strict=True)]
    result = cgutils.alloca_once(builder, _I64)
    with builder.if_else(one_share, likely=True) as (once, several):
        with once:
            state = _call(builder, _POINTER, "PyEval_SaveThread")
            builder.store(_run(context, builder, kernel, kinds, arguments), result)
            _call(builder, ir.VoidType(), "PyEval_RestoreThread", state)
        with several:
            if in_shares:
                shares = _integer(builder, _item(builder, given, count))
                state = _call(builder, _POINTER, "PyEval_SaveThread")
                builder.store(_share_out(context, builder, kernel, kinds, arguments, shares), result)
                _call(builder, ir.VoidType(), "PyEval_RestoreThread", state)
    number = builder.load(result)
    with builder.if_then(builder.icmp_signed("<", number, ir.Constant(_I64, 0)), likely=False):
        _fail(builder, "PyErr_BadInternalCall")  # an exception, which the kernels do not raise
    builder.ret(_call(builder, _POINTER, "PyLong_FromLongLong", number))
    return module


def _run(context: Any, builder: ir.IRBuilder, kernel: Any, kinds: Any, arguments: list[Any]) -> Any:
    """The kernel's result, or a negative number."""
    convention = context.call_conv
    kind = convention.get_function_type(kinds.return_type, kinds.args)
    callee = cgutils.get_or_insert_function(builder.module, kind, kernel.llvm_func_name)
    status, result = convention.call_function(builder, callee, kinds.return_type, kinds.args, arguments)
    return builder.select(status.is_error, ir.Constant(_I64, -1), result)


def _share_out(context: Any, builder: ir.IRBuilder, kernel: Any, kinds: Any, arguments: list[Any], shares: Any) -> Any:
    """What the pool's code makes of all shares; the last of the arguments is the pool."""
    *others, pool = arguments
    together = cgutils.pack_struct(builder, others)
    place = cgutils.alloca_once_value(builder, together)
    task = ir.Function(builder.module, ir.FunctionType(_I64, [_I64, _I64]), "fastconv.share")
    task.linkage = "internal"
    inner = ir.IRBuilder(task.append_basic_block())
    taken = inner.load(inner.inttoptr(task.args[0], place.type))
    unpacked = [inner.extract_value(taken, i) for i in range(len(others))]
    inner.ret(_run(context, inner, kernel, kinds, [*unpacked, task.args[1]]))

    words = types.int64(*(types.int64,) * 4)
    convention = context.call_conv
    kind = convention.get_function_type(words.return_type, words.args)
    share_out = builder.inttoptr(_item(builder, builder.inttoptr(pool, _I64.as_pointer()), 0), kind.as_pointer())
    handed = [pool, builder.ptrtoint(task, _I64), builder.ptrtoint(place, _I64), shares]
    status, result = convention.call_function(builder, share_out, words.return_type, words.args, handed)
    return builder.select(status.is_error, ir.Constant(_I64, -1), result)


def _call(builder: ir.IRBuilder, result: ir.Type, name: str, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _fail(builder: ir.IRBuilder, name: str) -> None:
    # A function sets the error, as Numba gives the names of exceptions another meaning than C has, where it is loaded.
    _call(builder, ir.VoidType(), name)
    builder.ret(ir.Constant(_POINTER, None))


def _unpacked(context: Any, builder: ir.IRBuilder, kind: Any, value: Any) -> Any:
    """What the kernel takes for a Python object of Numba's type `kind`."""
    if isinstance(kind, ArrayObject):
        return value
    if isinstance(kind, types.Integer):
        return _integer(builder, value)
    element = context.get_data_type(kind.dtype)
    # PyArrayObject: data, nd (and a gap), dimensions, strides
    fields = builder.bitcast(builder.gep(value, [ir.Constant(_I64, DATA)]), _POINTER.as_pointer())
    start, sizes, steps = (_item(builder, fields, place) for place in (0, 2, 3))
    shape, strides = (
        [_item(builder, builder.bitcast(numbers, _I64.as_pointer()), i) for i in range(kind.ndim)]
        for numbers in (sizes, steps)
    )
    array = context.make_array(kind)(context, builder)
    start = builder.bitcast(start, element.as_pointer())
    arrayobj.populate_array(array, start, shape, strides, context.get_abi_sizeof(element), None)
    return array._getvalue()


def _item(builder: ir.IRBuilder, pointer: Any, place: int) -> Any:
    return builder.load(builder.gep(pointer, [ir.Constant(_I64, place)]))


def _integer(builder: ir.IRBuilder, value: Any) -> Any:
    number = _call(builder, _I64, "PyLong_AsLongLong", value)
    with builder.if_then(builder.icmp_signed("==", number, ir.Constant(_I64, -1)), likely=False):
        failed = cgutils.is_not_null(builder, _call(builder, _POINTER, "PyErr_Occurred"))
        with builder.if_then(failed, likely=False):
            builder.ret(ir.Constant(_POINTER, None))
    return number
