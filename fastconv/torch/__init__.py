"""fastconv for PyTorch: operators, functions, modules, and two ways to give the speed to a model that exists.

========================  ==========================================================================================
:func:`conv1d`, `conv2d`  as in ``torch.nn.functional``; they call the operators ``fastconv::conv1d`` and ``conv2d``
:class:`Conv1d`, `Conv2d` drop-in subclasses of torch's modules
:func:`convert`           swaps the convolutions of a model where that should pay
:class:`patch`            a ``with`` block in which torch's functions go through fastconv
========================  ==========================================================================================

Calls on tensors use as many threads as torch's own operators, ``torch.get_num_threads()``, whatever
``fastconv.set_num_threads`` says, and from this import on the ``cython`` backend computes on those very threads where
PyTorch's build allows it (Linux); backend and precision are fastconv's settings. Results are contiguous, channels-last
inputs or not. Needs ``pip install "fastconv[torch]"``; ``import fastconv`` alone does not import torch.
"""

from __future__ import annotations

from . import openmp
from .conversion import Swap, convert
from .functions import conv1d, conv2d
from .modules import Conv1d, Conv2d
from .patching import patch

openmp.adopt()

__all__ = ["Conv1d", "Conv2d", "Swap", "conv1d", "conv2d", "convert", "patch"]
