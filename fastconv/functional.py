"""The public functions in Python: check the arguments, build the Geometry, allocate, call the chosen algorithm.

Where the Cython extension was built, its functions of the same names stand in front of these and carry out the common
case by themselves (a call on small arrays is mostly overhead); everything else, every error included, ends up here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import planner, repeated, settings
from .geometry import Geometry, Pads, conv_geometry, folded, transposed_geometry
from .geometry import shape as as_shape

_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


# ---- arguments


def _as_array(value: Any) -> np.ndarray:
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return np.from_dlpack(value)
    return np.asarray(value)


def _readable(name: str, array: np.ndarray) -> np.ndarray:
    """The array as the kernels can read it: native, aligned, C-contiguous."""
    if array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative:
        return array
    _require_memory(name, array.size * array.itemsize)
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)


def _arrays(**named: Any) -> list[np.ndarray]:
    """Several arrays, which must share one dtype."""
    found = [_as_array(value) for value in named.values()]
    dtypes = [array.dtype.newbyteorder("=") for array in found]
    if any(dtype not in _DTYPES for dtype in dtypes) or len(set(dtypes)) > 1:
        listed = ", ".join(f"{name} is {dtype}" for name, dtype in zip(named, dtypes))
        one = next((dtype for dtype in dtypes if dtype in _DTYPES), _DTYPES[0])
        raise TypeError(f"{listed}: all must be float32 or all float64; convert, for example with astype(np.{one})")
    return [_readable(name, array) for name, array in zip(named, found)]


def _batched(axes: int, array: np.ndarray) -> np.ndarray:
    """With a batch axis: (C, ...) becomes (1, C, ...). Wrong ranks are left to the geometry's checks."""
    return array[None] if array.ndim == axes + 1 else array


def _plane(array: np.ndarray) -> np.ndarray:
    """A batched 1-D array as one of planes with a single row; a 2-D one as it is."""
    return array[:, :, None, :] if array.ndim == 3 else array


def _bias(name: str, value: Any, dtype: np.dtype[Any], channels: int, plane: Sequence[int]) -> np.ndarray | None:
    """The bias as (K,) or (K, P, Q), or None. `plane` is the output's spatial shape as the caller sees it."""
    if value is None:
        return None
    bias = _as_array(value)
    if bias.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"bias is {bias.dtype}, input and weight are {dtype}: convert it with astype(np.{dtype})")
    bias = _readable("bias", bias)
    if bias.shape == (channels,):
        return bias
    if bias.shape == (channels, *plane):
        return bias if bias.ndim == 3 else bias[:, None, :]
    raise ValueError(
        f"{name}: bias must be ({channels},), or untied {(channels, *plane)}, one value an output position; "
        f"got {bias.shape} (no broadcasting)"
    )


def _output(name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: Sequence[Any]) -> np.ndarray:
    """`out` after its checks, or a new array."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name}: out must be a NumPy array, got {type(out).__name__}")
    if out.dtype != dtype or not out.dtype.isnative:
        raise TypeError(f"{name}: out is {out.dtype}, the result is {dtype}")
    if out.shape != shape:
        raise ValueError(f"{name}: out has shape {out.shape}, the result has {shape}")
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise ValueError(f"{name}: out must be C-contiguous, aligned and writeable")
    # out is contiguous, so bounds that overlap mean shared bytes in all but contrived cases.
    if any(np.may_share_memory(out, _as_array(a)) for a in inputs if a is not None):
        raise ValueError(f"{name}: out must not overlap an input")
    return out


def _memory() -> int:
    """Bytes that this process can still have: what the machine has left, at most what its control group may hold."""
    try:
        left = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # unknown here: let the allocation itself decide
        left = 1 << 62
    for path, pattern, unit in _LIMITS:
        try:
            with open(path) as file:
                found = re.search(pattern, file.read(), re.MULTILINE)
        except OSError:
            continue
        if found:
            left = min(left, int(found[1]) * unit)
    return left


_LIMITS = (
    ("/proc/meminfo", r"^MemAvailable:\s+(\d+) kB", 1024),
    ("/sys/fs/cgroup/memory.max", r"^(\d+)", 1),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", r"^(\d+)", 1),
)


def _require_memory(what: str, count: int) -> None:
    """MemoryError where `count` bytes are not to be had, before any is allocated (Linux grants more than it has)."""
    if count > 1 << 28 and count > (left := _memory()):
        raise MemoryError(f"{what} needs {count:,} bytes, {left:,} are left here")


# ---- carrying out


def _run(
    operation: str,
    g: Geometry,
    x: np.ndarray,
    w: np.ndarray,
    y: np.ndarray,
    bias: np.ndarray | None,
    backend: str | None,
    algorithm: str | None,
    target_is_new: bool = True,
) -> None:
    """One operation into the array that it writes; arrays are batched, of the caller's rank."""
    here = settings.current()
    target = {"forward": y, "backward_input": x, "backward_weight": w}[operation]
    name = here.backend if backend is None else backend
    strict = here.precision == "strict"
    dtype = target.dtype
    planner.check_names(name, algorithm)
    g = folded(g)
    chosen, _ = planner.choose(operation, g, dtype, name, algorithm, here.threads, strict)
    if 0 in (x.size, w.size, y.size):  # a batch or channels of size 0: an empty sum
        target[...] = 0
        if bias is not None:
            planes = _plane(target)
            planes += bias if bias.ndim == 3 else bias[:, None, None]
        return
    # A new array's pages are not there yet, so the two have to fit together.
    own = target.nbytes if target_is_new else 0
    _require_memory(operation, own + chosen.workspace(operation, g, dtype, here.threads))
    views = (a.reshape(shape) for a, shape in ((x, g.x_shape), (w, g.w_shape), (y, g.y_shape)))  # all are contiguous
    chosen.run(operation, g, *views, bias, here.threads, strict)


def _pad(x: np.ndarray, pads: Pads, mode: str) -> np.ndarray:
    """The batched input after padding of any mode but zeros."""
    pairs = pads[-(x.ndim - 2) :]
    _require_memory("the padded input", x.itemsize * math.prod(x.shape[:2]) * _padded_size(x, pairs))
    names: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    return np.ascontiguousarray(np.pad(x, ((0, 0), (0, 0), *pairs), names[mode]))


def _padded_size(x: np.ndarray, pairs: Sequence[tuple[int, int]]) -> int:
    return math.prod(size + sum(pair) for size, pair in zip(x.shape[2:], pairs))


def _unpad_gradient(padded: np.ndarray, pads: Pads, mode: str) -> np.ndarray:
    """The gradient of the input from that of the padded input: every copied element's is added to its source's.

    Adds in place, one axis after the other, so that the result is the only other array of this size.
    """
    for axis, (before, after) in zip(range(2, padded.ndim), pads[-(padded.ndim - 2) :]):
        along = np.moveaxis(padded, axis, 0)  # views, all of them
        size = len(along) - before - after
        head, inner, tail = along[:before], along[before : before + size], along[before + size :]
        if mode == "replicate":
            inner[0] += head.sum(axis=0)
            inner[-1] += tail.sum(axis=0)
        elif mode == "reflect":
            inner[1 : 1 + before] += head[::-1]
            inner[size - 1 - after : size - 1] += tail[::-1]
        else:  # circular
            inner[size - before :] += head
            inner[:after] += tail
        padded = np.moveaxis(inner, 0, axis)
    return np.ascontiguousarray(padded)


def _bias_gradient(grad_output: np.ndarray, untied: bool) -> np.ndarray:
    """Over the batch alone, or over batch and positions: pairwise along each plane, then in float64 over the batch."""
    dtype = grad_output.dtype
    if untied:
        return grad_output.sum(axis=0, dtype=np.float64).astype(dtype)
    N, K = grad_output.shape[:2]
    planes = grad_output.reshape(N, K, math.prod(grad_output.shape[2:])).sum(axis=2)
    return planes.sum(axis=0, dtype=np.float64).astype(dtype)


# ---- convolution


def _conv(
    axes: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    padding_mode: str,
    out: Any,
    backend: str | None,
    algorithm: str | None,
) -> np.ndarray:
    numbers, names = (stride, padding, dilation, groups), (axes, padding_mode, out, backend, algorithm)
    key, ready = repeated.find("forward", numbers, names, input, weight, bias)
    if ready is not None:
        shape, dtype, run = ready
        y = np.empty(shape, dtype)
        run(input, weight, y, bias)
        return y
    name = f"conv{axes}d"
    x, w = _arrays(input=input, weight=weight)
    batched = x.ndim != axes + 1
    x = _batched(axes, x)
    g, pads = conv_geometry(axes, x.shape, w.shape, stride, padding, dilation, groups, padding_mode)
    plane = g.y_shape[-axes:]
    b = _bias(name, bias, x.dtype, g.K, plane)
    shape = (g.N, g.K, *plane) if batched else (g.K, *plane)
    if out is None:
        _require_memory(f"the output of {name}", x.itemsize * math.prod(shape))
    y = _output(name, out, shape, x.dtype, (input, weight, bias))
    if padding_mode != "zeros":
        x = _pad(x, pads, padding_mode)
    _run("forward", g, x, w, _batched(axes, y), b, backend, algorithm, out is None)
    if key is not None and padding_mode == "zeros" and out is None:
        bias_shape = None if b is None else b.shape
        repeated.keep(key, repeated.prepared(key, "forward", g, shape, backend, algorithm, bias_shape))
    return y


def conv1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    *,
    padding_mode: str = "zeros",
    out: np.ndarray | None = None,
    backend: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """1-D convolution (cross-correlation, as in torch).

    ``y[n,k,q] = bias[k] + sum over c,s of w[k,c,s] * x[n, c, q*stride + s*dilation - before]``, x being 0 outside.

    Parameters
    ----------
    input : array of shape (N, C_in, L) or (C_in, L), float32 or float64
    weight : array of shape (C_out, C_in/groups, K), the same dtype
    bias : array of shape (C_out,), or untied (C_out, L_out), or None
    stride, dilation, groups : int, default 1
    padding : int, ``((before, after),)``, ``"valid"`` or ``"same"`` (stride 1; an even kernel pads one more after)
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
    out : C-contiguous array of the result's shape and dtype to write into, not overlapping an input. Results beyond
        32 MB are worth one: the C library gives smaller blocks out again, but larger ones back to the system, whose
        fresh pages are cleared first (62 MB from 1 channel and 10 taps: 12 ms, 5.5 ms into the same array each time)
    backend : {"cython", "numba", "reference"}, default the current one (:func:`use_backend`)
    algorithm : one that :func:`explain` names; default the planner's choice

    Returns
    -------
    array of shape (N, C_out, L_out) or (C_out, L_out), with
    ``L_out = (L + before + after - dilation*(K-1) - 1) // stride + 1``

    Raises
    ------
    ValueError
        Shapes that do not fit, with the shapes and the rule broken; unknown backend or algorithm.
    TypeError
        Dtypes other than float32 and float64, or mixed ones; a stride, padding or dilation that is no int.
    RuntimeError
        A backend or algorithm that was asked for and cannot be used here.
    MemoryError
        More memory needed than the machine has.

    Notes
    -----
    Direct summation stays within 3 times the float32 error of torch. Other algorithms (see :func:`precision`) err by at
    most 1e-5 of the largest absolute output.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([[[1.0, 2.0, 3.0, 4.0]]])
    >>> w = np.array([[[2.0, 1.0, 3.0]]])
    >>> fc.conv1d(x, w, np.array([1.0]))
    array([[[14., 20.]]])
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups, padding_mode, out, backend, algorithm)


def conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    *,
    padding_mode: str = "zeros",
    out: np.ndarray | None = None,
    backend: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """2-D convolution (cross-correlation, as in torch).

    Parameters
    ----------
    input : array of shape (N, C_in, H, W) or (C_in, H, W), float32 or float64
    weight : array of shape (C_out, C_in/groups, R, S), the same dtype
    bias : array of shape (C_out,), or untied (C_out, H_out, W_out), or None
    stride, dilation : int or one int per axis, default 1
    groups : int, default 1
    padding : int, one int per axis, one ``(before, after)`` pair per axis, ``"valid"``, or ``"same"`` (stride 1 only)
    padding_mode, out, backend, algorithm
        As in :func:`conv1d`; so are the errors raised.

    Returns
    -------
    array of shape (N, C_out, H_out, W_out) or (C_out, H_out, W_out)

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.conv2d(np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 3, 3), np.float32), padding="same")
    array([[[[4., 6., 4.],
             [6., 9., 6.],
             [4., 6., 4.]]]], dtype=float32)
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups, padding_mode, out, backend, algorithm)


# ---- its gradients


def _check_gradient(name: str, grad: np.ndarray, batched: bool, shape: tuple[int, ...]) -> np.ndarray:
    """`grad` with a batch axis, after the check that it has the output's shape."""
    expected = shape if batched else shape[1:]
    if grad.shape != expected:
        raise ValueError(f"{name}: grad_output must have the shape of the output, {expected}, got {grad.shape}")
    return grad if batched else grad[None]


def _mask(value: Any) -> tuple[bool, bool, bool]:
    wanted = f"output_mask must hold three bools (input, weight, bias), got {value!r}"
    try:
        flags = list(value)
    except TypeError:
        raise TypeError(wanted) from None
    if len(flags) != 3:
        raise ValueError(wanted)
    if isinstance(value, (str, bytes, dict, set, frozenset)) or any(np.ndim(flag) for flag in flags):
        raise TypeError(wanted)
    return bool(flags[0]), bool(flags[1]), bool(flags[2])


def _is_untied(name: str, value: Any, channels: int, plane: Sequence[int]) -> bool:
    """Whether `bias_shape` is that of an untied bias."""
    if value is None:
        return False
    shape, tied, untied = as_shape("bias_shape", value), (channels,), (channels, *plane)
    if shape not in (tied, untied):
        raise ValueError(f"{name}: bias_shape must be None, {tied} or {untied}, got {shape}")
    return shape == untied


def _conv_backward(
    axes: int,
    grad_output: Any,
    input: Any,
    weight: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    padding_mode: str,
    bias_shape: Sequence[int] | None,
    output_mask: Sequence[bool],
    backend: str | None,
    algorithm: str | None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    name = f"conv{axes}d_backward"
    numbers = (stride, padding, dilation, groups, bias_shape)
    names = (axes, padding_mode, output_mask, backend, algorithm)
    key, ready = repeated.find("backward", numbers, names, grad_output, input, weight)
    if ready is not None:
        return _gradients_again(ready, grad_output, input, weight)
    want_input, want_weight, want_bias = _mask(output_mask)
    x, w, gy = _arrays(input=input, weight=weight, grad_output=grad_output)
    batched = x.ndim != axes + 1
    x = _batched(axes, x)
    g, pads = conv_geometry(axes, x.shape, w.shape, stride, padding, dilation, groups, padding_mode)
    plane = g.y_shape[-axes:]
    y = _check_gradient(name, gy, batched, (g.N, g.K, *plane))
    untied = _is_untied(name, bias_shape, g.K, plane)
    grad_input = grad_weight = grad_bias = None
    if want_input:
        grad_input = _backward_input(g, pads, padding_mode, x.shape, w, y, backend, algorithm)
        grad_input = grad_input if batched else grad_input[0]
    if want_weight:
        if padding_mode != "zeros":
            x = _pad(x, pads, padding_mode)
        grad_weight = np.empty(w.shape, w.dtype)
        _run("backward_weight", g, x, grad_weight, y, None, backend, algorithm)
    if want_bias:
        grad_bias = _bias_gradient(y, untied)
    if key is not None and batched and padding_mode == "zeros":
        wanted = {"backward_input": x.shape} if want_input else {}
        wanted |= {"backward_weight": w.shape} if want_weight else {}
        parts = {one: repeated.prepared(key, one, g, shape, backend, algorithm) for one, shape in wanted.items()}
        if None not in parts.values():
            both = parts.get("backward_input"), parts.get("backward_weight")
            repeated.keep(key, (*both, untied if want_bias else None))
    return grad_input, grad_weight, grad_bias


def _gradients_again(
    ready: tuple[repeated.Ready | None, repeated.Ready | None, bool | None],
    grad_output: np.ndarray,
    input: np.ndarray,
    weight: np.ndarray,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """The gradients wanted, of a call like one before: for input, for weight, and whether the bias is untied."""
    for_input, for_weight, untied = ready
    grad_input = grad_weight = grad_bias = None
    if for_input is not None:
        grad_input = np.empty(for_input.shape, for_input.dtype)
        for_input.run(grad_input, weight, grad_output, None)
    if for_weight is not None:
        grad_weight = np.empty(for_weight.shape, for_weight.dtype)
        for_weight.run(input, grad_weight, grad_output, None)
    if untied is not None:
        grad_bias = _bias_gradient(grad_output, untied)
    return grad_input, grad_weight, grad_bias


def _backward_input(
    g: Geometry,
    pads: Pads,
    padding_mode: str,
    shape: tuple[int, ...],
    w: np.ndarray,
    y: np.ndarray,
    backend: str | None,
    algorithm: str | None,
) -> np.ndarray:
    padded = shape if padding_mode == "zeros" else (*shape[:2], *g.x_shape[-(len(shape) - 2) :])
    _require_memory("the gradient of the input", y.itemsize * math.prod(padded))
    grad = np.empty(padded, y.dtype)
    _run("backward_input", g, grad, w, y, None, backend, algorithm)
    return grad if padding_mode == "zeros" else _unpad_gradient(grad, pads, padding_mode)


def conv1d_backward(
    grad_output: Any,
    input: Any,
    weight: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    padding_mode: str = "zeros",
    bias_shape: Sequence[int] | None = None,
    output_mask: Sequence[bool] = (True, True, True),
    backend: str | None = None,
    algorithm: str | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """The gradients of :func:`conv1d`.

    Parameters
    ----------
    grad_output : array of the output's shape, (N, C_out, L_out) or (C_out, L_out)
    input, weight, stride, padding, dilation, groups, padding_mode, backend
        What the forward was given.
    bias_shape : None or (C_out,) for a tied bias, (C_out, L_out) for an untied one
    output_mask : three bools
        Which of the three gradients to compute; the others are None.
    algorithm : applies to every gradient computed, and raises if one has no such algorithm

    Returns
    -------
    (grad_input, grad_weight, grad_bias), with the shapes of input, weight and bias (summed over the batch)

    Raises
    ------
    As :func:`conv1d`; ValueError where grad_output does not have the output's shape.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.array([[[1.0, 2.0, 3.0, 4.0]]]), np.array([[[2.0, 1.0, 3.0]]])
    >>> fc.conv1d_backward(np.array([[[12.0, 16.0]]]), x, w)
    (array([[[24., 44., 52., 48.]]]), array([[[ 44.,  72., 100.]]]), array([28.]))
    """
    return _conv_backward(
        1,
        grad_output,
        input,
        weight,
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
        bias_shape,
        output_mask,
        backend,
        algorithm,
    )


def conv2d_backward(
    grad_output: Any,
    input: Any,
    weight: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    padding_mode: str = "zeros",
    bias_shape: Sequence[int] | None = None,
    output_mask: Sequence[bool] = (True, True, True),
    backend: str | None = None,
    algorithm: str | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """The gradients of :func:`conv2d`: as :func:`conv1d_backward`, with (N, C, H, W) arrays.

    An untied bias has ``bias_shape=(C_out, H_out, W_out)``.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2))
    >>> grad_input, grad_weight, grad_bias = fc.conv2d_backward(np.ones((1, 1, 2, 2)), x, w)
    >>> grad_input[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    return _conv_backward(
        2,
        grad_output,
        input,
        weight,
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
        bias_shape,
        output_mask,
        backend,
        algorithm,
    )


# ---- one gradient at a time, as torch.nn.grad


def _conv_input(
    axes: int,
    input_size: Any,
    weight: Any,
    grad_output: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    backend: str | None,
    algorithm: str | None,
) -> np.ndarray:
    sizes = input_size if type(input_size) is tuple else (input_size,)
    numbers, names = (*sizes, stride, padding, dilation, groups), (axes, backend, algorithm)
    key, ready = repeated.find("backward_input", numbers, names, weight, grad_output)
    if ready is not None:
        shape, dtype, run = ready
        grad = np.empty(shape, dtype)
        run(grad, weight, grad_output, None)
        return grad
    w, gy = _arrays(weight=weight, grad_output=grad_output)
    size = as_shape("input_size", input_size)
    batched = len(size) != axes + 1
    shape = size if batched else (1, *size)
    g, pads = conv_geometry(axes, shape, w.shape, stride, padding, dilation, groups)
    y = _check_gradient(f"grad.conv{axes}d_input", gy, batched, (g.N, g.K, *g.y_shape[-axes:]))
    grad = _backward_input(g, pads, "zeros", shape, w, y, backend, algorithm)
    if key is not None:
        repeated.keep(key, repeated.prepared(key, "backward_input", g, size, backend, algorithm))
    return grad if batched else grad[0]


def _conv_weight(
    axes: int,
    input: Any,
    weight_size: Any,
    grad_output: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    backend: str | None,
    algorithm: str | None,
) -> np.ndarray:
    sizes = weight_size if type(weight_size) is tuple else (weight_size,)
    numbers, names = (*sizes, stride, padding, dilation, groups), (axes, backend, algorithm)
    key, ready = repeated.find("backward_weight", numbers, names, input, grad_output)
    if ready is not None:
        shape, dtype, run = ready
        grad = np.empty(shape, dtype)
        run(input, grad, grad_output, None)
        return grad
    x, gy = _arrays(input=input, grad_output=grad_output)
    size = as_shape("weight_size", weight_size)
    batched = x.ndim != axes + 1
    x = _batched(axes, x)
    g, _ = conv_geometry(axes, x.shape, size, stride, padding, dilation, groups)
    y = _check_gradient(f"grad.conv{axes}d_weight", gy, batched, (g.N, g.K, *g.y_shape[-axes:]))
    _require_memory("the gradient of the weight", x.itemsize * math.prod(size))
    grad = np.empty(size, x.dtype)
    _run("backward_weight", g, x, grad, y, None, backend, algorithm)
    if key is not None:
        repeated.keep(key, repeated.prepared(key, "backward_weight", g, size, backend, algorithm))
    return grad


def conv1d_input(
    input_size: Sequence[int],
    weight: Any,
    grad_output: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    *,
    backend: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """The gradient of :func:`conv1d` with respect to its input, as ``torch.nn.grad.conv1d_input``.

    Parameters
    ----------
    input_size : the input's shape, (N, C_in, L) or (C_in, L)
    weight : array of shape (C_out, C_in/groups, K), float32 or float64
    grad_output : array of the output's shape, the same dtype
    stride, padding, dilation, groups, backend, algorithm
        As in :func:`conv1d`; so are the errors raised.

    Returns
    -------
    array of shape `input_size`

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.grad.conv1d_input((1, 1, 4), np.array([[[2.0, 1.0, 3.0]]]), np.array([[[12.0, 16.0]]]))
    array([[[24., 44., 52., 48.]]])
    """
    return _conv_input(1, input_size, weight, grad_output, stride, padding, dilation, groups, backend, algorithm)


def conv2d_input(
    input_size: Sequence[int],
    weight: Any,
    grad_output: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    *,
    backend: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """The gradient of :func:`conv2d` with respect to its input: :func:`conv1d_input` with (N, C, H, W) arrays.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.grad.conv2d_input((1, 1, 2, 2), np.ones((1, 1, 2, 2)), np.ones((1, 1, 1, 1)))
    array([[[[1., 1.],
             [1., 1.]]]])
    """
    return _conv_input(2, input_size, weight, grad_output, stride, padding, dilation, groups, backend, algorithm)


def conv1d_weight(
    input: Any,
    weight_size: Sequence[int],
    grad_output: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    *,
    backend: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """The gradient of :func:`conv1d` with respect to its weight, as ``torch.nn.grad.conv1d_weight``.

    Parameters
    ----------
    input : array of shape (N, C_in, L) or (C_in, L), float32 or float64
    weight_size : the weight's shape, (C_out, C_in/groups, K)
    grad_output : array of the output's shape, the same dtype
    stride, padding, dilation, groups, backend, algorithm
        As in :func:`conv1d`; so are the errors raised.

    Returns
    -------
    array of shape `weight_size`

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.grad.conv1d_weight(np.array([[[1.0, 2.0, 3.0, 4.0]]]), (1, 1, 3), np.array([[[12.0, 16.0]]]))
    array([[[ 44.,  72., 100.]]])
    """
    return _conv_weight(1, input, weight_size, grad_output, stride, padding, dilation, groups, backend, algorithm)


def conv2d_weight(
    input: Any,
    weight_size: Sequence[int],
    grad_output: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    *,
    backend: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """The gradient of :func:`conv2d` with respect to its weight: :func:`conv1d_weight` with (N, C, H, W) arrays.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.grad.conv2d_weight(np.ones((1, 1, 2, 2)), (1, 1, 2, 2), np.ones((1, 1, 1, 1)))
    array([[[[1., 1.],
             [1., 1.]]]])
    """
    return _conv_weight(2, input, weight_size, grad_output, stride, padding, dilation, groups, backend, algorithm)


# ---- transposed convolution: backward_input with the roles of x and y exchanged


def _conv_transpose(
    axes: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    out: Any,
    backend: str | None,
    algorithm: str | None,
) -> np.ndarray:
    numbers = (stride, padding, output_padding, groups, dilation)
    key, ready = repeated.find("transposed", numbers, (axes, out, backend, algorithm), input, weight, bias)
    if ready is not None:
        x = np.empty(ready.shape, ready.dtype)
        ready.run(x, weight, input, None)
        _add_bias(axes, x, bias)
        return x
    name = f"conv_transpose{axes}d"
    y, w = _arrays(input=input, weight=weight)
    batched = y.ndim != axes + 1
    y = _batched(axes, y)
    g = transposed_geometry(axes, y.shape, w.shape, stride, padding, output_padding, groups, dilation)
    plane = g.x_shape[-axes:]
    b = _bias(name, bias, y.dtype, g.C, plane)
    shape = (g.N, g.C, *plane) if batched else (g.C, *plane)
    if out is None:
        _require_memory(f"the output of {name}", y.itemsize * math.prod(shape))
    x = _output(name, out, shape, y.dtype, (input, weight, bias))
    _run("backward_input", g, _batched(axes, x), w, y, None, backend, algorithm, out is None)
    _add_bias(axes, x, b)
    if key is not None and out is None:
        repeated.keep(key, repeated.prepared(key, "backward_input", g, shape, backend, algorithm))
    return x


def _add_bias(axes: int, x: np.ndarray, bias: np.ndarray | None) -> None:
    """Adds a bias of one number a channel or, of as many axes as an image, one a position."""
    if bias is not None:
        planes = _plane(_batched(axes, x))
        planes += bias[:, None, None] if bias.ndim == 1 else bias if bias.ndim == 3 else bias[:, None, :]


def conv_transpose1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
    *,
    out: np.ndarray | None = None,
    backend: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """1-D transposed convolution, in torch's argument order: the adjoint of :func:`conv1d`.

    Parameters
    ----------
    input : array of shape (N, C_in, L) or (C_in, L), float32 or float64
    weight : array of shape (C_in, C_out/groups, K), the same dtype
    bias : array of shape (C_out,), or untied (C_out, L_out), or None
    stride, groups, dilation : int, default 1
    padding : as in :func:`conv1d` (``padding_mode`` is always "zeros")
    output_padding : int, default 0
        Added to one side of the output's shape; smaller than max(stride, dilation).
    out, backend, algorithm
        As in :func:`conv1d`; so are the errors raised.

    Returns
    -------
    array of shape (N, C_out, L_out) or (C_out, L_out), with
    ``L_out = (L - 1)*stride - before - after + dilation*(K - 1) + output_padding + 1``

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.conv_transpose1d(np.array([[[12.0, 16.0]]]), np.array([[[2.0, 1.0, 3.0]]]))
    array([[[24., 44., 52., 48.]]])
    """
    return _conv_transpose(
        1, input, weight, bias, stride, padding, output_padding, groups, dilation, out, backend, algorithm
    )


def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
    *,
    out: np.ndarray | None = None,
    backend: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """2-D transposed convolution: :func:`conv_transpose1d` with (N, C, H, W) arrays.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.conv_transpose2d(np.ones((1, 1, 1, 1)), np.ones((1, 1, 2, 2)), stride=2).shape
    (1, 1, 2, 2)
    """
    return _conv_transpose(
        2, input, weight, bias, stride, padding, output_padding, groups, dilation, out, backend, algorithm
    )


def _conv_transpose_backward(
    axes: int,
    grad_output: Any,
    input: Any,
    weight: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    output_mask: Sequence[bool],
    backend: str | None,
    algorithm: str | None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    want_input, want_weight, want_bias = _mask(output_mask)
    y, w, gx = _arrays(input=input, weight=weight, grad_output=grad_output)
    batched = y.ndim != axes + 1
    y = _batched(axes, y)
    g = transposed_geometry(axes, y.shape, w.shape, stride, padding, output_padding, groups, dilation)
    x = _check_gradient(f"conv_transpose{axes}d_backward", gx, batched, (g.N, g.C, *g.x_shape[-axes:]))
    grad_input = grad_weight = grad_bias = None
    if want_input:
        grad_input = np.empty(y.shape, y.dtype)
        _run("forward", g, x, w, grad_input, None, backend, algorithm)
        grad_input = grad_input if batched else grad_input[0]
    if want_weight:
        grad_weight = np.empty(w.shape, w.dtype)
        _run("backward_weight", g, x, grad_weight, y, None, backend, algorithm)
    if want_bias:
        grad_bias = _bias_gradient(x, untied=False)
    return grad_input, grad_weight, grad_bias


def conv_transpose1d_backward(
    grad_output: Any,
    input: Any,
    weight: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
    output_mask: Sequence[bool] = (True, True, True),
    backend: str | None = None,
    algorithm: str | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """The gradients of :func:`conv_transpose1d`: (grad_input, grad_weight, grad_bias), None where masked out.

    Arguments as there, with `grad_output` of the output's shape and `output_mask` as in :func:`conv1d_backward`.
    `grad_bias` is that of a tied bias; an untied one's is ``grad_output.sum(axis=0)``.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.array([[[12.0, 16.0]]]), np.array([[[2.0, 1.0, 3.0]]])
    >>> fc.conv_transpose1d_backward(np.array([[[1.0, 2.0, 3.0, 4.0]]]), x, w)
    (array([[[13., 19.]]]), array([[[ 44.,  72., 100.]]]), array([10.]))
    """
    return _conv_transpose_backward(
        1,
        grad_output,
        input,
        weight,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        output_mask,
        backend,
        algorithm,
    )


def conv_transpose2d_backward(
    grad_output: Any,
    input: Any,
    weight: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
    output_mask: Sequence[bool] = (True, True, True),
    backend: str | None = None,
    algorithm: str | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """The gradients of :func:`conv_transpose2d`: :func:`conv_transpose1d_backward` with (N, C, H, W) arrays.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.ones((1, 1, 1, 1)), np.ones((1, 1, 2, 2))
    >>> fc.conv_transpose2d_backward(np.ones((1, 1, 2, 2)), x, w)[0]
    array([[[[4.]]]])
    """
    return _conv_transpose_backward(
        2,
        grad_output,
        input,
        weight,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        output_mask,
        backend,
        algorithm,
    )
