"""``convert()``: the convolutions of a model that exists, swapped for fastconv's where that should pay.

A layer's speed depends on the size of its input, which a model does not tell before it runs. With an example of the
input the layers are timed, ours against torch's. Without one there is only what a layer tells by itself, the kind of
kernels that it will get: :data:`GAINS` holds what each kind gained where it was measured.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .functions import CONVOLUTIONS
from .modules import Conv1d, Conv2d
from .operators import TORCH

_CLASSES: dict[type[Any], type[Any]] = {nn.Conv1d: Conv1d, nn.Conv2d: Conv2d}

# PyTorch's time over ours for forward and backward, one thread, by kind of layer: geometric means over the layers of
# fastconv/bench/suite.toml, by `python benchmarks/torch_models.py --layers` (PyTorch 2.13, AVX2).
# Two runs gave 1.08 and 1.12 for 1x1: the lower one stands, as on small planes PyTorch is level or ahead.
GAINS = {
    "depthwise 1-D": 8.5,
    "depthwise 2-D, to 3x3": 1.5,
    "depthwise 2-D, 5x5 up": 8.3,
    "grouped": 3.4,
    "long filters 1-D": 730.0,
    "few channels 1-D": 5.6,
    "few channels 2-D": 2.5,
    "1x1": 1.08,
    "dense 1-D": 1.7,
    "dense 3x3": 2.3,
    "dense 2-D": 1.9,
}

# The least expected factor for a swap: below it, other work on the machine decides.
WORTH_IT = 1.1

SECONDS = 0.1  # that a layer is timed, four calls at least

FEW_CHANNELS = 4  # of the input
LONG = 64  # taps of a single filter, from which other sums than the direct one are the faster
WINOGRAD_CHANNELS = 16  # of either side, below which Winograd's transforms cost more than they save


class Swap(NamedTuple):
    """One layer that :func:`convert` swapped."""

    name: str
    layer: nn.Module
    kind: str
    factor: float  # expected: PyTorch's time over ours, forward and backward


def kind(
    in_channels: int,
    out_channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> str:
    """The key of :data:`GAINS` for a layer with these arguments."""
    if len(kernel_size) == 1:
        return _kind_1d(in_channels, kernel_size[0], groups)
    if groups == in_channels > 1:
        return "depthwise 2-D, 5x5 up" if min(kernel_size) >= 5 else "depthwise 2-D, to 3x3"
    if groups > 1:
        return "grouped"
    if in_channels <= FEW_CHANNELS:
        return "few channels 2-D"
    if max(kernel_size) == 1:
        return "1x1"
    steps_of_one = max(*stride, *dilation) == 1
    if tuple(kernel_size) == (3, 3) and steps_of_one and min(in_channels, out_channels) >= WINOGRAD_CHANNELS:
        return "dense 3x3"
    return "dense 2-D"


def _kind_1d(in_channels: int, taps: int, groups: int) -> str:
    if taps >= LONG and (groups == in_channels or in_channels <= FEW_CHANNELS):
        return "long filters 1-D"
    if groups > 1:
        return "depthwise 1-D" if groups == in_channels else "grouped"
    if in_channels <= FEW_CHANNELS:
        return "few channels 1-D"
    return "1x1" if taps == 1 else "dense 1-D"


def _kind_of(layer: Any) -> str:
    return kind(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.dilation, layer.groups)


# ---- timing a model's layers


class _Use(NamedTuple):
    """How a model calls a layer: the key under which its timing is kept."""

    shape: tuple[int, ...]
    needs_grad: tuple[bool, bool]  # of the input, of the weight
    weight_shape: tuple[int, ...]
    steps: tuple[Any, ...]  # stride, padding, dilation, groups
    dtype: torch.dtype


def _uses(model: nn.Module, example: Any) -> dict[str, _Use]:
    """How each convolution is used (the last time, if several) when the model runs on `example`, in eval mode."""
    found: dict[str, _Use] = {}

    def watch(name: str) -> Any:
        def hook(layer: Any, arguments: tuple[Tensor, ...]) -> None:
            x, w = arguments[0], layer.weight
            steps = (layer.stride, layer.padding, layer.dilation, layer.groups)
            needs_grad = (x.requires_grad, w.requires_grad) if torch.is_grad_enabled() else (False, False)
            found[name] = _Use(tuple(x.shape), needs_grad, tuple(w.shape), steps, x.dtype)

        return hook

    layers = [(name, layer) for name, layer in model.named_modules() if type(layer) in _CLASSES]
    training = [layer for layer in model.modules() if layer.training]
    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers]
    try:
        model.eval()  # a batch norm must not take the example into its averages
        model(*example) if isinstance(example, tuple) else model(example)
    finally:
        for handle in handles:
            handle.remove()
        for layer in training:
            layer.training = True
    return found


@functools.lru_cache(maxsize=1024)
def _factor(use: _Use, threads: int) -> float:
    """torch's time over ours for one such call and its backward: the median over rounds in which both take turns."""
    clock = time.process_time if threads == 1 else time.perf_counter  # other processes do not count in the former
    axes = len(use.weight_shape) - 2
    x, w = (
        torch.randn(shape, dtype=use.dtype, requires_grad=needed)
        for shape, needed in zip((use.shape, use.weight_shape), use.needs_grad)
    )
    inputs = [tensor for tensor in (x, w) if tensor.requires_grad]
    grad = torch.randn_like(TORCH[axes](x, w, None, *use.steps))
    ratios: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(ratios) < 4 or time.perf_counter() < end:
        taken = []
        for convolve in (TORCH[axes], CONVOLUTIONS[axes]):
            start = clock()
            y = convolve(x, w, None, *use.steps)
            if inputs:
                torch.autograd.grad(y, inputs, grad)
            taken.append(clock() - start)
        ratios.append(taken[0] / taken[1])
    return statistics.median(ratios[1:])  # the first call of either prepares


def convert(model: nn.Module, all: bool = False, *, example: Any = None, verbose: bool = True) -> list[Swap]:
    """Swap the convolutions of a model for fastconv's, in place, where a gain is expected.

    ``nn.Conv1d`` and ``nn.Conv2d`` become :class:`fastconv.torch.Conv1d` and ``Conv2d``: the same objects with the
    same parameters and hooks, so optimisers, references and ``state_dict`` stay valid. Subclasses of torch's classes
    are left alone, because they may compute something else.

    Parameters
    ----------
    model : module, itself possibly a convolution
    all : swap every convolution, whatever is expected of it
    example : an input of the model (a tuple: its arguments), of the size that it will work on
        The model is run on it once, in eval mode, and every layer is timed, forward and backward, with as many threads
        as torch has now; under ``torch.no_grad()`` forward alone, of frozen layers not the weight's gradient. Without
        an example the factors are those of :data:`GAINS`, which know a layer's kind alone.
    verbose : print what was swapped and left, with the expected factors

    Returns
    -------
    list of :class:`Swap` (name, layer, kind, factor), in the model's order. `factor` is PyTorch's time over ours,
    forward and backward; layers are swapped from 1.1 up

    Examples
    --------
    >>> import torch, fastconv.torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(32, 32, 7, padding=3, groups=32), torch.nn.ReLU())
    >>> [swap.name for swap in fastconv.torch.convert(model, all=True, verbose=False)]
    ['0']
    """
    uses = {} if example is None else _uses(model, example)
    swapped, left = [], []
    for name, layer in model.named_modules():
        ours = _CLASSES.get(type(layer))
        if ours is None:
            continue
        what = _kind_of(layer)
        usable = layer.weight.device.type == "cpu" and layer.weight.dtype in (torch.float32, torch.float64)
        factor = GAINS[what]
        if name in uses and usable:
            factor = _factor(uses[name], torch.get_num_threads())
        swap = Swap(name, layer, what, factor)
        if all or (factor >= WORTH_IT and usable):
            layer.__class__ = ours
            swapped.append(swap)
        else:
            left.append(swap)
    if verbose:
        print(_report(swapped, left))
    return swapped


def _report(swapped: Sequence[Swap], left: Sequence[Swap]) -> str:
    lines = [
        f"swapped {len(swapped)} of {len(swapped) + len(left)} convolutions; expected factors, forward and backward:"
    ]
    for title, swaps in (("swapped", swapped), ("left", left)):
        lines += [f"  {title:<8} {s.name or '(model)':<32} {s.kind:<21} {s.factor:.1f}" for s in swaps]
    return "\n".join(lines)
