"""The cases that a learner's convolution is tried on, from simple to hard, with their data and right answers.

Inside, every array is (N, C, H, W), a 1-D one a single row; :meth:`Trial.shown` gives it the shape that the learner's
function knows. The data are small whole numbers, exact in any order of summation; one case has fractions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..backends import reference
from ..geometry import Geometry, Pads, conv_geometry

TERMS = ("forward", "grad_input", "grad_weight", "grad_bias")
# Which axes an array has, richest first: (N, C, L); (C, L); (L,). And (N, L, C), the weight (S, C, K).
LAYOUTS = ("batched", "unbatched", "plain", "channels_last")
_WITH_BATCH = ("batched", "channels_last")
STEPS = ("stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class Convolution:
    """Arrays and steps of one convolution, which a mistake may tamper with; ``y`` is the gradient of the output."""

    x: np.ndarray
    w: np.ndarray
    b: np.ndarray | None
    y: np.ndarray
    stride: tuple[int, int]
    pads: Pads
    dilation: tuple[int, int]
    groups: int

    def change(self, **fields: Any) -> Convolution:
        return replace(self, **fields)

    def geometry(self, plane: tuple[int, int]) -> Geometry:
        """With outputs of size `plane`: the backward operations take it from ``y``, whatever the other numbers say."""
        (N, C, H, W), (K, _, R, S) = self.x.shape, self.w.shape
        pad = (self.pads[0][0], self.pads[1][0])
        return Geometry(N, C, H, W, K, R, S, *plane, self.stride, pad, self.dilation, self.groups)

    def plane(self) -> tuple[int, int]:
        """The size of the forward's output. ValueError where the kernel does not fit."""
        sizes = []
        for axis in (0, 1):
            room = self.x.shape[2 + axis] + sum(self.pads[axis]) - self.dilation[axis] * (self.w.shape[2 + axis] - 1)
            if room < 1:
                raise ValueError("the kernel is larger than the padded input")
            sizes.append((room - 1) // self.stride[axis] + 1)
        return sizes[0], sizes[1]

    def forward(self) -> np.ndarray:
        return reference.forward(self.geometry(self.plane()), self.x, self.w, self.b)

    def grad_input(self) -> np.ndarray:
        return reference.backward_input(self.geometry(self.y.shape[2:]), self.y, self.w)

    def grad_weight(self) -> np.ndarray:
        return reference.backward_weight(self.geometry(self.y.shape[2:]), self.x, self.y)

    def grad_bias(self) -> np.ndarray:
        untied = self.b is not None and self.b.ndim == 3
        return self.y.sum(axis=0 if untied else (0, 2, 3))

    def right(self, term: str) -> np.ndarray:
        return getattr(self, term)()


@dataclass(frozen=True)
class Trial:
    """One case. Sizes as in the library's formulas; `bias` is None, "shared", "untied" or "kept".

    A kept bias is a shared one with as many axes as the output, all but the last of length one.
    """

    layout: str
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    n: int = 1
    c: int = 1
    k: int = 1
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    bias: str | None = None
    fractions: bool = False

    @property
    def axes(self) -> int:
        return len(self.size)

    @functools.cached_property
    def convolution(self) -> Convolution:
        x_shape, w_shape = (self.n, self.c, *self.size), (self.k, self.c // self.groups, *self.kernel)
        steps = (self.stride, self.padding, self.dilation, self.groups)
        g, pads = conv_geometry(self.axes, x_shape, w_shape, *steps)
        rng = np.random.default_rng([*x_shape, *w_shape, g.P, g.Q])
        bias = {None: None, "untied": (self.k, g.P, g.Q)}.get(self.bias, (self.k,))
        shapes = [g.x_shape, g.w_shape, bias, g.y_shape]
        x, w, b, y = (None if shape is None else self._numbers(rng, shape) for shape in shapes)
        assert x is not None and w is not None and y is not None
        return Convolution(x, w, b, y, g.stride, pads, g.dilation, self.groups)

    def _numbers(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        if self.fractions:
            return rng.uniform(-2, 2, shape)
        numbers = rng.integers(1, 6, shape) * rng.choice([-1, 1], shape)
        return numbers.astype(np.float64)

    @functools.cached_property
    def right(self) -> dict[str, np.ndarray]:
        """The right answer of each term, in the learner's shape."""
        return {term: self.shown(term, self.convolution.right(term)) for term in TERMS}

    def shown(self, term: str, array: np.ndarray) -> np.ndarray:
        """`array`, a result of `term`, in the learner's shape. ValueError where an axis to be left out is longer."""
        if self.bias == "kept" and term == "grad_bias":
            return array.reshape((1,) * (self.axes + 1) + array.shape)
        if term == "grad_bias" and array.ndim < 3:
            return array.reshape(()) if self.layout == "plain" and array.size == 1 else array
        if array.ndim == 3:  # the gradient of an untied bias
            away = [1] * (self.axes == 1) + [0] * (self.layout == "plain")
        else:
            leading = {"unbatched": [0], "plain": [0, 1]}.get(self.layout, [])
            if term == "grad_weight":
                leading = [0, 1] if self.layout == "plain" else []
            away = [2] * (self.axes == 1) + leading
        array = np.squeeze(array, axis=tuple(away))
        if self.layout != "channels_last":
            return array
        if term == "grad_weight":
            return np.moveaxis(array, (0, 1), (-1, -2))
        return np.moveaxis(array, 0 if array.ndim == self.axes + 1 else 1, -1)  # an untied bias has no batch

    def values(self) -> dict[str, Any]:
        """What the learner's function may be given, by role; new arrays each time."""
        c = self.convolution
        bias = None if c.b is None else self.shown("grad_bias", c.b)
        given: dict[str, Any] = {
            "x": self.shown("grad_input", c.x).copy(),
            "w": self.shown("grad_weight", c.w).copy(),
            "b": None if bias is None else float(bias) if bias.ndim == 0 else bias.copy(),
            "grad_output": self.shown("forward", c.y).copy(),
        }
        given |= {"x_shape": given["x"].shape, "w_shape": given["w"].shape}
        return given | {step: getattr(self, step) for step in STEPS}

    @property
    def numbers(self) -> int:
        """How much there is to look at."""
        c = self.convolution
        return c.x.size + c.w.size + c.y.size

    def features(self) -> dict[str, bool]:
        """What is special about this case, in words that follow "those with"."""
        c = self.convolution
        reach = [d * (k - 1) + 1 for d, k in zip(c.dilation, c.w.shape[2:])]
        sizes = [size + sum(pads) for size, pads in zip(c.x.shape[2:], c.pads)]
        return {
            "a bias": self.bias is not None,
            "several images": self.n > 1,
            "several input channels": self.c > 1,
            "several output channels": self.k > 1,
            "a stride above 1": max(c.stride) > 1,
            "padding": self.padding not in (0, "valid"),
            "padding 'same'": self.padding == "same",
            "padding of different length before and after": any(a != b for a, b in c.pads),
            "a dilation above 1": max(c.dilation) > 1,
            "groups": self.groups > 1,
            "a kernel of even length": any(k % 2 == 0 for k in self.kernel),
            "a kernel longer than 1": max(self.kernel) > 1,
            "elements left over at the end by the stride": any(
                (size - r) % s for size, r, s in zip(sizes, reach, c.stride)
            ),
            "more than one output position": math.prod(c.y.shape[2:]) > 1,
            "an image that is not square": len(set(self.size)) > 1,
            "a kernel that is not square": len(set(self.kernel)) > 1,
            "steps that differ by axis": any(isinstance(getattr(self, step), tuple) for step in STEPS),
            "fractions": self.fractions,
        }

    def geometry(self) -> dict[str, Any]:
        """The case in the words of a call: shapes of x and w, and every step that is not the default."""
        values = self.values()
        steps = {step: getattr(self, step) for step in STEPS if getattr(self, step) != (0 if step == "padding" else 1)}
        bias = {} if self.bias is None else {"b": np.shape(values["b"])}
        return {"x": values["x_shape"], "w": values["w_shape"], **bias, **steps}


@functools.cache  # with their data and right answers, which are the same for every function that is checked
def trials(axes: int, layout: str, bias: str | None) -> tuple[Trial, ...]:
    """All cases for `axes` dimensions, from simple to hard; where there is a `bias`, the first has none."""
    return tuple(_trials(axes, layout, bias))


def _trials(axes: int, layout: str, bias: str | None) -> Iterator[Trial]:

    def trial(size: Any, kernel: Any, *, bias: str | None = bias, **more: Any) -> Trial:
        sizes = size if isinstance(size, tuple) else (size,) * axes
        kernels = kernel if isinstance(kernel, tuple) else (kernel,) * axes
        return Trial(layout, sizes, kernels, bias=bias, **more)

    if bias is not None:
        yield trial(5, 3, bias=None)
    yield trial(5, 3)
    yield trial(4, 2)
    yield trial(3, 1)
    yield trial(3, 3)
    if layout != "plain":
        yield trial(5, 3, k=3)  # as many channels as positions along an axis: what is added along the wrong one fits
        yield trial(6, 3, c=3)
        yield trial(6, 3, c=3, k=3)
        yield trial(6, 2, c=2, k=3)
    if layout in _WITH_BATCH:
        yield trial(5, 3, n=3)
        yield trial(6, 3, n=2, c=3, k=4)
    channels: dict[str, Any] = {} if layout == "plain" else {"c": 2, "k": 3}
    if layout in _WITH_BATCH:
        channels["n"] = 2
    if axes == 2:
        yield trial((4, 6), 3)
        yield trial((5, 6), (2, 3))
        yield trial((4, 6), (3, 1), **channels)
    yield trial(5, 3, stride=2)
    yield trial(6, 2, stride=2)
    yield trial(7, 2, stride=3)  # one element between the windows is never read
    yield trial(8, 3, stride=2, **channels)
    for padding in (1, 2):
        yield trial(4, 3, padding=padding)
    yield trial(4, 2, padding=1, **channels)
    yield trial(5, 3, padding=1, stride=2, **channels)
    yield trial(6, 4, padding=2, stride=3)
    yield trial(6, 2, dilation=2)
    yield trial(7, 3, dilation=2, **channels)
    yield trial(8, 2, dilation=3, padding=1)
    yield trial(7, 2, dilation=3, stride=2, padding=2, **channels)
    if layout != "plain":
        yield trial(4, 2, c=2, k=2, groups=2)
        yield trial(5, 3, c=4, k=4, groups=2)
        yield trial(5, 2, c=3, k=6, groups=3)
        yield trial(6, 2, c=4, k=8, groups=2, stride=2, padding=1)
    for kernel in (3, 2, 4):
        yield trial(6, kernel, padding="same")
    yield trial(7, 2, padding="same", dilation=3, **channels)
    if axes == 2:
        yield trial(6, 3, stride=(2, 1))
        yield trial(6, 3, padding=(1, 2), stride=(1, 2))
        yield trial(6, 2, dilation=(1, 2), padding=(2, 0), **channels)
    yield trial(5, 3, fractions=True, **channels)
    yield trial(7, 2, fractions=True, **channels)


def needs(trial: Trial) -> set[str]:
    """What a function must take for `trial`: "stride", "stride by axis", "padding", "padding 'same'", ..."""
    needed = set()
    for step in STEPS:
        value = getattr(trial, step)
        if isinstance(value, str):
            needed.add(f"{step} {value!r}")
        elif isinstance(value, tuple):
            needed.add(f"{step} by axis")
        elif value != (0 if step == "padding" else 1):
            needed.add(step)
    return needed
