"""``patch()``: torch's own convolution functions, sent through fastconv for the length of a ``with`` block."""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import settings
from ..backends import load
from .functions import CONVOLUTIONS, suits
from .operators import TORCH

_depth: contextvars.ContextVar[int] = contextvars.ContextVar("fastconv_torch_patch", default=0)  # of blocks here
_lock = threading.Lock()
_blocks = 0  # that are open, in all threads


def _instead(axes: int) -> Callable[..., Tensor]:
    original, ours = TORCH[axes], CONVOLUTIONS[axes]

    def through_fastconv(input: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        return ours(input, weight, bias, *args, **kwargs) if suits(input, weight, bias) else None

    @functools.wraps(original)
    def convolution(*args: Any, **kwargs: Any) -> Tensor:
        # Other threads see this function too; a compiler sees it only where a block of its own is open.
        if torch.compiler.is_compiling() or _depth.get():
            try:
                y = through_fastconv(*args, **kwargs)
            except (TypeError, ValueError):  # arguments that torch should judge: it may know them, or word the error
                y = None
            if y is not None:
                return y
        return original(*args, **kwargs)

    return convolution


_REPLACEMENTS = {axes: _instead(axes) for axes in TORCH}
_PLACES = [(module, f"conv{axes}d", axes) for module in (F, torch) for axes in TORCH]


def _exchange(new: dict[int, Any], old: dict[int, Any]) -> None:
    for module, name, axes in _PLACES:
        if getattr(module, name) is old[axes]:  # else somebody else has put something there meanwhile: it stays
            setattr(module, name, new[axes])


class patch:
    """Send ``F.conv1d``, ``F.conv2d``, ``torch.conv1d`` and ``torch.conv2d`` through fastconv inside a ``with`` block.

    float32 and float64 tensors on the CPU go to fastconv; anything else (half precision, complex, mixed dtypes, other
    devices, empty tensors, autocast, tensor subclasses, invalid arguments) to the original function, so errors stay
    torch's own. ``nn.Conv1d`` and ``nn.Conv2d`` call these functions, so whole models are covered. Acts on the block's
    own thread and context, may be nested, entered again, and used as a decorator; restores on any exit.

    Not covered: functions that were taken by name before (``from torch.nn.functional import conv2d``), and code that
    was compiled or traced outside of the block.

    Examples
    --------
    >>> import torch, fastconv.torch
    >>> with fastconv.torch.patch():
    ...     torch.nn.Conv2d(3, 8, 3)(torch.ones(1, 3, 8, 8)).shape
    torch.Size([1, 8, 6, 6])
    """

    def __enter__(self) -> patch:
        global _blocks
        load(settings.current().backend).isa()  # a wrong setting is an error here, not a silent way back to torch
        with _lock:
            if _blocks == 0:
                _exchange(_REPLACEMENTS, TORCH)
            _blocks += 1
        _depth.set(_depth.get() + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _blocks
        _depth.set(_depth.get() - 1)
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                _exchange(TORCH, _REPLACEMENTS)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with patch():
                return function(*args, **kwargs)

        return inside
