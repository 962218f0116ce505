"""The learner's check: each typical mistake, made in code as a learner writes it, is named; nothing makes it crash."""

from __future__ import annotations

import sys
from collections import namedtuple
from typing import Any

import numpy as np
import pytest

import fastconv as fc
from fastconv.testing import Finding, Report, check_conv
from fastconv.testing.calls import gradient_named
from fastconv.testing.diagnosis import diagnose, same
from fastconv.testing.mistakes import CATALOGUE, result
from fastconv.testing.trials import LAYOUTS, TERMS, trials

# A convolution as one writes it from the formulas. The mistakes below are made in it by exchanging a piece of text.
CONV1D = """
def conv1d(x, w, b, stride=1, padding=0, dilation=1, groups=1):
    N, C, L = x.shape
    K, Cg, S = w.shape
    before = after = padding
    if padding == "same":
        before = dilation * (S - 1) // 2
        after = dilation * (S - 1) - before
    x = np.pad(x, ((0, 0), (0, 0), (before, after)))
    Q = (L + before + after - dilation * (S - 1) - 1) // stride + 1
    y = np.zeros((N, K, Q))
    for n in range(N):
        for k in range(K):
            first = k // (K // groups) * Cg
            for q in range(Q):
                total = 0.0
                for c in range(Cg):
                    for s in range(S):
                        total += w[k, c, s] * x[n, first + c, q * stride + s * dilation]
                y[n, k, q] = total + b[k]
    return y


def backward(gy, x, w, stride=1, padding=0, dilation=1, groups=1):
    N, C, L = x.shape
    K, Cg, S = w.shape
    Q = gy.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
    gx, gw, gb = np.zeros(x.shape), np.zeros(w.shape), np.zeros(K)
    for n in range(N):
        for k in range(K):
            first = k // (K // groups) * Cg
            for q in range(Q):
                gb[k] += gy[n, k, q]
                for c in range(Cg):
                    for s in range(S):
                        gw[k, c, s] += gy[n, k, q] * x[n, first + c, q * stride + s * dilation]
                        gx[n, first + c, q * stride + s * dilation] += gy[n, k, q] * w[k, c, s]
    gx = gx[:, :, padding : padding + L]
    return gx, gw, gb
"""

CONV2D = """
def conv2d(image, kernel, bias=None, stride=(1, 1), pad=0):
    sh, sw = (stride, stride) if isinstance(stride, int) else stride
    ph, pw = (pad, pad) if isinstance(pad, int) else pad
    image = np.pad(image, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    windows = np.lib.stride_tricks.sliding_window_view(image, kernel.shape[2:], axis=(2, 3))
    windows = windows[:, :, ::sh, ::sw]
    y = np.einsum("kcrs,ncpqrs->nkpq", kernel, windows)
    if bias is not None:
        y = y + bias[:, None, None]
    return y


def backward(grad, image, kernel, stride=(1, 1), pad=0):
    sh, sw = (stride, stride) if isinstance(stride, int) else stride
    ph, pw = (pad, pad) if isinstance(pad, int) else pad
    N, C, H, W = image.shape
    K, C, R, S = kernel.shape
    P, Q = grad.shape[2:]
    image = np.pad(image, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    grad_image = np.zeros(image.shape)
    grad_kernel = np.zeros(kernel.shape)
    for r in range(R):
        for s in range(S):
            rows, columns = slice(r, r + P * sh, sh), slice(s, s + Q * sw, sw)
            seen = image[:, :, rows, columns][:, :, :P, :Q]
            grad_kernel[:, :, r, s] = np.einsum("nkpq,ncpq->kc", grad, seen)
            grad_image[:, :, rows, columns][:, :, :P, :Q] += np.einsum("nkpq,kc->ncpq", grad, kernel[:, :, r, s])
    grad_image = grad_image[:, :, ph : ph + H, pw : pw + W]
    return {"dkernel": grad_kernel, "db": grad.sum(axis=(0, 2, 3)), "dimage": grad_image}
"""

# As on the homework sheet: one channel, a number for a bias.
HOMEWORK = """
def conv1d(x, w, b, stride=1):
    y = []
    for i in range(0, len(x) - len(w) + 1, stride):
        y.append(np.sum(x[i : i + len(w)] * w) + b)
    return np.array(y)


def backward(x, w, b, grad, stride=1):
    grad_x, grad_w = np.zeros(len(x)), np.zeros(len(w))
    for i in range(len(grad)):
        grad_w += grad[i] * x[i * stride : i * stride + len(w)]
        grad_x[i * stride : i * stride + len(w)] += grad[i] * w
    return grad_w, np.sum(grad), grad_x
"""


def code(source: str, *changes: str) -> tuple[Any, Any]:
    """The functions of `source`, with each pair of texts exchanged; the first must be there."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in source, old
        source = source.replace(old, new)
    namespace: dict[str, Any] = {"np": np}
    exec(source, namespace)
    return namespace.get("conv1d") or namespace["conv2d"], namespace["backward"]


@pytest.mark.parametrize(
    ("source", "layout"), [(CONV1D, "(N, C, L)"), (CONV2D, "(N, C, H, W)"), (HOMEWORK, "(L,)")], ids=str.split
)
def test_right_code_is_right(source: str, layout: str) -> None:
    report = check_conv(*code(source))
    assert report.ok, report
    assert report.problems == ()
    assert report.layout == layout
    assert set(report.cases) == set(TERMS)
    assert min(report.cases.values()) >= 8


FORWARD_SUM = "w[k, c, s] * x[n, first + c, q * stride + s * dilation]"
WEIGHT_SUM = "gy[n, k, q] * x[n, first + c, q * stride + s * dilation]"
INPUT_SUM = "gx[n, first + c, q * stride + s * dilation] += gy[n, k, q] * w[k, c, s]"
CHANNELS = "for c in range(Cg):\n                    for s in range(S):\n                        "
GROUP = "first = k // (K // groups) * Cg\n            for q in range(Q):\n                "
LENGTH = "Q = (L + before + after - dilation * (S - 1) - 1) // stride + 1"

IN_1D = [
    ("forward: kernel flipped", FORWARD_SUM, FORWARD_SUM.replace("c, s]", "c, S - 1 - s]")),
    ("forward: stride ignored", LENGTH, "stride = 1; " + LENGTH),
    ("forward: dilation ignored", LENGTH, "dilation = 1; " + LENGTH),
    ("forward: stride and dilation exchanged", LENGTH, "stride, dilation = dilation, stride; " + LENGTH),
    ("forward: dilation taken for the gap", LENGTH, "dilation += S > 1; " + LENGTH),
    ("forward: padding ignored", "before = after = padding", "before = after = 0 if padding != 'same' else 0",
     "padding == \"same\":", "False:"),
    ("forward: 'same' padding on the wrong side",
     "before = dilation * (S - 1) // 2", "before = (dilation * (S - 1) + 1) // 2"),
    ("forward: all padding before the input", "(before, after)))", "(before + after, 0)))"),
    ("forward: padding before the input alone", "before = after = padding", "before, after = padding, 0",
     "after = dilation * (S - 1) - before", "after = 0"),
    ("forward: padded with the border's values", "(before, after)))", "(before, after)), mode='edge')"),
    ("forward: last output missing (off by one)", "return y\n", "return y[:, :, :-1]\n"),
    ("forward: last output missing (off by one)", LENGTH, LENGTH.replace("stride + 1", "stride")),
    ("forward: one output too many (off by one)", "y = np.zeros((N, K, Q))", "y = np.zeros((N, K, Q + 1))"),
    ("forward: bias forgotten", "total + b[k]", "total"),
    ("forward: bias added per position", "total + b[k]", "total", "return y\n", "return y + b\n"),
    ("forward: bias added per position", "y[n, k, q] = total + b[k]", "y[n, k, q] += total; y[n, k] += b[k]"),
    ("forward: bias added per tap", "total + b[k]", "total + S * b[k]"),
    ("forward: bias added per tap and input channel", "total += ", "total += b[k] + ", "total + b[k]", "total"),
    ("forward: groups mixed", GROUP + "total",
     GROUP.replace("k // (K // groups)", "k % groups") + "total"),
    ("forward: groups ignored", GROUP + "total",
     GROUP.replace("k // (K // groups) * Cg", "0") + "total"),
    ("forward: weight channels transposed", FORWARD_SUM, FORWARD_SUM.replace("w[k, c, s]", "w[c, k, s]")),
    ("forward: first input channel alone", CHANNELS + "total",
     CHANNELS.replace("Cg", "1") + "total"),
    ("forward: averaged over the taps", "total + b[k]", "total / S + b[k]"),
    ("forward: factor 2 too much", "return y\n", "return 2 * y\n"),
    ("forward: rounded to float32", "total = 0.0", "total = np.float32(0.0)",
     "total += ", "total = np.float32(total) + np.float32(1) * "),
    ("forward: cut to whole numbers", "return y\n", "return y.astype(int).astype(float)\n"),
    ("forward: right numbers in the wrong shape", "return y\n", "return y.ravel()\n"),
    ("forward: axes in the wrong order", "return y\n", "return y.transpose(0, 2, 1)\n"),
    ("grad_weight: kernel flipped", "return gx, gw, gb", "return gx, gw[:, :, ::-1], gb"),
    ("grad_weight: stride ignored", WEIGHT_SUM, WEIGHT_SUM.replace("q * stride", "q")),
    ("grad_weight: dilation ignored", WEIGHT_SUM, WEIGHT_SUM.replace("s * dilation", "s")),
    ("grad_weight: stride and dilation exchanged", WEIGHT_SUM,
     "gy[n, k, q] * (x[n, first + c, q * dilation + s * stride]"
     " if q * dilation + s * stride < x.shape[2] else 0)"),
    ("grad_weight: padding forgotten", WEIGHT_SUM,
     "gy[n, k, q] * np.append(x[n, first + c], np.zeros(2 * padding))[padding + q * stride + s * dilation]"),
    ("grad_weight: averaged over the batch", "return gx, gw, gb", "return gx, gw / N, gb"),
    ("grad_weight: averaged over the positions", "return gx, gw, gb", "return gx, gw / Q, gb"),
    ("grad_weight: last image alone", GROUP + "gb",
     "gw[k] = 0; " + GROUP + "gb"),
    ("grad_weight: last position alone", "gb[k] += gy[n, k, q]", "gb[k] += gy[n, k, q]; gw[k] *= q > 0 or n > 0",
     "gw[k, c, s] +=", "gw[k, c, s] += (q == Q - 1) *"),
    ("grad_weight: channels transposed", "return gx, gw, gb", "return gx, gw.swapaxes(0, 1), gb"),
    ("grad_weight: factor 2 too much", "return gx, gw, gb", "return gx, 2 * gw, gb"),
    ("grad_weight: groups mixed", WEIGHT_SUM, WEIGHT_SUM.replace("first + c", "k % groups * Cg + c")),
    ("grad_input: kernel not flipped", INPUT_SUM, INPUT_SUM.replace("c, s]", "c, S - 1 - s]")),
    ("grad_input: stride ignored", INPUT_SUM, INPUT_SUM.replace("q * stride", "q")),
    ("grad_input: dilation ignored", INPUT_SUM, INPUT_SUM.replace("s * dilation", "s")),
    ("grad_input: padding cropped on the wrong side", "gx[:, :, padding : padding + L]", "gx[:, :, 2 * padding :]"),
    ("grad_input: padding ignored", "gx[:, :, padding : padding + L]", "gx[:, :, :L]"),
    ("grad_input: padding not cropped", "gx = gx[:, :, padding : padding + L]", ""),
    ("grad_input: assigned, not added", INPUT_SUM,
     "gx[n, first + c, q * stride + s * dilation] = (gx[n, first + c, q * stride + s * dilation] if k % (K // groups)"
     " and s < 0 else 0) + sum(gy[n, j, q] * w[j, c, s] for j in range(k // (K // groups) * (K // groups),"
     " (k // (K // groups) + 1) * (K // groups)))"),
    ("grad_input: groups mixed", INPUT_SUM, INPUT_SUM.replace("first + c", "k % groups * Cg + c")),
    ("grad_input: averaged over the batch", "return gx, gw, gb", "return gx / N, gw, gb"),
    ("grad_input: summed over the batch", "return gx, gw, gb", "return gx.sum(axis=0) + 0 * gx, gw, gb"),
    ("grad_input: sign wrong", "return gx, gw, gb", "return -gx, gw, gb"),
    ("grad_bias: not summed over the positions", "return gx, gw, gb", "return gx, gw, gy.sum(axis=0)"),
    ("grad_bias: not summed over the batch", "return gx, gw, gb", "return gx, gw, gy.sum(axis=2)"),
    ("grad_bias: not summed at all", "return gx, gw, gb", "return gx, gw, gy"),
    ("grad_bias: averaged over the batch", "return gx, gw, gb", "return gx, gw, gb / N"),
    ("grad_bias: averaged over batch and positions", "return gx, gw, gb", "return gx, gw, gy.mean(axis=(0, 2))"),
    ("grad_bias: summed over the channels", "return gx, gw, gb", "return gx, gw, np.full(K, gb.sum())"),
    ("grad_bias: last position alone", "return gx, gw, gb", "return gx, gw, gy[:, :, -1].sum(axis=0)"),
]  # fmt: skip

IN_2D = [
    ("forward: kernel flipped", "kernel, windows)", "kernel[:, :, ::-1, ::-1], windows)"),
    ("forward: kernel flipped along the rows", "kernel, windows)", "kernel[:, :, ::-1], windows)"),
    ("forward: stride of rows and columns exchanged", "[:, :, ::sh, ::sw]", "[:, :, ::sw, ::sh]"),
    ("forward: padding of rows and columns exchanged",
     "(ph, ph), (pw, pw)))\n    windows", "(pw, pw), (ph, ph)))\n    windows"),
    ("forward: bias added per position", "y + bias[:, None, None]", "y + bias"),
    ("grad_input: kernel not flipped", "kernel[:, :, r, s])", "kernel[:, :, R - 1 - r, S - 1 - s])"),
    ("grad_input: padding cropped on the wrong side", "ph : ph + H, pw : pw + W", "2 * ph :, 2 * pw :"),
    ("grad_weight: kernel flipped", '"dkernel": grad_kernel', '"dkernel": grad_kernel[:, :, ::-1, ::-1]'),
    ("grad_weight: stride ignored",
     "image[:, :, rows, columns][:, :, :P, :Q]\n", "image[:, :, r : r + P, s : s + Q]\n"),
    ("grad_bias: not summed over the positions", "grad.sum(axis=(0, 2, 3))", "grad.sum(axis=0)"),
]  # fmt: skip

AT_HOME = [
    ("forward: kernel flipped", "* w) + b", "* w[::-1]) + b"),
    ("forward: last output missing (off by one)", "len(x) - len(w) + 1, stride", "len(x) - len(w), stride"),
    ("forward: bias added per tap", "np.sum(x[i : i + len(w)] * w) + b", "np.sum(x[i : i + len(w)] * w + b)"),
    ("forward: averaged over the kernel", "np.sum(x[i : i + len(w)] * w)", "np.mean(x[i : i + len(w)] * w)"),
    ("grad_input: kernel not flipped", "grad[i] * w\n", "grad[i] * w[::-1]\n"),
    ("grad_input: assigned, not added", "i * stride + len(w)] += ", "i * stride + len(w)] = "),
    ("grad_weight: stride ignored", "x[i * stride : i * stride + len(w)]\n", "x[i : i + len(w)]\n"),
    ("grad_weight: last position alone", "grad_w += ", "grad_w = "),
    ("grad_bias: not summed over the positions", "np.sum(grad)", "grad"),
    ("grad_bias: averaged over the positions", "np.sum(grad)", "np.mean(grad)"),
]

MISTAKES = [
    (source, *mistake)
    for source, mistakes in ((CONV1D, IN_1D), (CONV2D, IN_2D), (HOMEWORK, AT_HOME))
    for mistake in mistakes
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m[1])
def test_a_typical_mistake_is_named(mistake: tuple[str, ...]) -> None:
    source, diagnosis, *changes = mistake
    report = check_conv(*code(source, *changes))
    assert not report
    assert str(report.problems[0]) == diagnosis, report
    assert {finding.term for finding in report.problems} == {diagnosis.partition(":")[0]}
    assert diagnosis.partition(": ")[2] in str(report)


def test_there_are_enough_different_mistakes() -> None:
    assert len({mistake[1] for mistake in MISTAKES}) >= 50


def test_two_mistakes_at_once_are_both_named() -> None:
    flipped = FORWARD_SUM.replace("c, s]", "c, S - 1 - s]")
    (finding,) = check_conv(code(CONV1D, FORWARD_SUM, flipped, "total + b[k]", "total + S * b[k]")[0]).problems
    assert finding.diagnosis == "kernel flipped, bias added per tap"


def test_three_mistakes_at_once_name_the_first() -> None:
    changes = (
        "* w) + b",
        "* w[::-1]) + b",
        "+ 1, stride",
        ", stride",
        "return np.array(y)",
        "return np.array(y) * len(x)",
    )
    (finding,) = check_conv(code(HOMEWORK, *changes)[0]).problems
    assert finding.diagnosis in ("wrong shape", "wrong numbers")
    changes = ("* w) + b", "* w[::-1]) + b", "return np.array(y)", "return np.array(y) * (1 + (stride > 1) * len(x))")
    (finding,) = check_conv(code(HOMEWORK, *changes)[0]).problems
    assert finding.diagnosis == "kernel flipped, and more"
    assert "of the" in finding.explanation


def test_mistakes_in_every_term_come_in_order() -> None:
    changes = ("return gx, gw, gb", "return -gx, gw[:, :, ::-1], gy", "return y\n", "return 2 * y\n")
    problems = check_conv(*code(CONV1D, *changes)).problems
    assert [finding.term for finding in problems] == list(TERMS)


def test_unknown_numbers_come_with_the_smallest_case() -> None:
    report = check_conv(code(CONV1D, "total + b[k]", "total + b[k] + (dilation > 1) * 0.125")[0])
    (finding,) = report.problems
    assert finding.diagnosis == "wrong numbers"
    assert "Exactly the cases with a dilation above 1 fail." in finding.explanation
    assert isinstance(finding.expected, np.ndarray)
    np.testing.assert_allclose(finding.got, finding.expected + 0.125)
    assert finding.geometry["dilation"] > 1
    given = {**finding.arguments, **{k: v for k, v in finding.geometry.items() if k not in "xwb"}}
    np.testing.assert_allclose(fc.conv1d(input=given.pop("x"), weight=given.pop("w"), bias=given.pop("b"), **given),
                               finding.expected)  # fmt: skip
    text = str(report)
    assert "dilation=" in text
    assert "expected    = [[[" in text
    assert "got         = [[[" in text


# ---- whatever a function does is a finding


def correct(x: Any, w: Any) -> Any:
    return np.correlate(x, w, "valid")


def raises(x: Any, w: Any) -> Any:
    raise RuntimeError("lost my notes")


def leaves(x: Any, w: Any) -> Any:
    sys.exit(1)


def recurses(x: Any, w: Any) -> Any:
    return recurses(x, w)


def changes_x(x: Any, w: Any) -> Any:
    y = correct(x, w)
    x += 1
    return y


def changes_w(x: Any, w: Any) -> Any:
    y = correct(x, w)
    w[...] = 0
    return y


def leaves_nan(x: Any, w: Any) -> Any:
    y = correct(x, w)
    y[-1:] = np.nan
    return y


class Accumulates:
    def __init__(self) -> None:
        self.kept: dict[Any, Any] = {}

    def __call__(self, x: Any, w: Any) -> Any:
        kept = self.kept.setdefault((x.tobytes(), w.tobytes()), np.zeros(len(x) - len(w) + 1))
        kept += correct(x, w)
        return kept


class Reuses:
    def __init__(self) -> None:
        self.buffers: dict[int, Any] = {}

    def __call__(self, x: Any, w: Any) -> Any:
        buffer = self.buffers.setdefault(len(x) - len(w) + 1, np.zeros(len(x) - len(w) + 1))
        buffer[...] = correct(x, w)
        if len(self.buffers) > 1:
            buffer[0] += 0
        return buffer


class Flickers:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Any, w: Any) -> Any:
        self.calls += 1
        return correct(x, w) + self.calls


class Thorny:
    def __array__(self, *how: Any, **more: Any) -> Any:
        raise RuntimeError("do not touch")


@pytest.mark.parametrize(
    ("forward", "diagnosis", "explanation"),
    [
        (raises, "raises RuntimeError", "lost my notes\nin line "),
        (leaves, "raises SystemExit", "1"),
        (recurses, "raises RecursionError", "recursion"),
        (changes_x, "changes its argument x", "copy"),
        (changes_w, "changes its argument w", "copy"),
        (leaves_nan, "NaN or infinity in the result", "np.empty()"),
        (Accumulates(), "adds to the result of the call before", "+="),
        (Flickers(), "differs from call to call", "another result"),
        (lambda x, w: None, "returns None", "return statement"),
        (lambda x, w: correct(x, w).tolist(), "returns a list", "np.array"),
        (lambda x, w: "seven", "returns a str", "NumPy array"),
        (lambda x, w: object(), "returns a object", "NumPy array"),
        (lambda x, w: [[1], [2, 3]], "returns a list", "NumPy array"),
        (lambda x, w: {"y": correct(x, w)}, "returns a dict", "NumPy array"),
        (lambda x, w: np.array(["a", "b"]), "returns a ndarray", "NumPy array"),
        (lambda x, w: correct(x, w).astype(int), "result has dtype int64", "fractions"),
        (lambda x, w: correct(x, w).astype(np.float32), "result has dtype float32", "digits"),
        (lambda x, w: correct(x, w).astype(np.float16), "result has dtype float16", "digits"),
        (lambda x, w: correct(x, w) + 0j, "result is complex", "real part"),
        (lambda x, w: correct(x, w) * 1j, "result is complex", "real part"),
        (lambda x, w: correct(x, w)[:0], "wrong shape", "The shape is (0,)"),
        (lambda x, w: 3.0, "wrong shape", "The shape is ()"),
        (lambda x, w: correct(x, w) * 10**400, "raises OverflowError", "int too large"),
        (lambda x, w: Thorny(), "returns a Thorny", "NumPy array"),
        (lambda x, w: (value for value in x), "returns a generator", "NumPy array"),
        (lambda x, w: (correct(x, w), x), "returns a tuple", "NumPy array"),
        (lambda x, w: x.resize(2, refcheck=False), "changes its argument x", "copy"),
    ],
)
def test_whatever_a_function_does_is_a_finding(forward: Any, diagnosis: str, explanation: str) -> None:
    report = check_conv(forward, dims=1, layout="plain")
    assert not report.ok
    first = report.problems[0]
    assert first.diagnosis == diagnosis, report
    assert explanation in first.explanation
    assert str(report).count("\n") > 3
    with pytest.raises(AssertionError, match=diagnosis):
        check_conv(forward, dims=1, layout="plain", raise_on_error=True)


def test_a_result_that_the_next_call_overwrites_is_a_finding() -> None:
    (finding,) = check_conv(Reuses(), dims=1, layout="plain").problems
    assert finding.diagnosis == "returns the same array each time"


@pytest.mark.parametrize(
    ("backward", "diagnosis"),
    [
        (lambda grad, x, w: None, "backward: returns nothing"),
        (lambda grad, x, w: {}, "backward: returns nothing"),
        (lambda grad, x, w: {"loss": 3}, "backward: returns nothing"),
        (lambda grad, x, w: (), "backward: returns nothing"),
        (lambda grad, x, w: x.no_such_thing, "backward: raises AttributeError"),
        (lambda grad, x, w: (np.convolve(grad, w), np.correlate(x, grad, "valid"), "much"), "grad_bias: returns a str"),
        (lambda grad, x, w: (np.convolve(grad, w), np.correlate(x, grad, "valid"), int(grad.sum())),
         "grad_bias: returns a int"),
        (lambda grad, x, w: {"dw": np.correlate(x, grad, "valid") if len(x) > 4 else None}, "grad_weight: missing"),
        (lambda grad, x, w: (grad.fill(0), np.zeros(3))[1], "backward: changes its argument grad_output"),
    ],
)  # fmt: skip
def test_whatever_a_backward_function_does_is_a_finding(backward: Any, diagnosis: str) -> None:
    report = check_conv(correct, backward)
    assert diagnosis in [str(finding) for finding in report.problems], report


# ---- signatures and returned values


def gradients(grad: Any, x: Any, w: Any) -> tuple[Any, Any, Any]:
    return np.convolve(grad, w), np.correlate(x, grad, "valid"), grad.sum()


Gradients = namedtuple("Gradients", "grad_input grad_weight grad_bias")


def keyword_alone(*, kernel: Any, signal: Any) -> Any:
    return correct(signal, kernel)


def by_position(first: Any, second: Any, /) -> Any:
    return correct(first, second)


def any_number(*arrays: Any, **options: Any) -> Any:
    return correct(*arrays)


def bias_before_weight(b: Any, x: Any, w: Any) -> Any:
    return correct(x, w) + b


def bias_needs_an_array(x: Any, w: Any, b: Any) -> Any:
    return correct(x, w) + b[0]


def two_letters(a: Any, b: Any) -> Any:
    return correct(a, b)


def letters(f: Any, g: Any) -> Any:
    return correct(f, g)


def s_is_no_stride(s: Any, k: Any) -> Any:
    return correct(s, k)


def padding_in_words(x: Any, w: Any, mode: Any = None, padding: Any = "valid") -> Any:
    before, after = {"same": ((len(w) - 1) // 2, len(w) // 2), "valid": (0, 0)}[padding]
    return correct(np.pad(x, (before, after)), w)


@pytest.mark.parametrize(
    "forward",
    [
        correct,
        keyword_alone,
        by_position,
        any_number,
        bias_before_weight,
        bias_needs_an_array,
        two_letters,
        letters,
        s_is_no_stride,
        padding_in_words,
    ],
    ids=lambda f: f.__name__,
)
def test_signatures_of_forward(forward: Any) -> None:
    report = check_conv(forward)
    assert report.ok, report
    assert report.layout == "(L,)"


@pytest.mark.parametrize(
    "backward",
    [
        gradients,
        lambda x, w, grad: gradients(grad, x, w)[::-1],
        lambda w, x, dout: gradients(dout, x, w)[1:],
        lambda delta, x, w: gradients(delta, x, w)[1],
        lambda upstream, x, w: [*gradients(upstream, x, w)],
        lambda gy, x, w: {"dx": gradients(gy, x, w)[0], "dL_dw": gradients(gy, x, w)[1], "note": "done"},
        lambda g, x, w: Gradients(*gradients(g, x, w)),
        lambda g, x, w: (gradients(g, x, w)[0], None, gradients(g, x, w)[2]),
        lambda g, x, w: (*gradients(g, x, w)[:2], np.array([g.sum()])),
        lambda a0, a1, a2: gradients(a0, a1, a2),
        lambda g, x, w, b: (*gradients(g, x, w)[:2], gradients(g, x, w)[2] + 0 * b),
    ],
)
def test_signatures_and_results_of_backward(backward: Any) -> None:
    report = check_conv(correct, backward)
    assert report.ok, report
    assert any(term in report.cases for term in TERMS[1:])


def test_backward_alone_and_one_gradient_alone() -> None:
    assert check_conv(None, gradients).ok
    assert check_conv(None, lambda dy, x, w: np.correlate(x, dy, "valid"), returns=["dw"]).ok
    assert check_conv(None, fc.grad.conv2d_input, dims=2).cases == {"grad_input": 39}
    assert check_conv(None, fc.grad.conv1d_weight).cases == {"grad_weight": 33}
    (finding,) = check_conv(None, lambda dy, x, w: dy, layout="plain", returns=["grad_bias"]).problems
    assert str(finding) == "grad_bias: not summed over the positions"


@pytest.mark.parametrize(
    ("term", "names"),
    [
        ("grad_input", "x dx dX grad_x gx dL_dx dL/dx dE_dx grad_input input_grad dimage d_inputs gradient_x"),
        ("grad_weight", "w dw dW grad_w gw dL_dw dloss_dw weights_gradient grad_kernel dkernel filter_grad dweights"),
        ("grad_bias", "b db dB grad_b gb bias_grad dbias d_bias grad_wrt_bias"),
        (None, "y loss dy gradient grad d"),
    ],
)
def test_names_of_gradients(term: str | None, names: str) -> None:
    for name in names.split():
        assert gradient_named(name) == term, name


def test_names_can_be_given() -> None:
    def odd(taps: Any, sound: Any, hop_by: int = 1) -> Any:
        return correct(sound, taps)[::hop_by]

    report = check_conv(odd, names={"taps": "w", "sound": "x", "hop_by": "stride"})
    assert report.ok, report
    assert not any("stride" in note for note in report.notes)


def test_the_library_itself_is_right() -> None:
    for dims in (1, 2):
        for layout in LAYOUTS[:2]:
            forward, backward = getattr(fc, f"conv{dims}d"), getattr(fc, f"conv{dims}d_backward")
            report = check_conv(forward, backward, dims=dims, layout=layout)
            assert report.ok, report
            assert min(report.cases.values()) > 20


def test_an_untied_bias() -> None:
    def forward(x: Any, w: Any, b: Any) -> Any:
        return correct(x, w) + b

    def backward(grad: Any, x: Any, w: Any) -> Any:
        return {"db": grad}

    assert check_conv(forward, backward, untied_bias=True).ok
    (finding,) = check_conv(forward, lambda grad, x, w: {"db": grad.sum()}, untied_bias=True).problems
    assert str(finding) == "grad_bias: summed over the positions"


def test_a_function_of_other_arrays_is_told_what_was_tried() -> None:
    def rows(x: Any, w: Any) -> Any:
        return np.stack([correct(row, w) for row in x])

    explanation = check_conv(rows).problems[0].explanation
    assert "Every kind of input was tried: (N, C, L), (C, L), (L,), (N, C, H, W)" in explanation


def test_what_is_not_tested_is_said() -> None:
    report = check_conv(code(CONV2D)[0])
    text = str(report)
    assert "Not tested: dilation, groups (forward has no such parameter)." in text
    assert "padding 'same' (forward does not take it)" in text
    assert check_conv(correct).notes == ("stride, padding, dilation, groups (forward has no such parameter)",)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None,), ValueError, "nothing to check"),
        ((3,), TypeError, "forward must be a function, got int"),
        ((correct, "gradient"), TypeError, "backward must be a function, got str"),
        ((lambda x, w, b, cache, more: 0,), TypeError, "what is its parameter 'cache'"),
        ((lambda: 0,), TypeError, "has no parameter for the"),
    ],
)
def test_what_cannot_be_understood_is_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_conv(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 3}, "dims must be 1 or 2"),
        ({"layout": "rows"}, "layout must be one of batched"),
        ({"returns": ["slope"]}, "'slope' is none of grad_input"),
        ({"names": {"x": "signal"}}, "'signal' is no role"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_conv(correct, **options)


# ---- the report and the catalogue


def test_the_report() -> None:
    report = check_conv(*code(HOMEWORK, "grad[i] * w\n", "grad[i] * w[::-1]\n"))
    assert isinstance(report, Report)
    assert isinstance(report.problems[0], Finding)
    assert repr(report) == str(report)
    assert str(report).startswith("check_conv: look at grad_input first (input (L,))")
    assert max(map(len, str(report).splitlines())) <= 104
    assert str(check_conv(correct)).startswith("check_conv: all right (input (L,))")


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("term", TERMS)
def test_every_mistake_of_the_catalogue_is_told_from_the_others(term: str, axes: int) -> None:
    """What a mistake computes is diagnosed as that mistake, wherever it makes a difference."""
    different = 0
    for mistake in CATALOGUE[term]:
        results = []
        for trial in trials(axes, "batched", "shared"):
            try:
                results.append((trial, trial.shown(term, result([mistake], trial.convolution))))
            except ValueError:
                continue
        assert results
        if all(same(got, trial.right[term]) for trial, got in results):
            continue
        different += 1
        if axes == 2 or not any(word in mistake.name for word in ("rows", "columns")):  # there are no rows in 1-D
            assert diagnose(term, results)[0] == mistake.name
    assert different >= 12


def test_cases_are_all_different_and_small() -> None:
    for axes in (1, 2):
        for layout in LAYOUTS:
            every = trials(axes, layout, "shared")
            assert len(set(every)) == len(every)
            assert all(trial.numbers < 1000 for trial in every)
            assert all(trial.convolution.geometry(trial.convolution.plane()).P >= 1 for trial in every)
