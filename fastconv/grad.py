"""One gradient at a time, as ``torch.nn.grad``."""

from .entry import conv1d_input, conv1d_weight, conv2d_input, conv2d_weight

__all__ = ["conv1d_input", "conv1d_weight", "conv2d_input", "conv2d_weight"]
