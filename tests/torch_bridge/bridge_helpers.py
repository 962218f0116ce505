"""What the tests of fastconv.torch share: layers to try, and counting which operators run."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv.torch as ft

OURS = {1: ft.conv1d, 2: ft.conv2d}
THEIRS = {1: F.conv1d, 2: F.conv2d}

# (keywords, kernel sizes); every option of the functions, alone and together
OPTIONS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "plain": ({}, (3, 2)),
    "stride": ({"stride": 2, "padding": 1}, (3, 3)),
    "dilation": ({"dilation": 2, "padding": 2}, (2, 3)),
    "groups": ({"groups": 2, "stride": 2}, (2, 2)),
    "depthwise": ({"groups": 4, "padding": 1}, (3, 3)),
    "same": ({"padding": "same"}, (3, 3)),
    "same, even kernel": ({"padding": "same", "dilation": 3}, (2, 2)),
    "valid": ({"padding": "valid"}, (1, 1)),
}


def layer(
    axes: int, option: str, dtype: torch.dtype = torch.float64, *, batched: bool = True, grad: bool = True
) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """([input, weight, bias], keywords) of a small layer: 4 channels to 4, on 6 or 6x7."""
    keywords, kernel = OPTIONS[option]
    lead = (2, 4) if batched else (4,)
    shapes = [(*lead, *(6, 7)[:axes]), (4, 4 // keywords.get("groups", 1), *kernel[:axes]), (4,)]
    return [torch.randn(shape, dtype=dtype, requires_grad=grad) for shape in shapes], keywords


def clones(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [t.detach().clone().requires_grad_(t.requires_grad) for t in tensors]


class Seen(TorchDispatchMode):
    """Counts the operators of fastconv that go by."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "fastconv":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))
