"""The rows of the suite: named real layers, their data, and their exact answers in float64.

A row is one block of ``suite.toml``; whoever adds a block has added a benchmark and a test case.
"""

from __future__ import annotations

import functools
import importlib.resources
import math
import sys
import zlib
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..geometry import OPERATIONS, Geometry, conv_geometry, positive_ints

if sys.version_info >= (3, 11):
    import tomllib
else:  # the extra "benchmarks" installs the same parser under its older name
    import tomli as tomllib

__all__ = ["OPERATIONS", "Arrays", "Row", "exact", "families", "relative_error", "rows", "select", "tolerance"]

_KEYS = {"family", "why", "n", "c_in", "size", "c_out", "k", "stride", "padding", "dilation", "groups"}
_NEEDED = {"family", "why", "n", "c_in", "size", "c_out", "k"}

# Cache lines by which shifted data are apart: no divisor of a page, so that they fall into other sets of a cache.
_LINES = 13

# Taps from which a convolution of single rows is faster in float64 by FFT than tap by tap.
_FFT_TAPS = 64


class Arrays(NamedTuple):
    """The data of a row: input, weight and output gradient, float32, in torch's shapes."""

    x: np.ndarray
    w: np.ndarray
    gy: np.ndarray


@dataclass(frozen=True)
class Row:
    """One convolution layer in torch's words; ``size`` and everything after it has one entry a spatial axis."""

    name: str
    family: str
    why: str
    n: int
    c_in: int
    size: tuple[int, ...]
    c_out: int
    k: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @property
    def axes(self) -> int:
        """1 for a (N, C, L) layer, 2 for a (N, C, H, W) one."""
        return len(self.size)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.n, self.c_in, *self.size)

    @property
    def w_shape(self) -> tuple[int, ...]:
        return (self.c_out, self.c_in // self.groups, *self.k)

    @property
    def y_shape(self) -> tuple[int, ...]:
        g = self.geometry
        return (g.N, g.K, g.P, g.Q) if self.axes == 2 else (g.N, g.K, g.Q)

    @functools.cached_property
    def geometry(self) -> Geometry:
        g, _ = conv_geometry(
            self.axes, self.x_shape, self.w_shape, self.stride, self.padding, self.dilation, self.groups
        )
        return g

    @property
    def arguments(self) -> dict[str, Any]:
        """stride, padding, dilation and groups as the public functions take them."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    @property
    def one_channel(self) -> bool:
        """One input and one output channel: what a signal processing library can do."""
        return self.n == self.c_in == self.c_out == 1

    def output_shape(self, operation: str) -> tuple[int, ...]:
        """The shape of what `operation` writes."""
        return {"forward": self.y_shape, "backward_input": self.x_shape, "backward_weight": self.w_shape}[operation]

    def bytes_moved(self, operation: str) -> tuple[int, int]:
        """Bytes that `operation` has to read and to write at least, in float32."""
        sizes = {
            "forward": math.prod(self.y_shape),
            "backward_input": math.prod(self.x_shape),
            "backward_weight": math.prod(self.w_shape),
        }
        total = sum(sizes.values())
        return 4 * (total - sizes[operation]), 4 * sizes[operation]

    def arrays(self, shifted: int = 0) -> Arrays:
        """The row's data: the same on every machine, of magnitudes from 0.1 to 1, so never zero or denormal.

        With `shifted`, the same numbers elsewhere: each array a different number of cache lines into its memory.
        """
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        data = Arrays(*(_numbers(rng, shape) for shape in (self.x_shape, self.w_shape, self.y_shape)))
        if not shifted:
            return data
        return Arrays(*(_moved(array, _LINES * shifted * (2 * i + 1)) for i, array in enumerate(data)))

    def small(self) -> Row:
        """The same kind of layer with fewer images, channels and positions: cheap enough for the slowest backend."""
        groups = min(self.groups, 3)
        wide = self.c_in // self.groups, self.c_out // self.groups
        most = 5 if self.groups == 1 else 3
        k = tuple(min(k, 67) for k in self.k)
        padding = tuple(min(p, k_ - 1) for p, k_ in zip(self.padding, k))
        return replace(
            self,
            n=min(self.n, 2),
            c_in=groups * min(wide[0], most),
            c_out=groups * min(wide[1], most),
            size=tuple(
                min(size, 20 if self.axes == 2 else 70, size) + (d * (k_ - 1) if size > 20 else 0)
                for size, k_, d in zip(self.size, k, self.dilation)
            ),
            k=k,
            padding=padding,
            groups=groups,
        )

    def __str__(self) -> str:
        return self.name


def _numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.uniform(0.1, 1.0, shape).astype(np.float32)
    return np.where(rng.integers(0, 2, shape, dtype=np.int8), values, -values)


def _moved(array: np.ndarray, lines: int) -> np.ndarray:
    """A copy that starts `lines` cache lines after where an array of its own would."""
    first = lines * 64 // array.itemsize
    copy = np.empty(first + array.size, array.dtype)[first:].reshape(array.shape)
    copy[...] = array
    return copy


# ---- the suite


@functools.cache
def _suite() -> tuple[dict[str, str], dict[str, Row]]:
    text = importlib.resources.files(__package__).joinpath("suite.toml").read_text(encoding="utf-8")
    return parse(text)


def parse(text: str) -> tuple[dict[str, str], dict[str, Row]]:
    """The families (name to description) and rows (by name) of a suite in TOML.

    Raises ValueError that names the row for an unknown or missing key, an unknown family, or impossible numbers.
    """
    document = tomllib.loads(text)
    families: dict[str, str] = document.get("families", {})
    found = {}
    for name, block in document.get("row", {}).items():
        if unknown := block.keys() - _KEYS:
            raise ValueError(f"row {name}: unknown key(s) {', '.join(sorted(unknown))}")
        if missing := _NEEDED - block.keys():
            raise ValueError(f"row {name}: missing key(s) {', '.join(sorted(missing))}")
        if block["family"] not in families:
            raise ValueError(f"row {name}: unknown family {block['family']!r}: there is {', '.join(families)}")
        size = tuple(block["size"])

        def per_axis(value: int | list[int], axes: int = len(size), name: str = name) -> tuple[int, ...]:
            values = (value,) * axes if isinstance(value, int) else tuple(value)
            if len(values) != axes:
                raise ValueError(f"row {name}: {value} should have {axes} entries")
            return values

        row = Row(
            name=name,
            family=block["family"],
            why=block["why"],
            n=block["n"],
            c_in=block["c_in"],
            size=size,
            c_out=block["c_out"],
            k=per_axis(block["k"]),
            stride=per_axis(block.get("stride", 1)),
            padding=per_axis(block.get("padding", 0)),
            dilation=per_axis(block.get("dilation", 1)),
            groups=block.get("groups", 1),
        )
        try:
            positive_ints("groups", row.groups, 1)  # the weight's shape is divided by it
            row.geometry  # noqa: B018  its rules are those of the functions
        except (ValueError, TypeError) as error:
            raise ValueError(f"row {name}: {error}") from None
        found[name] = row
    return families, found


def families() -> dict[str, str]:
    """The families of the suite, name to description, in the suite's order."""
    return dict(_suite()[0])


def rows() -> dict[str, Row]:
    """Every row of the suite by name, in the suite's order."""
    return dict(_suite()[1])


def select(names: list[str] | None = None, family_names: list[str] | None = None) -> list[Row]:
    """The rows called `names` and those of the families `family_names`; all of them where both are None or empty.

    Raises ValueError that lists what there is for a name that is not there.
    """
    known_families, known = _suite()
    for kind, asked, there in (("row", names, known), ("family", family_names, known_families)):
        for name in asked or ():
            if name not in there:
                raise ValueError(f"there is no {kind} {name!r} in the suite: there is {', '.join(there)}")
    if not names and not family_names:
        return list(known.values())
    return [row for row in known.values() if row.name in (names or ()) or row.family in (family_names or ())]


# ---- the exact answer


def exact(row: Row, operation: str, data: Arrays) -> np.ndarray:
    """What `operation` should give, computed in float64 by NumPy alone, in the shape of the result.

    One matrix product a tap, or an FFT where single rows meet long kernels (float64 FFTs are exact to 1e-15 of the
    largest value, nine digits beyond what is to be judged). Shares no code with any backend, not even the reference,
    which would take minutes on the large rows.
    """
    g = row.geometry
    x, w, gy = (np.asarray(a, np.float64) for a in data)
    x, w, gy = x.reshape(g.x_shape), w.reshape(g.w_shape), gy.reshape(g.y_shape)
    # x of the size that the kernel sees: padded at both ends, cut where the stride leaves a rest.
    height, width = ((g.P - 1) * g.stride[0] + (g.R - 1) * g.dilation[0] + 1,
                     (g.Q - 1) * g.stride[1] + (g.S - 1) * g.dilation[1] + 1)  # fmt: skip
    seen = np.zeros((g.N, g.C, max(height, g.pad[0] + g.H), max(width, g.pad[1] + g.W)))
    inside = seen[:, :, g.pad[0] : g.pad[0] + g.H, g.pad[1] : g.pad[1] + g.W]
    if operation != "backward_input":
        inside[:] = x
    by_fft = g.H == g.R == 1 and g.stride[1] == 1 and g.S >= _FFT_TAPS
    method = _by_fft if by_fft else _by_taps
    if operation == "forward":
        return method(operation, g, seen, w, np.zeros_like(gy)).reshape(row.y_shape)
    if operation == "backward_weight":
        return method(operation, g, seen, np.zeros_like(w), gy).reshape(row.w_shape)
    method(operation, g, seen, w, gy)
    return inside.reshape(row.x_shape)


def _by_taps(operation: str, g: Geometry, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> np.ndarray:
    G = g.groups
    weight = w.reshape(G, g.K // G, g.C // G, g.R, g.S)
    grouped_x = x.reshape(g.N, G, g.C // G, *x.shape[2:])
    grouped_y = y.reshape(g.N, G, g.K // G, g.P * g.Q)
    depthwise = g.K == g.C == G
    for r in range(g.R):
        for s in range(g.S):
            top, left = r * g.dilation[0], s * g.dilation[1]
            rows = slice(top, top + (g.P - 1) * g.stride[0] + 1, g.stride[0])
            columns = slice(left, left + (g.Q - 1) * g.stride[1] + 1, g.stride[1])
            window = grouped_x[..., rows, columns]
            tap = weight[..., r, s]  # (G, K/G, C/G)
            if operation == "backward_input":
                product = grouped_y * tap if depthwise else tap.transpose(0, 2, 1) @ grouped_y
                window += product.reshape(window.shape)
                continue
            flat = window.reshape(g.N, G, g.C // G, g.P * g.Q)
            if operation == "forward":
                grouped_y += flat * tap if depthwise else tap @ flat
            elif depthwise:
                tap[:] = np.einsum("ngkq,ngcq->gkc", grouped_y, flat)
            else:
                tap[:] = (grouped_y @ flat.transpose(0, 1, 3, 2)).sum(axis=0)
    return {"forward": y, "backward_input": x, "backward_weight": w}[operation]


def _by_fft(operation: str, g: Geometry, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> np.ndarray:
    G, d = g.groups, g.dilation[1]
    points = 1 << (x.shape[3] + g.Q).bit_length()  # nothing wraps around
    spread = np.zeros((G, g.K // G, g.C // G, (g.S - 1) * d + 1))
    spread[..., ::d] = w.reshape(G, g.K // G, g.C // G, g.S)
    grouped_x, grouped_y = x.reshape(g.N, G, g.C // G, -1), y.reshape(g.N, G, g.K // G, g.Q)
    for image in range(g.N):
        for group in range(G):
            fx, fw, fy = (np.fft.rfft(a[i], points) for a, i in (
                (grouped_x, (image, group)), (spread, group), (grouped_y, (image, group))
            ))  # fmt: skip
            if operation == "forward":
                grouped_y[image, group] = np.fft.irfft(np.einsum("kcf,cf->kf", fw.conj(), fx), points)[:, : g.Q]
            elif operation == "backward_input":
                length = x.shape[3]
                grouped_x[image, group] = np.fft.irfft(np.einsum("kcf,kf->cf", fw, fy), points)[:, :length]
            else:
                full = np.fft.irfft(np.einsum("cf,kf->kcf", fx, fy.conj()), points)
                w.reshape((*spread.shape[:3], g.S))[group] += full[..., : (g.S - 1) * d + 1 : d]
    return {"forward": y, "backward_input": x, "backward_weight": w}[operation]


def relative_error(result: np.ndarray, answer: np.ndarray) -> float:
    """The largest deviation as a fraction of the largest value of `answer`; infinite for a wrong shape or a NaN."""
    if result.shape != answer.shape:
        return math.inf
    error = float(np.abs(result - answer).max() / np.abs(answer).max())
    return error if math.isfinite(error) else math.inf


def tolerance(row: Row, operation: str) -> float:
    """The relative error from which a result is wrong.

    1e-5 is what algorithms with fewer multiplications may have; to that comes what summing the row's products one
    after the other in float32 costs: eps times the square root of their number, as their signs are random.
    """
    g = row.geometry
    terms = {
        "forward": g.C // g.groups * g.R * g.S,
        "backward_input": g.K // g.groups * g.R * g.S,
        "backward_weight": g.N * g.P * g.Q,
    }[operation]
    return 1e-5 + float(np.finfo(np.float32).eps) * math.sqrt(terms)
