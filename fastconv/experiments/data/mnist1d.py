"""MNIST-1D: ten short curves, one a digit, made hard to tell apart by chance; 40 numbers an example.

Greydanus, "Scaling down deep learning" (2020, arXiv 2011.14439; ICML 2024 with Kobak). The templates are that paper's
own (see ``LICENSE-mnist1d``), and the random numbers are drawn in the order of the paper's program, so that the
standard data set, seed 42, is the published one but for rounding. That matters: its test set has 1,000 examples, and
another draw would move every accuracy by about a point.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

LENGTH = 40
CLASSES = 10
PER_CLASS, TRAINING_SHARE = 500, 0.8
SEED = 42

# Each digit as the horizontal position of a pen that goes down the page in twelve steps.
_PEN = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
_PADDING = (36, 60)  # fewest and most zeros behind the template
_CANVAS = len(_PEN[0]) + _PADDING[1]  # every example is stretched to this length first
_SCALE, _SHEAR = 0.4, 0.75  # widths of the uniform distributions of size and slope
_MOST_MOVED = 48
_CORRELATED, _INDEPENDENT = 0.25, 0.02  # standard deviations of the two noises
_BLUR = 2.0  # standard deviation of the Gaussian that correlates the first of them, in samples

_REACH = round(4 * _BLUR)  # where the Gaussian is cut off
_GAUSSIAN = np.exp(-0.5 * (np.arange(-_REACH, _REACH + 1) / _BLUR) ** 2)
_GAUSSIAN /= _GAUSSIAN.sum()


class Signals(NamedTuple):
    """(N, 40) float64 signals with mean 0 and variance 1 over the whole set, (N,) int64 labels; in a random order."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def templates() -> np.ndarray:
    """(10, 12): the curve of each digit, which starts and ends at 0.

    >>> templates().shape, bool(np.abs(templates()[:, [0, -1]]).max() < 1e-15)
    ((10, 12), True)
    """
    curves = np.array(_PEN)
    curves = (curves - curves.mean(axis=1, keepdims=True)) / curves.std(axis=1, keepdims=True)
    curves -= curves[:, :1]
    return curves / 6


@functools.lru_cache(maxsize=2)
def generate(seed: int = SEED, per_class: int = PER_CLASS) -> Signals:
    """The data set: each template padded, stretched, scaled, moved, made noisy, sheared and sampled at 40 places.

    Parameters
    ----------
    seed
        Of NumPy's legacy generator, which the published data set was drawn with. Default 42, the published one.
    per_class
        Examples of each digit, training and test together. Default 500: 4,000 to train on, 1,000 to test with.

    Examples
    --------
    >>> data = generate(per_class=10)
    >>> data.train.shape, data.test.shape, data.train.dtype.name
    ((80, 40), (20, 40), 'float64')
    """
    rng = np.random.RandomState(seed)
    labels = np.repeat(np.arange(CLASSES), per_class)
    curves = templates()
    signals = np.stack([_example(curves[label], rng) for label in labels])
    order = rng.permutation(len(labels))
    signals, labels = signals[order], labels[order]
    signals = (signals - signals.mean()) / signals.std()
    split = int(len(labels) * TRAINING_SHARE)
    return Signals(signals[:split], labels[:split], signals[split:], labels[split:])


def _example(curve: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    fewest, most = _PADDING
    zeros = fewest + int(rng.rand() * (most - fewest + 1))
    # The curve is lifted by next to nothing: what is exactly 0 afterwards is background and gets the correlated noise.
    signal = _resampled(np.concatenate([curve + 1e-8, np.zeros(zeros)]), _CANVAS)
    signal *= 1 + _SCALE * (rng.rand() - 0.5)
    signal = np.roll(signal, rng.randint(_MOST_MOVED))
    background = _blurred(_CORRELATED * rng.randn(_CANVAS))
    signal = np.where(signal != 0, signal, background) + _INDEPENDENT * rng.randn(_CANVAS)
    signal -= _SHEAR * (rng.rand() - 0.5) * np.linspace(-0.5, 0.5, _CANVAS)
    return _resampled(signal, LENGTH)


def _resampled(signal: np.ndarray, length: int) -> np.ndarray:
    """`signal` at `length` places from its first to its last sample, linearly interpolated."""
    return np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(signal)), signal)


def _blurred(noise: np.ndarray) -> np.ndarray:
    """`noise` convolved with a Gaussian; mirrored at the ends."""
    mirrored = np.concatenate([noise[_REACH - 1 :: -1], noise, noise[: -_REACH - 1 : -1]])
    return np.convolve(mirrored, _GAUSSIAN, mode="valid")
