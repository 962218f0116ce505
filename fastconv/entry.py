"""Which implementation of the public functions is taken: the Cython one where it was built, else the Python one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import functional, settings
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

    def _arm() -> None:
        """Tells the extension the process-wide settings; raises what a wrong environment variable deserves."""
        values = settings.process_wide()
        if values.backend == cython.NAME:
            cython.isa()
        cython.kernels.configure(values.backend == cython.NAME, values.threads, values.precision == "strict")

    cython.kernels.stand_before(functional, settings.override, _arm)
    settings.on_change(cython.kernels.forget)

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
