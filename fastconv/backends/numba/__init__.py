"""The Numba backend: convolutions compiled at first use, for whatever vectors this CPU has.

::

    __init__    what the planner asks; imports nothing heavy
    direct      one call: plan, scratch, shares, the second run where inf or NaN asks for one
    plan        how a geometry is cut into tiles, register blocks and shares
    workers     the threads; workers_kernels: how they hand shares to each other; atomics: in what words
    compiled    kernel name, element type and ISA -> a function to call, its machine code cached on disk
    build       the machine code of a kernel, by way of numba; machine_code loads it, without numba; flags: its options
    kernels     the two kernels: packing and loops in plain Numba
    vector      the register blocks: LLVM vector IR; row_blocks, those that go along rows
    columns     direct's backward_input to few channels, one product added into place: columns_plan, columns_kernels
    gemm        direct, with vectors of positions copied side by side before use; gemm_rule says where that pays;
                backward_weight as a matrix product: gemm_weight, gemm_weight_plan, gemm_weight_kernels
    winograd    Winograd's algorithm, in the same order: winograd, winograd_plan, winograd_kernels, winograd_blocks;
                backward_weight: winograd_weight, winograd_weight_kernels, winograd_weight_blocks
    fft         convolution by FFT: fft, fft_plan, fft_kernels
    small       a handful of numbers: small, small_kernels; objects: arrays as arguments that cost nothing
    batch       an image in each lane: batch, batch_plan, batch_kernels
    depthwise   one input channel a group: depthwise, depthwise_plan, depthwise_kernels,
                depthwise_plane_kernels and depthwise_pair_kernels (3x3 planes of stride 1 and 2, read
                where they are), depthwise_weight_kernels
    cpu         the list of vector instruction sets
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any

import numpy as np

from ...geometry import Geometry
from .. import isa_changed
from . import batch_plan, depthwise_plan, fft_plan, gemm_rule, gemm_weight_plan, winograd_plan

NAME = "numba"


def unavailable() -> str | None:
    """Why this backend cannot be used here, or None. Does not import numba."""
    if importlib.util.find_spec("numba") is None:
        return "the package numba is not installed (pip install 'fastconv[numba]')"
    loaded = getattr(sys.modules.get("numba"), "config", None)
    disabled = os.environ.get("NUMBA_DISABLE_JIT", "0") if loaded is None else loaded.DISABLE_JIT
    if str(disabled) not in ("", "0", "False"):
        return "NUMBA_DISABLE_JIT is set, and its vector instructions exist only as compiled code"
    return None


def isas() -> list[tuple[str, bool]]:
    """(name, usable on this CPU) of every instruction set that the kernels know, best first."""
    from .cpu import ISAS, usable

    can = usable()
    return [(row.name, row in can) for row in ISAS]


def isa() -> str:
    """The instruction set in use; FASTCONV_ISA asks for one. ValueError or RuntimeError where it is not to be had."""
    from .cpu import current

    return current().name


def notes() -> list[str]:
    """For :func:`fastconv.explain`: what holds in this process alone."""
    from .workers import forked

    return ["one thread computes: this process was forked from one that had used the Numba backend"] if forked else []


def use_isa(name: str | None) -> str:
    """Use instruction set `name` from now on (None: the best), process-wide; returns the one in use. For tests.

    Raises as :func:`isa`, and leaves the one in use as it is.
    """
    from .cpu import use

    used = use(name or "").name
    isa_changed()
    return used


class _Algorithm:
    """See :class:`fastconv.backends.Algorithm`. Everything that imports numba is behind ``run``, at the first call."""

    name = ""
    exact = True

    def unsupported(self, operation: str, g: Geometry, dtype: np.dtype[Any]) -> str | None:
        return None if dtype.type in (np.float32, np.float64) else f"{dtype} is neither float32 nor float64"

    def unwise(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> str | None:
        return None

    def workspace(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> int:
        size: int = self._module().workspace(operation, g, dtype, threads)
        return size

    def run(
        self,
        operation: str,
        g: Geometry,
        x: np.ndarray,
        w: np.ndarray,
        y: np.ndarray,
        bias: np.ndarray | None,
        threads: int,
        strict: bool,
    ) -> None:
        self.run = self._module().run  # type: ignore[method-assign]  # a lookup costs more than a small convolution
        self.run(operation, g, x, w, y, bias, threads, strict)

    def _module(self) -> Any:
        return importlib.import_module(f".{self.name}", __name__)


class _Prepared(_Algorithm):
    """One whose module decides beforehand all that does not depend on the arrays: ``prepare``, in place of ``run``."""

    def prepare(
        self,
        operation: str,
        g: Geometry,
        dtype: np.dtype[Any],
        bias_shape: tuple[int, ...] | None,
        threads: int,
        strict: bool,
    ) -> Any:
        """The operation as a function of (x, w, y, bias): see :mod:`fastconv.repeated`."""
        biases = 0 if bias_shape is None else 1 if len(bias_shape) == 1 else 2  # none, one a channel, one a position
        return self._module().prepare(operation, g, dtype, biases, threads, strict)

    def run(
        self,
        operation: str,
        g: Geometry,
        x: np.ndarray,
        w: np.ndarray,
        y: np.ndarray,
        bias: np.ndarray | None,
        threads: int,
        strict: bool,
    ) -> None:
        self.prepare(operation, g, x.dtype, None if bias is None else bias.shape, threads, strict)(x, w, y, bias)


class _Small(_Prepared):
    name = "small"

    def unwise(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> str | None:
        from .cpu import current

        if operation == "backward_weight":
            most = _SMALL_WEIGHT
        else:
            most = _SMALL_BATCH if current().vector_bytes // dtype.itemsize <= g.N else _SMALL
        return "more multiply-adds than plain loops are good for" if g.flops > 2 * most else None


class _Batch(_Prepared):
    name = "batch"

    def unsupported(self, operation: str, g: Geometry, dtype: np.dtype[Any]) -> str | None:
        from .cpu import current

        if operation == "backward_weight":
            return "for forward and backward_input alone"
        lanes = current().vector_bytes // dtype.itemsize
        return super().unsupported(operation, g, dtype) or batch_plan.unsupported(operation, g, lanes, dtype.itemsize)

    def unwise(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> str | None:
        from .cpu import current, level2_bytes

        lanes = current().vector_bytes // dtype.itemsize
        return batch_plan.unwise(operation, g, lanes, dtype.itemsize, level2_bytes())


class _Winograd(_Algorithm):
    name = "winograd"
    exact = False

    def unsupported(self, operation: str, g: Geometry, dtype: np.dtype[Any]) -> str | None:
        return super().unsupported(operation, g, dtype) or winograd_plan.unsupported(g)

    def unwise(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> str | None:
        from .cpu import current

        if operation == "backward_weight":
            return winograd_plan.unwise_weight(g, current().vector_bytes)
        return winograd_plan.unwise(operation, g, current().vector_bytes)


class _Fft(_Algorithm):
    name = "fft"
    exact = False

    def unsupported(self, operation: str, g: Geometry, dtype: np.dtype[Any]) -> str | None:
        return super().unsupported(operation, g, dtype) or fft_plan.unsupported(g)

    def unwise(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> str | None:
        from .cpu import current

        return fft_plan.unwise(operation, g, dtype.itemsize, threads, current().vector_bytes)


class _Depthwise(_Algorithm):
    name = "depthwise"

    def unsupported(self, operation: str, g: Geometry, dtype: np.dtype[Any]) -> str | None:
        return super().unsupported(operation, g, dtype) or depthwise_plan.unsupported(operation, g)

    def unwise(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> str | None:
        from .cpu import current

        return depthwise_plan.unwise(operation, g, threads, current().vector_bytes)


class _Direct(_Prepared):
    name = "direct"


class _Gemm(_Prepared):
    name = "gemm"

    def unsupported(self, operation: str, g: Geometry, dtype: np.dtype[Any]) -> str | None:
        reason = super().unsupported(operation, g, dtype)
        return reason if operation == "backward_weight" else reason or gemm_rule.unsupported(g)

    def unwise(self, operation: str, g: Geometry, dtype: np.dtype[Any], threads: int) -> str | None:
        from .cpu import current

        if operation == "backward_weight":
            return gemm_weight_plan.unwise(g, dtype.itemsize, current())
        return gemm_rule.unwise(operation, g, current().vector_bytes)


# Most multiply-adds of plain loops, measured on AVX2 against direct, and where images fill the lanes against batch.
_SMALL, _SMALL_WEIGHT, _SMALL_BATCH = 1000, 3000, 300

ALGORITHMS = (_Small(), _Winograd(), _Fft(), _Depthwise(), _Batch(), _Gemm(), _Direct())
