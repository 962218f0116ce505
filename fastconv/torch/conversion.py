"""``convert()``: the convolutions of a model that exists, swapped for fastconv's where that should pay.

A layer's speed depends on the size of its input, which a model does not tell before it runs. What a layer does tell is
which family of kernels it will get; :data:`GAINS` holds what each family gained where it was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from .modules import Conv1d, Conv2d

_CLASSES: dict[type[Any], type[Any]] = {nn.Conv1d: Conv1d, nn.Conv2d: Conv2d}

# PyTorch's time over ours for forward and backward, one thread, by kind of layer: geometric means over the layers of
# fastconv/bench/suite.toml (PyTorch 2.13, AVX-512).
GAINS = {
    "depthwise 1-D": 5.5,
    "depthwise 2-D": 4.1,
    "grouped": 2.9,
    "few channels 1-D": 5.0,
    "few channels 2-D": 3.3,
    "dense 1-D": 1.2,
    "dense 3x3": 1.4,
    "dense 2-D": 0.9,
    "1x1": 0.7,
}

# The least expected factor for a swap: below it, other work on the machine decides.
WORTH_IT = 1.1

FEW_CHANNELS = 8  # of the input, a group
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
    axes = len(kernel_size)
    if groups == in_channels and groups > 1:
        return f"depthwise {axes}-D"
    if groups > 1:
        return "grouped"
    if in_channels <= FEW_CHANNELS:
        return f"few channels {axes}-D"
    if all(size == 1 for size in kernel_size):
        return "1x1"
    if axes == 1:
        return "dense 1-D"
    unit = all(step == 1 for step in (*stride, *dilation))
    if tuple(kernel_size) == (3, 3) and unit and min(in_channels, out_channels) >= WINOGRAD_CHANNELS:
        return "dense 3x3"
    return "dense 2-D"


def _kind_of(layer: Any) -> str:
    return kind(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.dilation, layer.groups)


def _usable(layer: Any) -> bool:
    return layer.weight.device.type == "cpu" and layer.weight.dtype in (torch.float32, torch.float64)


def convert(model: nn.Module, all: bool = False, *, verbose: bool = True) -> list[Swap]:
    """Swap the convolutions of a model for fastconv's, in place, where a gain is expected.

    ``nn.Conv1d`` and ``nn.Conv2d`` become :class:`fastconv.torch.Conv1d` and ``Conv2d``: the same objects with the
    same parameters and hooks, so optimisers, references and ``state_dict`` stay valid. Subclasses of torch's classes
    are left alone, because they may compute something else.

    Parameters
    ----------
    model : module, itself possibly a convolution
    all : swap every convolution, whatever is expected of it
    verbose : print what was swapped and left, with the expected factors

    Returns
    -------
    list of :class:`Swap` (name, layer, kind, factor), in the model's order. `factor` is what layers of that kind gained
    forward and backward where they were measured (:data:`GAINS`), without regard to the input's size

    Examples
    --------
    >>> import torch, fastconv.torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(32, 32, 7, padding=3, groups=32), torch.nn.ReLU())
    >>> [swap.name for swap in fastconv.torch.convert(model, all=True, verbose=False)]
    ['0']
    """
    swapped, left = [], []
    for name, layer in model.named_modules():
        ours = _CLASSES.get(type(layer))
        if ours is None:
            continue
        what = _kind_of(layer)
        swap = Swap(name, layer, what, GAINS[what])
        if all or (swap.factor >= WORTH_IT and _usable(layer)):
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
        lines += [f"  {title:<8} {s.name or '(model)':<32} {s.kind:<17} {s.factor:.1f}" for s in swaps]
    return "\n".join(lines)
