"""Which implementation of the public functions is taken: the Cython one where it was built, else the Python one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import functional
from .backends import cython

if TYPE_CHECKING or cython.kernels is None:
    from .functional import (
        conv1d,
        conv1d_backward,
        conv1d_input,
        conv1d_weight,
        conv2d,
        conv2d_backward,
        conv2d_input,
        conv2d_weight,
    )
else:
    from .backends._kernels import (
        conv1d,
        conv1d_backward,
        conv1d_input,
        conv1d_weight,
        conv2d,
        conv2d_backward,
        conv2d_input,
        conv2d_weight,
    )

    cython.stand_before(functional)

__all__ = [
    "conv1d",
    "conv1d_backward",
    "conv1d_input",
    "conv1d_weight",
    "conv2d",
    "conv2d_backward",
    "conv2d_input",
    "conv2d_weight",
]
