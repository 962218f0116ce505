"""The operators ``fastconv::conv1d`` and ``conv2d``, those of their gradients, and the way a call takes to a kernel.

A convolution is bilinear, so three operators an axis count suffice for derivatives of any order::

    y = conv(x, w)      x = conv_input(w, y)      w = conv_weight(x, y)

each computes one of the three from the other two, and the gradient by either factor is the operator that computes that
factor, with the incoming gradient in the place of the result. All three share one signature: two factors, a third
argument (the bias, or the size of the result), and ``stride, padding, dilation, groups``.

A call takes one of two ways to the same kernel. Through torch's dispatcher, where something wants to see the call:
compilation, export, ``torch.func``, autocast, modes, the profiler, tensors that are not plain. Else straight to NumPy
views of the tensors: the dispatcher's way to a kernel in Python and back costs as much as two small convolutions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.utils.flop_counter import register_flop_formula

from .. import entry, settings
from ..settings import Override

LIBRARY = torch.library.Library("fastconv", "DEF")

# The parts of the bilinear map, in the order in which operators take them.
X, W, Y = range(3)

Ints = tuple[int, ...]
# stride, padding (one an axis, or before and after of each axis), dilation, groups
Steps = tuple[Any, ...]

# torch's own, whatever fastconv.torch.patch() puts in their place later
TORCH = {1: torch.conv1d, 2: torch.conv2d}


class Operator(NamedTuple):
    """One of the six: what it computes, from what, and how."""

    axes: int
    target: int
    name: str
    compute: Callable[..., Tensor]  # the kernel: (a, b, bias or size, stride, padding, dilation, groups)

    @property
    def factors(self) -> tuple[int, int]:
        first, second = (part for part in (X, W, Y) if part != self.target)
        return first, second


FLOATS = (torch.float32, torch.float64)  # the dtypes of the kernels

# ---- kernels: tensors as NumPy views, fastconv's functions, the result as a tensor again; nothing is copied


def _array(tensor: Tensor) -> Any:
    if tensor.requires_grad:
        tensor = tensor.detach()
    try:
        return tensor.contiguous().numpy()  # contiguous(): the one copy of a channels-last or strided tensor
    except (TypeError, RuntimeError):  # NumPy has no bfloat16, for one, and no view that is a conjugate
        if tensor.dtype in FLOATS:
            raise
        raise TypeError(f"fastconv takes float32 and float64 tensors, got {tensor.dtype}: convert it first") from None


@functools.lru_cache(maxsize=64)
def _with_threads(here: Override | None, threads: int) -> Override:
    return (here or Override())._replace(threads=threads)


def _carry_out(function: Callable[..., Any], *arguments: Any) -> Tensor:
    """On as many threads as torch's own operators would use here."""
    override = settings.override
    token = override.set(_with_threads(override.get(), torch.get_num_threads()))
    try:
        return torch.from_numpy(function(*arguments))
    finally:
        override.reset(token)


def _padding(axes: int, padding: Sequence[int]) -> tuple[Any, ...]:
    """As fastconv's functions take it: one int an axis, or one (before, after) pair."""
    if len(padding) == 2 * axes:
        return tuple(zip(padding[::2], padding[1::2]))
    return tuple(padding)


def _forward(axes: int) -> Callable[..., Tensor]:
    convolve = (entry.conv1d, entry.conv2d)[axes - 1]

    def forward(x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
        if bias is not None:
            if bias.dim() != 1:
                raise ValueError(f"conv{axes}d: bias must be ({w.shape[0]},), got {tuple(bias.shape)}")
            bias = _array(bias)
        steps = (tuple(stride), _padding(axes, padding), tuple(dilation))
        return _carry_out(convolve, _array(x), _array(w), bias, *steps, groups)

    return forward


def _input(axes: int) -> Callable[..., Tensor]:
    gradient = (entry.conv1d_input, entry.conv2d_input)[axes - 1]

    def backward_input(w: Any, y: Any, size: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
        steps = (tuple(stride), _padding(axes, padding), tuple(dilation))
        return _carry_out(gradient, tuple(size), _array(w), _array(y), *steps, groups)

    return backward_input


def _weight(axes: int) -> Callable[..., Tensor]:
    gradient = (entry.conv1d_weight, entry.conv2d_weight)[axes - 1]

    def backward_weight(x: Any, y: Any, size: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
        steps = (tuple(stride), _padding(axes, padding), tuple(dilation))
        return _carry_out(gradient, _array(x), tuple(size), _array(y), *steps, groups)

    return backward_weight


def _operators(axes: int) -> tuple[Operator, Operator, Operator]:
    """Indexed by what they compute: X, W, Y."""
    return (
        Operator(axes, X, f"conv{axes}d_input", _input(axes)),
        Operator(axes, W, f"conv{axes}d_weight", _weight(axes)),
        Operator(axes, Y, f"conv{axes}d", _forward(axes)),
    )


OPERATORS = {axes: _operators(axes) for axes in (1, 2)}


# ---- gradients


def _gradients(
    operator: Operator,
    grad: Tensor,
    factors: Sequence[Tensor | None],
    shapes: Sequence[Sequence[int]],
    steps: Steps,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Those by both factors and by the bias; `factors` holds what they need of the two."""
    found: list[Tensor | None] = [None, None, None]
    way = _way(grad)
    if needed[0] and needed[1]:
        grad = grad.contiguous()  # a channels-last or expanded one is copied once for both kernels
    for i, wanted in enumerate(operator.factors):
        if needed[i]:
            other = 1 - i
            parts = {operator.target: grad, operator.factors[other]: factors[other]}
            first, second = (parts[part] for part in sorted(parts))
            # The output's size follows from x and w; there the third argument is the bias, which a gradient has not.
            third = None if wanted == Y else shapes[i]
            found[i] = way(OPERATORS[operator.axes][wanted], first, second, third, steps)
    if needed[2]:
        channel = grad.dim() - operator.axes - 1
        found[2] = grad.sum([axis for axis in range(grad.dim()) if axis != channel])
    return found


def _save(ctx: Any, a: Tensor, b: Tensor, needed: Sequence[bool]) -> None:
    """Each factor is needed for the other's gradient alone."""
    ctx.save_for_backward(a if needed[1] else None, b if needed[0] else None)
    ctx.shapes = a.shape, b.shape


def _tangent(operator: Operator, factors: Sequence[Tensor], tangents: Sequence[Any], third: Any, steps: Steps) -> Any:
    """Forward mode: the product rule. `tangents` of the factors and of the bias, None where there is none."""
    a, b = factors
    sized = None if operator.target == Y else third
    found = [tangents[2]] if operator.target == Y and tangents[2] is not None else []
    if found:
        found[0] = found[0].reshape(-1, *(1,) * operator.axes)
    if tangents[0] is not None:
        found.append(_way(tangents[0])(operator, tangents[0], b, sized, steps))
    if tangents[1] is not None:
        found.append(_way(tangents[1])(operator, a, tangents[1], sized, steps))
    return functools.reduce(torch.add, found) if found else None


class _Direct(torch.autograd.Function):  # type: ignore[misc]
    """The derivatives of a call that does not go through the dispatcher."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, third: Any, operator: Operator, steps: Steps) -> Tensor:
        _save(ctx, a, b, ctx.needs_input_grad)
        ctx.operator, ctx.steps = operator, steps
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(a, b)
            ctx.third = third
        return operator.compute(a, b, third, *steps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        needed = ctx.needs_input_grad
        found = _gradients(ctx.operator, grad, ctx.saved_tensors, ctx.shapes, ctx.steps, needed)
        return (*found, None, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _tangent(ctx.operator, ctx.saved_tensors, tangents, ctx.third, ctx.steps)


# The C half of Function.apply. Its Python half sees to torch.func, which never comes this way, and costs twice as much.
_apply_direct = super(torch.autograd.Function, _Direct).apply


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, _, stride, padding, dilation, groups = inputs
    _save(ctx, a, b, ctx.needs_input_grad)
    ctx.steps = (tuple(stride), tuple(padding), tuple(dilation), groups)


def _backward(operator: Operator) -> Callable[..., Any]:
    def backward(ctx: Any, grad: Tensor) -> Any:
        needed = (*ctx.needs_input_grad[:2], operator.target == Y and ctx.needs_input_grad[2])
        found = _gradients(operator, grad, ctx.saved_tensors, ctx.shapes, ctx.steps, needed)
        return (*found, None, None, None, None)

    return backward


# ---- torch.func.vmap: the mapped axis becomes part of the batch, or where the weights differ, of the channels


def _join(tensor: Tensor, mapped: int | None, size: int, axis: int) -> Tensor:
    """The mapped axis (expanded, where there is none) as the outer part of `axis` of the tensor without it."""
    tensor = tensor.unsqueeze(0).expand(size, *tensor.shape) if mapped is None else tensor.movedim(mapped, 0)
    return tensor.movedim(0, axis).flatten(axis, axis + 1)


def _as_images(
    operator: Operator, size: int, where: int, image: int, factors: list[Tensor], third: Any, steps: Steps
) -> tuple[Tensor, int]:
    """One weight for all: the examples are further images. Factor `image` is mapped, at `where`."""
    batched = factors[image].dim() == operator.axes + 3
    factors[image] = _join(factors[image], where, size, 0) if batched else factors[image].movedim(where, 0)
    if operator.target != Y:
        third = (size * third[0], *third[1:]) if batched else (size, *third)
    found = call(operator, factors[0], factors[1], third, steps)
    return (found.unflatten(0, (size, -1)) if batched else found), 0


def _as_groups(
    operator: Operator, size: int, mapped: Sequence[int | None], factors: Sequence[Tensor], third: Any, steps: Steps
) -> tuple[Tensor, int]:
    """The weights differ, or are asked for: groups keep the channels of the examples apart."""

    def channel(part: int, rank: int) -> int:
        return 0 if part == W else rank - operator.axes - 1

    ranks = [factor.dim() - (where is not None) for factor, where in zip(factors, mapped)]
    first, second = (
        _join(factor, where, size, channel(part, rank))
        for factor, where, part, rank in zip(factors, mapped, operator.factors, ranks)
    )
    if operator.target == Y:
        axis = channel(Y, ranks[0])
        third = None if third is None else third.repeat(size)
    else:
        axis = channel(operator.target, len(third))
        third = (*third[:axis], size * third[axis], *third[axis + 1 :])
    stride, padding, dilation, groups = steps
    found = call(operator, first, second, third, (stride, padding, dilation, size * groups))
    return found.unflatten(axis, (size, -1)), axis


def _vmap(operator: Operator) -> Callable[..., tuple[Tensor, int]]:
    def batched(info: Any, mapped: Any, a: Tensor, b: Tensor, third: Any, *steps: Any) -> tuple[Tensor, int]:
        size, where = info.batch_size, mapped[:2]
        if operator.target == Y and mapped[2] is not None:  # one bias an example: added by itself
            if where == (None, None):
                y = call(operator, a, b, None, steps).unsqueeze(0)
            else:
                y, axis = batched(info, (*where, None), a, b, None, *steps)
                y = y.movedim(axis, 0)
            ones = (1,) * operator.axes
            shape = (size, 1, -1, *ones) if y.dim() == operator.axes + 3 else (size, -1, *ones)
            return y + third.movedim(mapped[2], 0).reshape(shape), 0
        if W in operator.factors and where[operator.factors.index(W)] is None:
            image = 1 - operator.factors.index(W)
            return _as_images(operator, size, where[image], image, [a, b], third, steps)
        return _as_groups(operator, size, where, (a, b), third, steps)

    return batched


def _transformed(operator: Operator) -> type[Any]:
    """The call under torch.func's transforms, which nest only over a Function of this form."""

    class Transformed(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(a: Tensor, b: Tensor, third: Any, *steps: Any) -> Tensor:
            return operator_of(operator)(a, b, third, *steps)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            a, b, third, *steps = inputs
            ctx.save_for_backward(a, b)
            ctx.save_for_forward(a, b)
            ctx.third, ctx.steps = third if operator.target != Y else None, tuple(steps)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            a, b = ctx.saved_tensors
            needed = (*ctx.needs_input_grad[:2], operator.target == Y and ctx.needs_input_grad[2])
            found = _gradients(operator, grad, (a, b), (a.shape, b.shape), ctx.steps, needed)
            return (*found, None, None, None, None)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            return _tangent(operator, ctx.saved_tensors, tangents, ctx.third, ctx.steps)

        vmap = staticmethod(_vmap(operator))

    Transformed.__name__ = Transformed.__qualname__ = f"Transformed_{operator.name}"
    return Transformed


_TRANSFORMED = {operator.name: _transformed(operator) for row in OPERATORS.values() for operator in row}


# ---- registration


def _fake(operator: Operator) -> Callable[..., Tensor]:
    """Shapes alone, for tracing: those of the forward, and what is wrong with them, are left to torch's convolution."""

    def forward(x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
        if len(padding) == 2 * operator.axes:
            x = torch.constant_pad_nd(x, [size for pair in _padding(operator.axes, padding)[::-1] for size in pair])
            padding = [0] * operator.axes
        return x.new_empty(TORCH[operator.axes](x, w, bias, stride, padding, dilation, groups).shape)

    def gradient(a: Any, b: Any, size: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
        return a.new_empty(size)

    return forward if operator.target == Y else gradient


def _flops(operator: Operator) -> Callable[..., int]:
    """For torch.utils.flop_counter, counted as it counts its own convolutions: multiplications by padding too."""

    def count(a: Sequence[int], b: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
        shapes = {operator.target: out_shape, **dict(zip(operator.factors, (a, b)))}
        w, y = shapes[W], shapes[Y]
        return 2 * math.prod(w) * (math.prod(y) // w[0])

    return count


_FACTORS = {
    X: "Tensor w, Tensor grad_output, SymInt[] input_size",
    W: "Tensor x, Tensor grad_output, SymInt[] weight_size",
}
_FACTORS[Y] = "Tensor x, Tensor w, Tensor? b"


def _register(operator: Operator) -> Any:
    """Defines the operator; returns its overload."""
    name = f"fastconv::{operator.name}"
    arguments = f"{_FACTORS[operator.target]}, int[] stride, int[] padding, int[] dilation, int groups"
    LIBRARY.define(f"{operator.name}({arguments}) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(operator.name, operator.compute, "CPU")
    torch.library.register_fake(name, _fake(operator), lib=LIBRARY)
    torch.library.register_autograd(name, _backward(operator), setup_context=_setup_context, lib=LIBRARY)
    torch.library.register_vmap(name, _vmap(operator), lib=LIBRARY)
    # In an autocast region the convolution is done in float32: the kernels know no shorter format.
    torch.library.register_autocast(name, "cpu", torch.float32, lib=LIBRARY)
    packet = getattr(torch.ops.fastconv, operator.name)
    register_flop_formula(packet)(_flops(operator))
    return packet.default


_OVERLOADS = {operator.name: _register(operator) for row in OPERATORS.values() for operator in row}


def operator_of(operator: Operator) -> Any:
    """The operator as torch.ops has it."""
    return _OVERLOADS[operator.name]


# ---- the way of a call

# How _unseen() finds out; a torch without one of these sends every call through the dispatcher.
CAN_TELL = all(
    hasattr(torch._C, name)
    for name in (
        "_len_torch_function_stack",
        "_len_torch_dispatch_stack",
        "_get_tracing_state",
    )
) and hasattr(torch.autograd, "_profiler_enabled")


def _unseen() -> bool:
    """Whether nothing in torch wants to see operators called: no mode, autocast, trace or profiler."""
    return CAN_TELL and not (
        torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state()
        or torch.is_autocast_enabled("cpu")
        or torch.autograd._profiler_enabled()
    )


def _plain(tensor: Any) -> bool:
    kind = type(tensor)
    return (kind is Tensor or kind is Parameter) and tensor.is_cpu and not tensor.is_neg()


def _dispatched(operator: Operator, a: Tensor, b: Tensor, third: Any, steps: Steps) -> Tensor:
    return operator_of(operator)(a, b, third, *steps)


def _way(derivative: Tensor) -> Callable[..., Tensor]:
    """How to call an operator on a gradient or tangent, which may be a batch of such (`is_grads_batched`)."""
    return _dispatched if is_legacy_batchedtensor(derivative) else call


def call(operator: Operator, a: Tensor, b: Tensor, third: Any, steps: Steps) -> Tensor:
    """The operator on `a`, `b` and its third argument, whichever way is right here; differentiable."""
    if torch.compiler.is_compiling():
        return _dispatched(operator, a, b, third, steps)
    if torch._C._are_functorch_transforms_active():
        return _TRANSFORMED[operator.name].apply(a, b, third, *steps)
    bias = third if operator.target == Y else None
    if not (_plain(a) and _plain(b) and (bias is None or _plain(bias)) and _unseen()):
        return _dispatched(operator, a, b, third, steps)
    grad = a.requires_grad or b.requires_grad or (bias is not None and bias.requires_grad)
    if (grad and torch.is_grad_enabled()) or forward_ad._current_level >= 0:
        return _apply_direct(a, b, third, operator, steps)
    return operator.compute(a, b, third, *steps)
