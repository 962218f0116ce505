"""PyTorch's own threads for the convolutions too.

PyTorch's operators run on the threads of an OpenMP library, which spin for milliseconds after each of them. On as many
threads as there are cores, another pool's workers would have to share their cores with that: a ResNet-18 on two threads
was slower than on PyTorch's convolutions, though on one it is 1.5 times as fast.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from ..backends import cython


def adopt() -> bool:
    """Lets the extension's parallel calls run on those threads; False where they are not to be had.

    That is process-wide, and over in a process forked from this one, which has none of these threads.
    """
    if cython.kernels is None or not hasattr(os, "RTLD_NOLOAD"):
        return False
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:  # the OpenMP that this very library is linked to: a process may hold several
        loaded = ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        functions = loaded.GOMP_parallel, loaded.omp_get_thread_num
    except (OSError, AttributeError):  # another platform's or distribution's build
        return False
    cython.kernels.use_team(*(ctypes.cast(function, ctypes.c_void_p).value for function in functions))
    return True
