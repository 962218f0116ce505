"""The Numba kernels, callable from your own ``@njit`` code. Importing this module imports numba.

``conv1d`` and ``conv2d`` do all in one call. Where one layer is applied many times, or inside ``prange``, make its plan
once, outside, and call ``forward``, ``backward_input`` and ``backward_weight`` with it: no Python object is touched
then and no lock is taken, so your threads run them side by side. All of them work from plain Python as well.

>>> import numpy as np, numba, fastconv.numba as fcn
>>> x = np.arange(8, dtype=np.float32).reshape(2, 1, 4)
>>> w = np.array([[[2, 1, 3]]], dtype=np.float32)
>>> @numba.njit
... def energy(x, w):
...     return (fcn.conv1d(x, w) ** 2).sum()
>>> float(energy(x, w))
2548.0
>>> plan = fcn.plan("forward", x.shape[1:], w.shape)
>>> @numba.njit(parallel=True)
... def each_image(plan, x, w):
...     y = np.empty((x.shape[0], 1, 2), x.dtype)
...     for n in numba.prange(x.shape[0]):
...         y[n] = fcn.forward(plan, x[n], w)
...     return y
>>> each_image(plan, x, w).tolist()
[[[7.0, 13.0]], [[31.0, 37.0]]]

One call runs on one thread: yours. Denormals are flushed to zero while it runs. The vectors are those of the ISA that
was in use (``FASTCONV_ISA``) when the plan was made. ``njit(cache=True)`` works for functions that call these; a plan
belongs to its process and cannot be stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import njit, objmode, types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

from .backends.numba.build import signature
from .backends.numba.compiled import entry_point
from .backends.numba.cpu import current
from .backends.numba.flags import BIAS_PER_CHANNEL, BIAS_PER_POSITION, GUARDED
from .backends.numba.plan import correlate_plan, gradient_plan
from .geometry import OPERATIONS, Geometry, conv_geometry

__all__ = ["Plan", "Plan1d", "Plan2d", "backward_input", "backward_weight", "conv1d", "conv2d", "forward", "plan"]


class Plan1d(NamedTuple):
    """One operation on one 1-D geometry, cut up for the kernels: made by :func:`plan`, handed to njit code."""

    operation: int  # its number in fastconv.geometry.OPERATIONS
    item: int  # bytes of an element
    entry: int  # address of the kernel's machine code: to link it into every caller would compile it again each time
    shapes: np.ndarray  # of x (N, C, 1, L), of w (K, C/groups, 1, S), of y (N, K, 1, Q); no tuples, for prange's sake
    record: np.ndarray
    tables: np.ndarray
    scratch_words: int


class Plan2d(NamedTuple):
    """The same in 2-D, with H, R and P in place of the ones. A type of its own, as Numba decides by types."""

    operation: int
    item: int
    entry: int
    shapes: np.ndarray
    record: np.ndarray
    tables: np.ndarray
    scratch_words: int


Plan = Plan1d | Plan2d


def plan(
    operation: str,
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: Any = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    dtype: Any = np.float32,
) -> Plan:
    """The plan of ``"forward"``, ``"backward_input"`` or ``"backward_weight"``; call it outside of njit code.

    input_shape: (N, C_in, L) or (N, C_in, H, W); without N it counts as one image. weight_shape:
    (C_out, C_in/groups, kernel...). stride, padding, dilation, groups: as in :func:`fastconv.conv1d`, zeros as padding.
    dtype: float32 (default) or float64, of all arrays. Raises what the functions of :mod:`fastconv` raise.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"operation must be one of {', '.join(OPERATIONS)}, got {operation!r}")
    axes = len(weight_shape) - 2
    if axes not in (1, 2):
        raise ValueError(f"weight must have 3 or 4 axes, (C_out, C_in/groups, kernel...), got {tuple(weight_shape)}")
    if np.dtype(dtype).type not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
    batched = (1, *input_shape) if len(input_shape) == axes + 1 else tuple(input_shape)
    g, _ = conv_geometry(axes, batched, weight_shape, stride, padding, dilation, groups)
    if g.elements == 0 or 0 in g.x_shape:
        raise ValueError(f"nothing to compute: input {tuple(input_shape)}, weight {tuple(weight_shape)}")
    return _cut(axes, operation, g, np.dtype(dtype))


def _cut(axes: int, operation: str, g: Geometry, dtype: np.dtype[Any]) -> Plan:
    isa = current()
    if operation == "backward_weight":
        name, cut = "gradient", gradient_plan(g, dtype.itemsize, 1, isa)
    else:
        name, cut = "correlate", correlate_plan(operation, g, dtype.itemsize, 1, isa)
    kind = Plan1d if axes == 1 else Plan2d
    shapes = np.array([g.x_shape, g.w_shape, g.y_shape])
    number, entry = OPERATIONS.index(operation), entry_point(name, dtype, isa)
    return kind(number, dtype.itemsize, entry, shapes, cut.record, cut.tables, cut.scratch_words)


# ---- what the njit functions are made of: Numba picks a body by the types of the arguments


def _call(context: Any, builder: Any, name: str, sig: Any, args: Any) -> Any:
    """Calls the machine code at args[0] as Numba's compiled functions call each other."""
    kinds = signature(name, numba.np.numpy_support.as_dtype(sig.args[1].dtype)).args
    convention = context.call_conv
    kind = convention.get_function_type(types.int64, kinds)
    function = builder.inttoptr(args[0], kind.as_pointer())
    status, result = convention.call_function(builder, function, types.int64, kinds, args[1:])
    with builder.if_then(status.is_error):
        convention.return_status_propagate(builder, status)
    return result


@intrinsic
def _correlate(
    typingctx: Any,
    entry: Any,
    source: Any,
    weight: Any,
    target: Any,
    bias: Any,
    scratch: Any,
    record: Any,
    tables: Any,
    flags: Any,
    share: Any,
) -> Any:
    _same_type(source, weight, target, bias)
    kinds = (entry, source, weight, target, bias, scratch, record, tables, types.int64, types.int64)
    return types.int64(*kinds), lambda *emit: _call(emit[0], emit[1], "correlate", *emit[2:])


@intrinsic
def _gradient(
    typingctx: Any,
    entry: Any,
    source: Any,
    grad: Any,
    out: Any,
    scratch: Any,
    record: Any,
    tables: Any,
    flags: Any,
    share: Any,
) -> Any:
    _same_type(source, grad, out)
    kinds = (entry, source, grad, out, scratch, record, tables, types.int64, types.int64)
    return types.int64(*kinds), lambda *emit: _call(emit[0], emit[1], "gradient", *emit[2:])


def _same_type(*arrays: Any) -> None:
    """A typing error where the element types of Numba array types are not ours, or not the same."""
    kinds = {str(array.dtype) for array in arrays}
    if len(kinds) > 1 or kinds - {"float32", "float64"}:
        raise TypingError(f"fastconv.numba: all arrays must be float32 or all float64, got {', '.join(sorted(kinds))}")


def _axes(plan: Any) -> int:
    """Of a plan's Numba type."""
    kinds: dict[Any, int] = {Plan1d: 1, Plan2d: 2}
    axes = kinds.get(getattr(plan, "instance_class", None))
    if axes is None:
        raise TypingError("fastconv.numba: the first argument must come from fastconv.numba.plan")
    return axes


@njit
def _shape(plan: Any, which: int) -> Any:
    row = plan.shapes[which]
    return row[0], row[1], row[2], row[3]


def _laid_out(plan: Any, array: Any, which: int) -> Any:
    raise NotImplementedError("for njit code")


@overload(_laid_out, strict=False)
def _(plan: Any, array: Any, which: int) -> Any:
    """`array` with four axes, C-contiguous; ValueError where it is not of the plan's shape."""
    axes, extra = _axes(plan), getattr(array, "ndim", 0) - _axes(plan)
    if extra not in (1, 2):
        raise TypingError(f"fastconv.numba: a {axes}-D convolution has arrays of {axes + 1} or {axes + 2} axes")
    if axes == 1 and extra == 2:

        def given(array: Any) -> Any:
            return array.shape[0], array.shape[1], 1, array.shape[2]

    elif axes == 1:

        def given(array: Any) -> Any:
            return 1, array.shape[0], 1, array.shape[1]

    elif extra == 2:

        def given(array: Any) -> Any:
            return array.shape

    else:

        def given(array: Any) -> Any:
            return 1, array.shape[0], array.shape[1], array.shape[2]

    four = njit(given)

    def laid_out(plan: Any, array: Any, which: int) -> Any:
        shape = _shape(plan, which)
        if four(array) != shape:
            raise ValueError("fastconv.numba: an array does not have the shape that the plan was made for")
        if array.itemsize != plan.item:
            raise ValueError("fastconv.numba: an array does not have the dtype that the plan was made for")
        return np.ascontiguousarray(array).reshape(shape)

    return laid_out


def _as_given(plan: Any, like: Any, array: Any) -> Any:
    raise NotImplementedError("for njit code")


@overload(_as_given, strict=False)
def _(plan: Any, like: Any, array: Any) -> Any:
    """`array`, of four axes, with as many as `like` has."""
    axes, batched = _axes(plan), like.ndim == _axes(plan) + 2
    if axes == 2 and batched:
        return lambda plan, like, array: array
    if axes == 2:
        return lambda plan, like, array: array.reshape(array.shape[1:])
    if batched:
        return lambda plan, like, array: array.reshape((array.shape[0], array.shape[1], array.shape[3]))
    return lambda plan, like, array: array.reshape((array.shape[1], array.shape[3]))


def _weight_as_given(plan: Any, array: Any) -> Any:
    raise NotImplementedError("for njit code")


@overload(_weight_as_given, strict=False)
def _(plan: Any, array: Any) -> Any:
    if _axes(plan) == 2:
        return lambda plan, array: array
    return lambda plan, array: array.reshape((array.shape[0], array.shape[1], array.shape[3]))


def _bias_values(plan: Any, bias: Any, like: Any) -> Any:
    raise NotImplementedError("for njit code")


@overload(_bias_values, strict=False)
def _(plan: Any, bias: Any, like: Any) -> Any:
    """(the values in one axis, the kernel's flag)."""
    if bias is None or isinstance(bias, (types.NoneType, types.Omitted)):
        return lambda plan, bias, like: (np.zeros(1, like.dtype), 0)
    axes = _axes(plan)
    if bias.ndim == 1:

        def shared(plan: Any, bias: Any, like: Any) -> Any:
            if bias.size != plan.shapes[2, 1]:
                raise ValueError("fastconv.numba: bias must have one value for each output channel")
            return np.ascontiguousarray(bias), BIAS_PER_CHANNEL

        return shared
    if bias.ndim != axes + 1:
        raise TypingError(f"fastconv.numba: bias has 1 axis or, untied, {axes + 1}")

    def untied(plan: Any, bias: Any, like: Any) -> Any:
        channels, rows, columns = plan.shapes[2, 1], plan.shapes[2, 2], plan.shapes[2, 3]
        size = channels * rows * columns
        if bias.shape[0] != channels or bias.shape[-1] != columns or bias.size != size:
            raise ValueError("fastconv.numba: an untied bias must have the shape of one image of the output")
        return np.ascontiguousarray(bias).reshape(bias.size), BIAS_PER_POSITION

    return untied


# ---- the functions


@njit(nogil=True)
def forward(plan: Any, x: Any, w: Any, bias: Any = None) -> Any:
    """The output of the layer that `plan` was made for with operation ``"forward"``.

    x: (N, C_in, L) or (N, C_in, H, W), or without N where the plan has one image; w: (C_out, C_in/groups, kernel...);
    bias: None, (C_out,), or untied (C_out, L_out) or (C_out, H_out, W_out). Returns a new array of as many axes as x.
    Raises ValueError where a shape is not the plan's.
    """
    if plan.operation != 0:
        raise ValueError("fastconv.numba: the plan was made for another operation than 'forward'")
    source = _laid_out(plan, x, 0)
    weight = _laid_out(plan, w, 1)
    values, flags = _bias_values(plan, bias, x)
    y = np.empty(_shape(plan, 2), x.dtype)
    scratch = np.empty(plan.scratch_words, np.int64)
    if _correlate(plan.entry, source, weight, y, values, scratch, plan.record, plan.tables, flags, 0):
        _correlate(plan.entry, source, weight, y, values, scratch, plan.record, plan.tables, flags | GUARDED, 0)
    return _as_given(plan, x, y)


@njit(nogil=True)
def backward_input(plan: Any, grad_output: Any, w: Any) -> Any:
    """The gradient with respect to the input, for a plan of ``"backward_input"``; also the transposed convolution.

    grad_output: (N, C_out, L_out) or (N, C_out, H_out, W_out), or without N; w as in :func:`forward`. Returns a new
    array of the input's shape, of as many axes as grad_output. Raises ValueError where a shape is not the plan's.
    """
    if plan.operation != 1:
        raise ValueError("fastconv.numba: the plan was made for another operation than 'backward_input'")
    source = _laid_out(plan, grad_output, 2)
    weight = _laid_out(plan, w, 1)
    x = np.empty(_shape(plan, 0), w.dtype)
    scratch = np.empty(plan.scratch_words, np.int64)
    nothing = np.zeros(1, w.dtype)
    if _correlate(plan.entry, source, weight, x, nothing, scratch, plan.record, plan.tables, 0, 0):
        _correlate(plan.entry, source, weight, x, nothing, scratch, plan.record, plan.tables, GUARDED, 0)
    return _as_given(plan, grad_output, x)


@njit(nogil=True)
def backward_weight(plan: Any, grad_output: Any, x: Any) -> Any:
    """The gradient with respect to the weight, for a plan of ``"backward_weight"``; a new array of the weight's shape.

    Arrays as in the other two. Raises ValueError where a shape is not the plan's.
    """
    if plan.operation != 2:
        raise ValueError("fastconv.numba: the plan was made for another operation than 'backward_weight'")
    source = _laid_out(plan, x, 0)
    grad = _laid_out(plan, grad_output, 2)
    w = np.empty(_shape(plan, 1), x.dtype)
    scratch = np.empty(plan.scratch_words, np.int64)
    if _gradient(plan.entry, source, grad, w, scratch, plan.record, plan.tables, 0, 0):
        _gradient(plan.entry, source, grad, w, scratch, plan.record, plan.tables, GUARDED, 0)
    return _weight_as_given(plan, w)


_PLAN_1D = numba.typeof(plan("forward", (1, 1, 1), (1, 1, 1)))
_PLAN_2D = numba.typeof(plan("forward", (1, 1, 1, 1), (1, 1, 1, 1)))


@njit
def conv1d(
    x: Any, w: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: Any = 1
) -> Any:
    """As :func:`fastconv.conv1d`, from njit code: the plan is looked up in Python for every call (some microseconds,
    with the lock that Python threads share), so in hot loops and in ``prange`` use :func:`plan` and :func:`forward`."""
    itemsize = x.itemsize
    x_shape, w_shape = x.shape, w.shape
    with objmode(cut=_PLAN_1D):
        cut = plan("forward", x_shape, w_shape, stride, padding, dilation, groups, dtype=f"f{itemsize}")
    return forward(cut, x, w, bias)


@njit
def conv2d(
    x: Any, w: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: Any = 1
) -> Any:
    """As :func:`fastconv.conv2d`, from njit code; see :func:`conv1d`."""
    itemsize = x.itemsize
    x_shape, w_shape = x.shape, w.shape
    with objmode(cut=_PLAN_2D):
        cut = plan("forward", x_shape, w_shape, stride, padding, dilation, groups, dtype=f"f{itemsize}")
    return forward(cut, x, w, bias)
