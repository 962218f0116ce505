"""Where initial values and dropout masks come from: an explicit generator, or the one of :func:`manual_seed`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .module import Parameter

_default = np.random.default_rng()


def manual_seed(seed: int) -> np.random.Generator:
    """Seed the generator that modules draw from when they are given no ``rng``. Returns it.

    seed: non-negative int.

    >>> import fastconv.nn as nn
    >>> _ = nn.manual_seed(0)
    >>> a = nn.Linear(3, 2)
    >>> _ = nn.manual_seed(0)
    >>> bool((nn.Linear(3, 2).weight.data == a.weight.data).all())
    True
    """
    global _default
    _default = np.random.default_rng(seed)
    return _default


def generator(rng: Any = None) -> np.random.Generator:
    """`rng` as a generator: one itself, an int seed, or None for the one that :func:`manual_seed` seeds."""
    return _default if rng is None else np.random.default_rng(rng)


def uniform_fan_in(shape: tuple[int, ...], fan_in: int, dtype: np.dtype[Any], rng: np.random.Generator) -> Parameter:
    """Values from U(-b, b) with b = 1/sqrt(fan_in): how torch starts the weights and biases of Linear and Conv.

    For weights torch calls it ``kaiming_uniform_(a=sqrt(5))`` (He et al., ICCV 2015, with leaky slope a): the bound is
    gain * sqrt(3 / fan_in) with gain = sqrt(2 / (1 + a^2)) = sqrt(1/3). Drawn in float64 and then rounded, so that
    models of either dtype start from the same numbers.
    """
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    return Parameter(rng.uniform(-bound, bound, shape).astype(dtype))
