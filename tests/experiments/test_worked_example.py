"""The worked example: the homework's numbers from every backend, and formulas that give the numbers beside them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv.experiments import worked_example
from fastconv.experiments.worked_example import compute, render

HOMEWORK = {
    "prediction": [14, 20],
    "loss": 200,
    "grad_output": [12, 16],
    "grad_w": [44, 72, 100],
    "grad_x": [24, 44, 52, 48],
    "w_after": [1.56, 0.28, 2],
}
SHARED = {**HOMEWORK, "grad_b": [28], "b_after": [0.72], "prediction_after": [8.84, 12.68], "loss_after": 61.064}
UNTIED = {**HOMEWORK, "grad_b": [12, 16], "b_after": [0.88, 0.84], "prediction_after": [9, 12.8], "loss_after": 63.22}

# Arguments of compute: signs, strides, paddings, zeros, one window, one tap, fractions, sizes that need line breaks.
CASES: list[dict[str, Any]] = [
    {},
    {"b": [1, 1]},
    {"x": [1, -2, 3, -4, 0.5], "w": [2, -1], "y": [1, 2], "stride": 2},
    {"x": [1, -2, 3], "w": [2, -1, 4], "y": [1, 2, 3, 4, 5], "padding": 2, "b": [-1]},
    {"x": [1, -2, 3], "w": [2, -1, 4], "y": [1, 2], "padding": ((1, 0),), "b": [-1, 2]},
    {"x": [1, -2, 3], "w": [2, -1, 4, 1], "y": [1, 2, 3], "padding": "same"},
    {"x": [2], "w": [3], "y": [6]},
    {"x": [2], "w": [3], "y": [6], "b": [0]},
    {"x": [1, 2], "w": [5, 5, 5], "y": [1, 1, 1, 1, 1, 1], "padding": 3},
    {"x": [0.1, 0.2, 0.3], "w": [1, 1, -1], "y": [1], "b": [0], "lr": 1e-7},
    {"lr": -0.01},
    {"x": list(range(30)), "w": [0.5] * 20, "y": [1.5] * 11, "b": [0.25] * 11, "lr": 1e-4},
    {"dims": 2},
    {"dims": 2, "b": [[1, -1], [2, 0.5]]},
    {"dims": 2, "x": [[1, -2, 3], [4, 0.5, -6]], "w": [[2], [-1]], "y": [[1, 2, 3]], "stride": (3, 1), "b": [-1]},
    {"dims": 2, "stride": (2, 1), "padding": 1, "y": [[1, 2, 3, 4], [-5, 6, 7, 8]]},
    {"dims": 2, "padding": ((1, 0), (0, 2)), "stride": 2, "y": [[1, 2], [3, 4]]},
    {"dims": 2, "padding": "same", "y": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]},
    {"dims": 2, "x": [[2]], "w": [[3]], "y": [[6]]},
    {"dims": 2, "x": np.arange(36).reshape(3, 12) - 9, "w": np.ones((3, 3)) / 2, "y": [range(10)], "lr": 1e-4},
]
CASE = pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))


@pytest.mark.parametrize(("b", "expected"), [([1], SHARED), ([1, 1], UNTIED)], ids=["shared", "untied"])
def test_homework(backend: str, b: list[float], expected: dict[str, Any]) -> None:
    example = compute(b=b, backend=backend)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(example, name), value, rtol=1e-14, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("format", worked_example.FORMATS)
@pytest.mark.parametrize(("b", "expected"), [([1], SHARED), ([1, 1], UNTIED)], ids=["shared", "untied"])
def test_homework_is_printed(backend: str, b: list[float], expected: dict[str, Any], format: str) -> None:
    text = render(compute(b=b, backend=backend), format)
    for value in (x for values in expected.values() for x in np.atleast_1d(values)):
        assert re.search(rf"= {re.escape(f'{value:g}')}\b|\b{re.escape(f'{value:g}')}\b", text), value
    assert f"{expected['loss_after']:g}" in text


def test_the_update_has_brackets_and_the_windows_are_positions() -> None:
    text = render(compute())
    assert "w1' = w1 - lr*(g1*x1 + g2*x2) = 2 - 0.01*(12*1 + 16*2) = 2 - 0.01*44 = 1.56" in text
    assert "b' = b - lr*(g1 + g2) = 1 - 0.01*(12 + 16) = 1 - 0.01*28 = 0.72" in text
    assert "2 window positions, 1 apart (the stride)" in text
    assert "position 2 = (x2, x3, x4) = (2, 3, 4)" in text
    assert r"w'_{1} &= w_{1} - \eta \cdot (g_{1} \cdot x_{1} + g_{2} \cdot x_{2})" in render(compute(), "latex")
    assert "b2' = b2 - lr*g2 = 1 - 0.01*16 = 0.84" in render(compute(b=[1, 1]))


@CASE
def test_every_formula_gives_the_number_beside_it(case: dict[str, Any]) -> None:
    """Each link of each chain in the text is evaluated, with the names standing for the numbers of the example."""
    e = compute(**case)
    lists = {"x": e.x, "w": e.w, "b": e.b, "y": e.y, "p": e.prediction, "g": e.grad_output}
    lists |= {"w_after": e.w_after, "b_after": e.b_after, "p_after": e.prediction_after}
    lists |= {"slope_x": e.grad_x, "slope_w": e.grad_w, "slope_b": e.grad_b}
    names = {"lr": e.lr, "E": e.loss, "E_after": e.loss_after}
    comma = "" if max(*e.x.shape, *e.w.shape, *e.y.shape) < 10 else "_"
    for name, values in lists.items():
        start, after, _ = name.partition("_after")
        for index, value in np.ndenumerate(values):
            names[start + comma.join(str(i + 1) for i in index) + after] = float(value)
    names |= {"b": e.b.flat[0], "b_after": e.b_after.flat[0], "slope_b": e.grad_b.flat[0]}
    scale = max(1.0, *(abs(value) for value in names.values()))

    equations = re.findall(r"^  ((?:p[\d_]+|g[\d_]+|dE/d\w+|[wb][\d_]*'|E)'? = .*)$", render(e), re.MULTILINE)
    assert len(equations) == 3 * e.y.size + 2 * e.w.size + e.x.size + 2 * e.b.size + 2
    for equation in equations:
        python = equation.replace("^", "**").replace("'", "_after").replace("dE/d", "slope_")
        links = [eval(link, {"__builtins__": {}}, names) for link in python.split(" = ")]
        assert links == pytest.approx([links[0]] * len(links), rel=1e-8, abs=1e-9 * scale), equation


@CASE
def test_gradients_are_slopes_of_the_loss(backend: str, case: dict[str, Any]) -> None:
    example = compute(**case, backend=backend)
    arguments = {"x": example.x, "w": example.w, "b": example.b}
    how = {key: case[key] for key in ("dims", "stride", "padding") if key in case} | {
        "y": example.y,
        "backend": backend,
    }
    for name, gradient in (("x", example.grad_x), ("w", example.grad_w), ("b", example.grad_b)):
        for i in range(gradient.size):
            losses = []
            for step in (0.5, -0.5):  # the loss is a parabola in each of them, so that central differences are exact
                moved = arguments[name].copy()
                moved.flat[i] += step
                losses.append(compute(**{**arguments, name: moved}, **how).loss)
            assert gradient.flat[i] == pytest.approx(losses[0] - losses[1], rel=1e-9, abs=1e-9 * (1 + example.loss))


@CASE
def test_the_step_goes_against_the_gradient(case: dict[str, Any]) -> None:
    example = compute(**case)
    np.testing.assert_allclose(example.w_after, example.w - example.lr * example.grad_w, rtol=1e-14)
    np.testing.assert_allclose(example.b_after, example.b - example.lr * example.grad_b, rtol=1e-14)


def _widest_row(matrix: re.Match[str]) -> str:
    return max(matrix[0].split(r" \\ "), key=len).replace("&", "")


@CASE
def test_latex_is_well_formed(case: dict[str, Any]) -> None:
    text = render(compute(**case), "latex")
    assert re.findall(r"\\usepackage{(.*)}", text) == ["amsmath"]
    open_environments: list[str] = []
    for kind, name in re.findall(r"\\(begin|end){([a-z*]+)}", text):
        if kind == "begin":
            open_environments.append(name)
        else:
            assert open_environments.pop() == name
    assert not open_environments
    assert text.count("{") == text.count("}")
    assert text.count("$") % 2 == 0
    assert text.isascii()
    for block in re.findall(r"\\begin{align\*}\n(.*?)\n\\end{align\*}", text, re.DOTALL):
        block = re.sub(r"\\begin{pmatrix}.*?\\end{pmatrix}", _widest_row, block)
        rows = block.split("\\\\\n")
        assert all(row.count("&") == 1 for row in rows), block
        assert max(len(re.sub(r"\\[a-z]+|[{}_^&\\]", "", row)) for row in rows) < 75, "runs off the page"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("case", [CASES[1], CASES[-1]], ids=["untied", "long"])
def test_latex_compiles(tmp_path: Path, case: dict[str, Any]) -> None:
    (tmp_path / "example.tex").write_text(render(compute(**case), "latex"), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "example.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def test_markdown_has_a_heading_and_a_block_a_section() -> None:
    text = render(compute(), "markdown")
    assert len(re.findall(r"^## ", text, re.MULTILINE)) == text.count("$$\n\\begin{aligned}") == 10
    assert text.count("$$") == 20


def test_rounding_dust_is_not_shown() -> None:
    text = render(compute(x=[0.1, 0.2, 0.3], w=[1, 1, -1], y=[0], b=[0]))
    assert "p1 = b + w1*x1 + w2*x2 + w3*x3 = 0 + 1*0.1 + 1*0.2 + (-1)*0.3 = 0\n" in text
    assert "e-17" not in text


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            {"y": [1, 2, 3]},
            "x of length 4, a kernel of length 3, stride 1 and padding 0 give 2 outputs, so y must have",
        ),
        ({"y": [1], "stride": 2, "x": [1, 2, 3, 4, 5]}, "give 2 outputs, so y must have 2 values, got 1"),
        ({"b": [1, 2, 3]}, r"b must have 1 value \(shared by the outputs\) or 2 \(untied, one an output\), got 3"),
        ({"w": [1] * 5}, "the kernel is larger than the padded input"),
        ({"x": []}, "x needs at least one value"),
        ({"x": [1, 2, float("nan"), 4]}, "x must be finite numbers"),
        ({"lr": float("inf")}, "the learning rate must be a finite number"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"padding": -1}, "padding must be at least 0"),
        ({"dims": 3}, "dims must be 1 or 2"),
        ({"dims": 2, "x": [1, 2]}, r"x must be a matrix, given row by row \(1 2; 3 4\), got \[1, 2\]"),
        (
            {"dims": 2, "y": [[1, 2, 3]]},
            "x of size 3 x 3, a kernel of size 2 x 2, stride 1 and padding 0 give 2 x 2 outputs, so y must have "
            "2 x 2 values, got 1 x 3",
        ),
        ({"dims": 2, "b": [[1, 2]]}, r"b must have 1 value \(shared by the outputs\) or 2 x 2 \(untied"),
    ],
)
def test_what_does_not_fit_is_refused(case: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute(**case)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format must be one of text, markdown, latex"):
        render(compute(), "html")


def test_what_the_update_did_is_said() -> None:
    assert "the loss falls from 200 to 61.064." in render(compute())
    assert "the loss rises from 200 to 39925160; the learning rate is too large." in render(compute(lr=10))
    assert "; the learning rate is negative." in render(compute(lr=-0.01))


@pytest.mark.parametrize("numbers", [{"x": [1e200] * 4}, {"x": [1e308] * 4, "w": [1e308] * 3}, {"lr": 1e300}], ids=str)
def test_a_loss_beyond_the_numbers_is_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="smaller numbers"):
        compute(**numbers)


def test_two_dimensions_in_every_format() -> None:
    text = render(compute(dims=2))
    assert text.startswith("One training step of a 2-D convolution")
    assert "position (1, 2) = [x12 x13; x22 x23] = [2 0; 1 3]" in text
    assert "p_ij = b + sum over k = 1..2, l = 1..2 of w_kl*x_(i + k - 1, j + l - 1)" in " ".join(text.split())
    assert "dE/dx22 = g11*w22 + g12*w21 + g21*w12 + g22*w11 = 3*3 + 6*0 + 2*1 + (-1)*2 = 9" in text
    assert "w11' = w11 - lr*(g11*x11 + g12*x12 + g21*x21 + g22*x22) = " in text
    latex = render(compute(dims=2), "latex")
    assert r"\text{position (1, 2)} &= \begin{pmatrix} x_{1,2} & x_{1,3} \\ x_{2,2} & x_{2,3} \end{pmatrix}" in latex
    assert r"\sum_{k=1}^{2} \sum_{l=1}^{2} w_{k, l} \cdot x_{i + k - 1, j + l - 1}" in latex
    assert r"\begin{pmatrix} 2 & 1 \\ 0 & 3 \end{pmatrix}" in render(compute(dims=2), "markdown")
    text = render(compute(dims=2, stride=(2, 1), padding=((1, 1), (1, 1)), y=[[1, 2, 3, 4], [5, 6, 7, 8]]))
    assert "rows of zeros put around it (1 above, 1 below) and columns (1 left, 1 right)," in " ".join(text.split())
    assert "2 rows and 1 column apart (the stride)" in " ".join(text.split())


def test_wide_matrices_are_no_limit_to_latex() -> None:
    wide = render(compute(**CASES[-1]), "latex")
    assert r"\setcounter{MaxMatrixCols}{12}" in wide
    assert "MaxMatrixCols" not in render(compute(dims=2), "latex")
