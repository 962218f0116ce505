"""fastconv: fast, clear 1-D and 2-D convolution for Python on a CPU, forward and backward.

NumPy arrays in, NumPy arrays out; float32 and float64; hand-written kernels in Cython over C SIMD and in Numba.

Who calls whom (arrows point down only)::

    cli -> experiments -> nn
                          |
    conv1d, conv2d ... (entry) -> functional -> planner -> backends: cython | numba | reference -> geometry

:mod:`fastconv.functional` checks arguments, :mod:`fastconv.planner` chooses, :mod:`fastconv.backends` compute,
:mod:`fastconv.geometry` knows every rule about shapes. :mod:`fastconv.nn` trains small networks on top.
"""

from __future__ import annotations

import importlib
from typing import Any

from . import grad
from ._version import __version__
from .backends import usable as backends  # takes the subpackage's place as an attribute: import from it by name
from .config import show_config
from .entry import conv1d, conv1d_backward, conv2d, conv2d_backward
from .functional import (
    conv_transpose1d,
    conv_transpose1d_backward,
    conv_transpose2d,
    conv_transpose2d_backward,
)
from .planner import Plan, explain
from .settings import get_num_threads, num_threads, precision, set_num_threads, use_backend

__all__ = [
    "Plan",
    "__version__",
    "backends",
    "conv1d",
    "conv1d_backward",
    "conv2d",
    "conv2d_backward",
    "conv_transpose1d",
    "conv_transpose1d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "explain",
    "get_num_threads",
    "grad",
    "num_threads",
    "precision",
    "set_num_threads",
    "show_config",
    "use_backend",
]

_LAZY = ("nn", "testing", "torch")  # submodules that `import fastconv` leaves alone until they are asked for


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
