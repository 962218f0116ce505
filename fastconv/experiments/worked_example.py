"""The convolution that one does with pen and paper: one step of gradient descent, every number with its formula.

A small input x, one kernel w, a bias b and targets y, all of them vectors or all of them matrices; the loss is half of
the sum of squares. The numbers come from the library's own :func:`fastconv.conv1d`, :func:`fastconv.conv2d` and their
backward functions, the formulas are written out beside them.

``b`` with one value is *shared* by all outputs, the usual convolution; with one value an output it is *untied*.
The places at which the kernel is laid on the input are *window positions*; the stride is how far apart they lie.
Every index is a tuple, of one number in 1-D and of (row, column) in 2-D.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..geometry import conv_geometry

FORMATS = ("text", "markdown", "latex")
Index = tuple[int, ...]
# What is taken where nothing is given: x, w and y by the number of dimensions.
DEFAULTS: dict[int, tuple[Any, Any, Any]] = {
    1: ((1, 2, 3, 4), (2, 1, 3), (2, 4)),
    2: (((1, 2, 0), (0, 1, 3), (2, 1, 1)), ((2, 1), (0, 3)), ((5, 8), (3, 10))),
}


@dataclass(frozen=True)
class Example:
    """The numbers of one step. All arrays are float64, 1-D or 2-D; ``b``, ``grad_b`` and ``b_after`` have one value
    (shared, shape (1,)) or one an output (untied)."""

    x: np.ndarray
    w: np.ndarray
    b: np.ndarray
    y: np.ndarray
    lr: float
    stride: tuple[int, ...]  # an axis each
    padding: tuple[tuple[int, int], ...]  # zeros before x and after it, an axis each
    prediction: np.ndarray
    loss: float
    grad_output: np.ndarray
    grad_w: np.ndarray
    grad_b: np.ndarray
    grad_x: np.ndarray
    w_after: np.ndarray
    b_after: np.ndarray
    prediction_after: np.ndarray
    loss_after: float

    @property
    def untied(self) -> bool:
        return self.b.size > 1

    @property
    def dims(self) -> int:
        return self.x.ndim

    def taps(self, output: Index) -> list[tuple[Index, Index]]:
        """The pairs (index into w, index into x) that `output` multiplies; those in the padding are left out."""
        start = [i * step - before for i, step, (before, _) in zip(output, self.stride, self.padding)]
        pairs = [(k, tuple(s + n for s, n in zip(start, k))) for k in np.ndindex(self.w.shape)]
        return [(k, j) for k, j in pairs if all(0 <= n < size for n, size in zip(j, self.x.shape))]


def compute(
    x: Any = None,
    w: Any = None,
    b: Any = (1,),
    y: Any = None,
    lr: float = 0.01,
    *,
    dims: int = 1,
    stride: Any = 1,
    padding: Any = 0,
    backend: str | None = None,
) -> Example:
    """One step of gradient descent on ``1/2 * sum((conv(x, w) + b - y)**2)``.

    Parameters
    ----------
    x, w, y
        Input (L,), kernel (K,) and targets, one an output; with ``dims=2`` matrices (H, W), (R, S) and (P, Q), row by
        row. The default is the homework's example, or a small one in 2-D.
    b
        One value shared by all outputs, or one an output (untied).
    lr
        The learning rate.
    dims
        1 or 2.
    stride, padding
        As in :func:`fastconv.conv1d` and :func:`fastconv.conv2d`.
    backend
        As there; None is the current one.

    Raises
    ------
    ValueError
        Where the sizes do not fit each other, or a number (a loss, too) is not finite.

    Examples
    --------
    >>> example = compute()
    >>> example.prediction.tolist(), example.loss
    ([14.0, 20.0], 200.0)
    >>> compute(dims=2).grad_w.tolist()
    [[14.0, 5.0], [9.0, 22.0]]
    """
    import fastconv as fc

    if dims not in DEFAULTS:
        raise ValueError(f"dims must be 1 or 2, got {dims!r}")
    given = [default if value is None else value for value, default in zip((x, w, y), DEFAULTS[dims])]
    arrays = {name: _numbers(name, values, dims) for name, values in zip("xwyb", [*given, b])}
    if not np.isfinite(lr):
        raise ValueError(f"the learning rate must be a finite number, got {lr}")
    X, W, B, Y = (arrays[name] for name in "xwby")

    image, kernel = X[None, None], W[None, None]
    geometry, pads = conv_geometry(dims, image.shape, kernel.shape, stride, padding)
    outputs = (geometry.P, geometry.Q)[-dims:]
    if Y.shape != outputs:
        sizes = f"x of {_size(X.shape)}, a kernel of {_size(W.shape)}, stride {stride} and padding {padding} give "
        raise ValueError(
            f"{sizes}{_counts(outputs, 'output')}, so y must have {_counts(outputs, 'value')}, got {_times(Y.shape)}"
        )
    if B.shape not in ((1,), outputs):
        raise ValueError(
            f"b must have 1 value (shared by the outputs) or {_times(outputs)} (untied, one an output), "
            f"got {_times(B.shape)}"
        )

    convolve, differentiate = (fc.conv1d, fc.conv1d_backward) if dims == 1 else (fc.conv2d, fc.conv2d_backward)
    how: dict[str, Any] = {"stride": stride, "padding": padding, "backend": backend}

    def predict(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        return convolve(image, weight, bias[None] if bias.size > 1 else bias, **how)[0, 0]

    def half_squares(error: np.ndarray) -> float:
        with np.errstate(over="ignore"):
            value = 0.5 * float(np.sum(error**2))
        if not np.isfinite(value):
            raise ValueError("the loss is too large to be written down: take smaller numbers")
        return value

    prediction = predict(kernel, B)
    grad_output = prediction - Y
    grad_x, grad_w, grad_b = differentiate(
        grad_output[None, None], image, kernel, bias_shape=(1, *outputs) if B.size > 1 else (1,), **how
    )
    assert grad_x is not None and grad_w is not None and grad_b is not None  # the default output_mask asks for all
    w_after, b_after = W - lr * grad_w[0, 0], B - lr * grad_b.reshape(B.shape)
    prediction_after = predict(w_after[None, None], b_after)
    return Example(
        x=X,
        w=W,
        b=B,
        y=Y,
        lr=float(lr),
        stride=geometry.stride[-dims:],
        padding=pads[-dims:],
        prediction=prediction,
        loss=half_squares(grad_output),
        grad_output=grad_output,
        grad_w=grad_w[0, 0],
        grad_b=grad_b.reshape(B.shape),
        grad_x=grad_x[0, 0],
        w_after=w_after,
        b_after=b_after,
        prediction_after=prediction_after,
        loss_after=half_squares(prediction_after - Y),
    )


def _numbers(name: str, values: Any, dims: int) -> np.ndarray:
    """`values` as a vector or, with dims 2, as a matrix; a single one as a vector of one for the bias."""
    array = np.array(values, dtype=np.float64)
    if dims == 1 or (name == "b" and array.size == 1):
        array = array.reshape(-1)
    elif array.ndim != dims:
        raise ValueError(f"{name} must be a matrix, given row by row (1 2; 3 4), got {values}")
    if not array.size:
        raise ValueError(f"{name} needs at least one value")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers, got {list(values)}")
    return array


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def _counts(sizes: Sequence[int], thing: str) -> str:
    return _count(sizes[0], thing) if len(sizes) == 1 else f"{_times(sizes)} {thing}s"


def _size(sizes: Sequence[int]) -> str:
    return f"length {sizes[0]}" if len(sizes) == 1 else f"size {_times(sizes)}"


# ---- notation: how names, numbers, products and sums are written


class _Plain:
    """For a terminal, in ASCII alone."""

    times, half, lr = "*", "1/2", "lr"

    def __init__(self, example: Example):
        e = example
        sizes = [np.abs(values).max() for values in (e.x, e.w, e.b, e.y)]
        # What is this small beside the terms that were added is a rounding error: 0.1 + 0.2 - 0.3 is written as 0.
        self._dust = np.finfo(np.float64).eps * (sizes[0] * sizes[1] * e.w.size + sizes[2] + sizes[3])
        # x12 is row 1, column 2; where a size has two digits it is written x1_2.
        self._columns = e.x.shape[-1]
        self._comma = "" if max(*e.x.shape, *e.w.shape, *e.y.shape) < 10 else "_"

    def number(self, value: float) -> str:
        return self.given(0.0 if abs(value) < self._dust else value)

    def given(self, value: float) -> str:
        """A number as the user gave it: ten digits, so that 61.064 is not written as 61.06400000000001."""
        return f"{value + 0.0:.10g}"

    def factor(self, value: float) -> str:
        """A number within a product, in brackets where it is negative."""
        text = self.number(value)
        return f"({text})" if text.startswith("-") else text

    def name(self, letter: str, index: Index | None = None, after: bool = False) -> str:
        """The name of an element; indices count from 0 in the program and from 1 on paper."""
        return letter + self._comma.join(str(i + 1) for i in index or ()) + ("'" if after else "")

    def derivative(self, name: str) -> str:
        return f"dE/d{name}"

    def running(self, letter: str, index: Sequence[str]) -> str:
        """A name with an index that is itself an expression."""
        letters = all(len(part) == 1 for part in index)
        return f"{letter}_{''.join(index)}" if letters else f"{letter}_({', '.join(index)})"

    def sum_over(self, index: Sequence[str], last: Sequence[int]) -> str:
        return f"sum over {', '.join(f'{i} = 1..{n}' for i, n in zip(index, last))} of "

    def sum_where(self, index: Sequence[str], conditions: Sequence[str]) -> str:
        return f"sum over all {', '.join(index)} with {' and '.join(conditions)} of "

    def window(self, index: Index) -> str:
        return f"position {index[0] + 1}" if len(index) == 1 else f"position {self.vector(i + 1 for i in index)}"

    def vector(self, parts: Iterable[Any]) -> str:
        return f"({', '.join(map(str, parts))})"

    def matrix(self, rows: Sequence[Sequence[str]]) -> str:
        return f"[{'; '.join(' '.join(row) for row in rows)}]"

    def math(self, formula: str) -> str:
        """A formula within a sentence."""
        return formula

    def block(self, chains: list[list[str]]) -> str:
        """Chains of equal expressions, one a line."""
        return "\n".join("  " + " = ".join(chain) for chain in chains)

    def section(self, title: str, words: str, chains: list[list[str]]) -> str:
        return f"{title}\n{'-' * len(title)}\n{textwrap.fill(words, 100)}\n\n{self.block(chains)}\n"

    def document(self, title: str, sections: list[str]) -> str:
        return "\n".join([title, "=" * len(title), "", *sections])


class _Math(_Plain):
    """Formulas in TeX's notation, for Markdown and LaTeX alike; amsmath is all that they need."""

    times, half, lr = r" \cdot ", r"\tfrac{1}{2}", r"\eta"
    line_width = 56  # characters; more would run off the page

    def given(self, value: float) -> str:
        mantissa, _, exponent = super().given(value).partition("e")
        return rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if exponent else mantissa

    def name(self, letter: str, index: Index | None = None, after: bool = False) -> str:
        numbers = ",".join(str(i + 1) for i in index or ())
        return letter + ("'" if after else "") + (f"_{{{numbers}}}" if numbers else "")

    def derivative(self, name: str) -> str:
        return rf"\frac{{\partial E}}{{\partial {name}}}"

    def running(self, letter: str, index: Sequence[str]) -> str:
        return f"{letter}_{{{', '.join(index)}}}"

    def sum_over(self, index: Sequence[str], last: Sequence[int]) -> str:
        return "".join(rf"\sum_{{{i}=1}}^{{{n}}} " for i, n in zip(index, last))

    def sum_where(self, index: Sequence[str], conditions: Sequence[str]) -> str:
        spaced = r",\,".join(index)
        return rf"\sum_{{{spaced}:\ " + r",\ ".join(conditions) + "} "

    def window(self, index: Index) -> str:
        return rf"\text{{{super().window(index)}}}"

    def matrix(self, rows: Sequence[Sequence[str]]) -> str:
        lines = r" \\ ".join(" & ".join(row) for row in rows)
        return rf"\begin{{pmatrix}} {lines} \end{{pmatrix}}"

    def math(self, formula: str) -> str:
        return f"${formula}$"

    def block(self, chains: list[list[str]]) -> str:
        lines = []
        for first, *rest in chains:
            if sum(map(self._width, rest)) < self.line_width * 2 // 3:
                lines.append(f"{first} &= {' = '.join(rest)}")
                continue
            line, *more = (self._broken(piece) for piece in rest)
            for piece in more:
                # A link gets a line of its own, but for a short value at the end.
                room = self._width(line.rpartition("\n")[2]) + self._width(piece) < self.line_width
                line += (" = " if room and (piece is more[-1] or len(rest) < 3) else " \\\\\n&= ") + piece
            lines.append(f"{first} &= {line}")
        return " \\\\\n".join(lines)

    @staticmethod
    def _width(formula: str) -> int:
        one_line = re.sub(
            r"\\begin{pmatrix}(.*?)\\end{pmatrix}", lambda matrix: max(matrix[1].split(r"\\"), key=len), formula
        )
        return len(re.sub(r"\\[a-z]+|[{}_^&\\]", "", one_line))

    def _broken(self, expression: str) -> str:
        """`expression` with line breaks before a plus or after a comma where it would run off the page."""
        lines = [""]
        for part in re.split(r"(?= \+ )|(?<=,)(?= )", expression):
            if lines[-1] and self._width(lines[-1]) + self._width(part) > self.line_width:
                lines.append("")
            lines[-1] += part
        return " \\\\\n&\\quad".join(lines)


class _Markdown(_Math):
    def section(self, title: str, words: str, chains: list[list[str]]) -> str:
        return f"## {title}\n\n{words}\n\n$$\n\\begin{{aligned}}\n{self.block(chains)}\n\\end{{aligned}}\n$$\n"

    def document(self, title: str, sections: list[str]) -> str:
        return "\n".join([f"# {title}\n", *sections])


class _Latex(_Math):
    def section(self, title: str, words: str, chains: list[list[str]]) -> str:
        return f"\\section*{{{title}}}\n{words}\n\\begin{{align*}}\n{self.block(chains)}\n\\end{{align*}}\n"

    def document(self, title: str, sections: list[str]) -> str:
        head = [r"\documentclass{article}", r"\usepackage{amsmath}", r"\allowdisplaybreaks"]
        if self._columns > 10:  # amsmath's limit
            head.append(rf"\setcounter{{MaxMatrixCols}}{{{self._columns}}}")
        head.append(r"\begin{document}")
        return "\n".join(
            [*head, rf"\begin{{center}}\Large {title}\end{{center}}", "", *sections, r"\end{document}", ""]
        )


_NOTATIONS = {"text": _Plain, "markdown": _Markdown, "latex": _Latex}


def render(example: Example, format: str = "text") -> str:
    """Every step of `example` with its formula, as ``"text"``, ``"markdown"`` or ``"latex"`` (a whole document).

    >>> print(render(compute()).splitlines()[0])
    One training step of a 1-D convolution
    """
    if format not in _NOTATIONS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    notation = _NOTATIONS[format](example)
    sections = [notation.section(*section) for section in _Derivation(example, notation).sections()]
    return notation.document(f"One training step of a {example.dims}-D convolution", sections)


@dataclass(frozen=True)
class _Gradient:
    """What is known of one parameter's gradient."""

    index: Index
    parameter: str
    names: str  # the sum as a formula
    numbers: str  # the same with the values put in
    value: float


class _Derivation:
    """The sections of the worked example: title, words, and chains of equal expressions."""

    def __init__(self, example: Example, notation: _Plain):
        self.e, self.m = example, notation
        self.outputs = list(np.ndindex(example.y.shape))
        self.padded = any(map(any, example.padding))

    def sections(self) -> list[tuple[str, str, list[list[str]]]]:
        e, m = self.e, self.m
        # The letters that count outputs, taps and elements of the input.
        i, k, j = ("i", "k", "j") if e.dims == 1 else ("ij", "kl", "mn")
        index = self._index(i, k)
        p_i, y_i, g_i, w_k = (m.running(letter, letters) for letter, letters in zip("pygw", (i, i, i, k)))
        b_i, x_ik = m.running("b", i) if e.untied else "b", m.running("x", index)
        conditions = [f"{part} = {letter}" for part, letter in zip(index, j)]
        forward = f"{p_i} = {b_i} + {m.sum_over(k, e.w.shape)}{w_k}{m.times}{x_ik}"
        by_output = f"{g_i} = {m.derivative(p_i)} = {p_i} - {y_i}"
        by_w = f"{m.derivative(w_k)} = {m.sum_over(i, e.y.shape)}{g_i}{m.times}{x_ik}"
        by_x = f"{m.derivative(m.running('x', j))} = {m.sum_where(i + k, conditions)}{g_i}{m.times}{w_k}"
        outside = f" Outside of {m.math('x')} there are zeros." if self.padded else ""
        of_w, of_b, of_x = self._by_kernel(), self._by_bias(), self._by_input()
        return [
            (
                "Given",
                f"Input {m.math('x')}, kernel {m.math('w')}, {'untied' if e.untied else 'shared'} bias {m.math('b')}, "
                f"targets {m.math('y')}, learning rate {m.math(m.lr)}.",
                [
                    ["x", self._array(e.x)],
                    ["w", self._array(e.w)],
                    ["b", self._array(e.b) if e.untied else m.number(e.b[0])],
                    ["y", self._array(e.y)],
                    [m.lr, m.given(e.lr)],
                ],
            ),
            (
                "Window positions",
                f"The kernel is laid on {m.math('x')},{self._around()} at {_counts(e.y.shape, 'window position')}, "
                f"{self._apart()} apart (the stride). At each of them it covers {_counts(e.w.shape, 'element')}.",
                self._windows(),
            ),
            (
                "Prediction",
                f"Each output is the bias plus the products of the kernel with its window: {m.math(forward)}.{outside}",
                self._forward(e.w, e.b, e.prediction),
            ),
            ("Loss", "Half of the sum of the squared errors.", [self._loss(e.prediction, e.loss)]),
            (
                "Gradient by the outputs",
                f"The 2 of the square cancels the half: {m.math(by_output)}.",
                [
                    [
                        m.name("g", output),
                        f"{m.name('p', output)} - {m.name('y', output)}",
                        f"{m.number(e.prediction[output])} - {m.factor(e.y[output])}",
                        m.number(e.grad_output[output]),
                    ]
                    for output in self.outputs
                ],
            ),
            (
                "Gradient by the kernel",
                f"A kernel element is used at every window position, so its gradient is a sum over them: "
                f"{m.math(by_w)}.{outside}",
                self._gradients(of_w),
            ),
            (
                "Gradient by the bias",
                "The bias is untied: each output has its own, so its gradient is that of its output alone."
                if e.untied
                else "The bias is shared: it enters every output once, so its gradient is the sum over the outputs.",
                self._gradients(of_b),
            ),
            (
                "Gradient by the input",
                f"Every window that covers it gives a share: {m.math(by_x)}. Nothing is updated "
                f"with it here; in a deeper network it is what the layer before receives.",
                self._gradients(of_x),
            ),
            (
                "Update",
                "One step against the gradient. The learning rate multiplies the whole sum, hence the brackets.",
                self._updates("w", of_w, e.w, e.w_after) + self._updates("b", of_b, e.b, e.b_after),
            ),
            (
                "After the update",
                self._outcome(),
                [
                    *self._forward(e.w_after, e.b_after, e.prediction_after, after=True),
                    self._loss(e.prediction_after, e.loss_after, after=True),
                ],
            ),
        ]

    def _index(self, outputs: str, taps: str) -> list[str]:
        """Which element of x a tap of a window reads, everything counted from 1, by the letters that count them."""
        parts = []
        for i, k, stride, (before, _) in zip(outputs, taps, self.e.stride, self.e.padding):
            parts.append(f"{i if stride == 1 else f'{stride}{i}'} + {k} - {stride + before}")
        return parts

    def _around(self) -> str:
        if not self.padded:
            return ""
        if self.e.dims == 1:
            ((before, after),) = self.e.padding
            return f" with {_count(before, 'zero')} put before it and {after} after it,"
        (top, bottom), (left, right) = self.e.padding
        return (
            f" with rows of zeros put around it ({top} above, {bottom} below) and columns ({left} left, {right} right),"
        )

    def _apart(self) -> str:
        if len(set(self.e.stride)) == 1:
            return str(self.e.stride[0])
        return f"{_count(self.e.stride[0], 'row')} and {_count(self.e.stride[1], 'column')}"

    def _array(self, values: np.ndarray) -> str:
        return self._written([self.m.number(value) for value in values.flat], values.shape)

    def _written(self, parts: list[str], shape: tuple[int, ...]) -> str:
        """A vector, or a matrix row by row."""
        if len(shape) == 1:
            return self.m.vector(parts)
        return self.m.matrix([parts[start : start + shape[1]] for start in range(0, len(parts), shape[1])])

    def _bias(self, index: Index, after: bool = False) -> str:
        return self.m.name("b", index if self.e.untied else None, after)

    def _products(self, terms: list[tuple[str, float, str, float]]) -> tuple[str, str]:
        """The sum of the products of (name, value, name, value), in names and in numbers."""
        m = self.m
        names = " + ".join(f"{a}{m.times}{b}" for a, _, b, _ in terms)
        numbers = " + ".join(f"{m.factor(a)}{m.times}{m.factor(b)}" for _, a, _, b in terms)
        return names or "0", numbers or "0"

    def _windows(self) -> list[list[str]]:
        e, m = self.e, self.m
        chains = []
        for i in self.outputs:
            read = dict(e.taps(i))
            cells = [read.get(k) for k in np.ndindex(e.w.shape)]
            names = ["0" if cell is None else m.name("x", cell) for cell in cells]
            values = ["0" if cell is None else m.number(e.x[cell]) for cell in cells]
            chains.append([m.window(i), *(self._written(parts, e.w.shape) for parts in (names, values))])
        return chains

    def _forward(self, w: np.ndarray, b: np.ndarray, p: np.ndarray, after: bool = False) -> list[list[str]]:
        e, m = self.e, self.m
        chains = []
        for i in self.outputs:
            names, numbers = self._products(
                [(m.name("w", k, after), w[k], m.name("x", j), e.x[j]) for k, j in e.taps(i)]
            )
            b_value = m.number(b[i] if e.untied else b[0])
            sums = [f"{self._bias(i, after)} + {names}", f"{b_value} + {numbers}"]
            chains.append([m.name("p", i, after), *sums, m.number(p[i])])
        return chains

    def _loss(self, p: np.ndarray, value: float, after: bool = False) -> list[str]:
        e, m = self.e, self.m
        names = [f"({m.name('p', i, after)} - {m.name('y', i)})^2" for i in self.outputs]
        numbers = [f"({m.number(p[i])} - {m.factor(e.y[i])})^2" for i in self.outputs]
        sums = [f"{m.half}{m.times}({' + '.join(terms)})" for terms in (names, numbers)]
        return [m.name("E", after=after), *sums, m.number(value)]

    def _by_kernel(self) -> list[_Gradient]:
        e, m = self.e, self.m
        found = []
        for k in np.ndindex(e.w.shape):
            uses = [(i, j) for i in self.outputs for tap, j in e.taps(i) if tap == k]
            terms = [(m.name("g", i), e.grad_output[i], m.name("x", j), e.x[j]) for i, j in uses]
            found.append(_Gradient(k, m.name("w", k), *self._products(terms), e.grad_w[k]))
        return found

    def _by_input(self) -> list[_Gradient]:
        e, m = self.e, self.m
        found = []
        for cell in np.ndindex(e.x.shape):
            uses = [(i, k) for i in self.outputs for k, j in e.taps(i) if j == cell]
            terms = [(m.name("g", i), e.grad_output[i], m.name("w", k), e.w[k]) for i, k in uses]
            found.append(_Gradient(cell, m.name("x", cell), *self._products(terms), e.grad_x[cell]))
        return found

    def _by_bias(self) -> list[_Gradient]:
        e, m = self.e, self.m
        found = []
        for n in np.ndindex(e.b.shape):
            uses = [n] if e.untied else self.outputs
            names = " + ".join(m.name("g", i) for i in uses)
            numbers = " + ".join(m.factor(e.grad_output[i]) for i in uses)
            found.append(_Gradient(n, self._bias(n), names, numbers, e.grad_b[n]))
        return found

    def _gradients(self, found: list[_Gradient]) -> list[list[str]]:
        m = self.m
        return [_chain(m.derivative(g.parameter), g.names, g.numbers, m.number(g.value)) for g in found]

    def _updates(self, letter: str, found: list[_Gradient], old: np.ndarray, new: np.ndarray) -> list[list[str]]:
        m = self.m
        lr = m.given(self.e.lr) if self.e.lr >= 0 else f"({m.given(self.e.lr)})"
        chains = []
        for g in found:
            before = m.number(old[g.index])
            names, numbers = (f"({terms})" if " + " in terms else terms for terms in (g.names, g.numbers))
            chains.append(
                _chain(
                    self._bias(g.index, after=True) if letter == "b" else m.name(letter, g.index, after=True),
                    f"{g.parameter} - {m.lr}{m.times}{names}",
                    f"{before} - {lr}{m.times}{numbers}",
                    f"{before} - {lr}{m.times}{m.factor(g.value)}",
                    m.number(new[g.index]),
                )
            )
        return chains

    def _outcome(self) -> str:
        e, m = self.e, self.m
        if e.loss_after == e.loss:
            return f"The same input again: the loss stays at {m.math(m.number(e.loss))}."
        before, after = m.math(m.number(e.loss)), m.math(m.number(e.loss_after))
        if e.loss_after < e.loss:
            return f"The same input again: the loss falls from {before} to {after}."
        why = "the learning rate is negative" if e.lr < 0 else "the learning rate is too large"
        return f"The same input again: the loss rises from {before} to {after}; {why}."


def _chain(*links: str) -> list[str]:
    """The links of a chain of equations, less those that repeat the one before them."""
    return [link for i, link in enumerate(links) if i == 0 or link != links[i - 1]]
