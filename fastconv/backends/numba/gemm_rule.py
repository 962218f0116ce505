"""Which convolutions gemm serves; imports nothing heavy.

Measured against direct on AVX2: 1x1 two to three times as fast, others from 32 channels of the result on 1.0 to 1.2
times, with few channels 0.4 to 0.8. The bounds are those of ``csrc/gemm.h``, but 1x1 kernels are read in place here.
"""

from __future__ import annotations

from ...geometry import Geometry
from .plan import along_rows

_MOST_TAPS = 256


def unsupported(g: Geometry) -> str | None:
    """Why the algorithm cannot do forward or backward_input of this convolution, or None."""
    return "a kernel of more than 256 elements" if g.R * g.S > _MOST_TAPS else None


def unwise(operation: str, g: Geometry, vector_bytes: int) -> str | None:
    """Why it would be a poor choice, or None."""
    channels, outputs = g.C // g.groups, g.K // g.groups
    down, across = g.R, g.S
    if operation == "forward":
        patches = 1 < g.R <= g.stride[0] and g.stride[1] >= g.S  # no pixel in two
        if g.R * g.S > 1 and not patches and along_rows(channels * g.R * g.S, g.Q, vector_bytes // 4):
            return "few products to a sum, and rows that fill vectors: direct reads and writes them in place"
        if g.Q < 16 and g.stride[1] > 2 and outputs < 64:
            return "short strided rows and few output channels: packing costs more than the blocking saves"
    else:
        channels, outputs = outputs, channels
        down, across = -(-g.R // g.stride[0]), -(-g.S // g.stride[1])  # of a phase
    taps = down * across
    if outputs < 8:
        return "fewer than 8 channels a group in the result: packing costs more than the blocking saves"
    if channels * taps < 16:
        return "fewer than 16 products to a sum"
    least = 80 if taps >= 25 and down > 1 else 32 if taps >= 16 else 16 if taps >= 9 else 8
    if channels >= 4 and outputs < least:
        return "few channels in the result for so many taps: packing costs more than the blocking saves"
    return None
