"""Five ways to write a convolution for a CPU, on six typical rows: what Numba gives, step by step, beside C.

    python benchmarks/numba_vs_c.py [--rows ...] [--seconds 0.5] [--out benchmarks/numba-vs-c.md]

Forward, float32, one thread, all five in turn in one process, every result checked against float64 before it is timed.
The first three are written out below, as one meets them in answers and notebooks; the last two are fastconv's backends,
held to direct summation (``algorithm="direct"``), so that the way of writing is compared and not the algorithm.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

import fastconv as fc
from fastconv.bench import report, runner, tables
from fastconv.bench.cases import Arrays, Row, rows
from fastconv.bench.contenders import Contender, Prepared, Terms

ROWS = ("resnet_56", "pw_56_256_64", "lenet_c1", "dw_112_96", "tcn_64", "fir_255")
ROOT = Path(__file__).resolve().parent.parent


# ---- the three ways, over x that is padded already: (N, C, H, W), w (K, C/groups, R, S), y (N, K, P, Q)


@numba.njit(fastmath={"contract", "reassoc"})
def plain_loops(x, w, y, step_h, step_w, spread_h, spread_w):
    per_group, share = y.shape[1] // (x.shape[1] // w.shape[1]), w.shape[1]
    for n in range(y.shape[0]):
        for k in range(y.shape[1]):
            for p in range(y.shape[2]):
                for q in range(y.shape[3]):
                    total = np.float32(0)
                    for c in range(share):
                        for r in range(w.shape[2]):
                            for s in range(w.shape[3]):
                                h, v = p * step_h + r * spread_h, q * step_w + s * spread_w
                                total += w[k, c, r, s] * x[n, k // per_group * share + c, h, v]
                    y[n, k, p, q] = total


@numba.njit(fastmath={"contract"})
def axpy(a, x, y):
    for i in range(y.size):
        y[i] += a * x[i]


@numba.njit
def axpy_rows(x, w, y, step_h, step_w, spread_h, spread_w):
    per_group, share = y.shape[1] // (x.shape[1] // w.shape[1]), w.shape[1]
    y[:] = 0
    for n in range(y.shape[0]):
        for k in range(y.shape[1]):
            for c in range(share):
                for r in range(w.shape[2]):
                    for s in range(w.shape[3]):
                        for p in range(y.shape[2]):
                            row = x[n, k // per_group * share + c, p * step_h + r * spread_h, s * spread_w :]
                            axpy(w[k, c, r, s], row[: (y.shape[3] - 1) * step_w + 1 : step_w], y[n, k, p])


@numba.njit(fastmath={"contract"})
def four_rows(sums, row, a, b, c, d):
    for i in range(sums.shape[1]):
        value = row[i]
        sums[0, i] += a * value
        sums[1, i] += b * value
        sums[2, i] += c * value
        sums[3, i] += d * value


@numba.njit
def row_accumulator(x, w, y, step_h, step_w, spread_h, spread_w):
    groups, share = x.shape[1] // w.shape[1], w.shape[1]
    per_group, span = y.shape[1] // groups, (y.shape[3] - 1) * step_w + 1
    sums, weights = np.empty((4, y.shape[3]), np.float32), np.zeros(4, np.float32)
    for n in range(y.shape[0]):
        for g in range(groups):
            for first in range(g * per_group, (g + 1) * per_group, 4):
                count = min(4, (g + 1) * per_group - first)
                for p in range(y.shape[2]):
                    sums[:] = 0
                    for c in range(share):
                        for r in range(w.shape[2]):
                            for s in range(w.shape[3]):
                                for i in range(count):
                                    weights[i] = w[first + i, c, r, s]
                                row = x[n, g * share + c, p * step_h + r * spread_h, s * spread_w :]
                                four_rows(sums, row[:span:step_w], weights[0], weights[1], weights[2], weights[3])
                    y[n, first : first + count, p] = sums[:count]


# ---- contenders


def _padded(function: Callable[..., None], row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    g = row.geometry
    x, w = data.x.reshape(g.x_shape), np.ascontiguousarray(data.w.reshape(g.w_shape))
    below = (g.P - 1) * g.stride[0] + (g.R - 1) * g.dilation[0] + 1 - g.H - g.pad[0]
    right = (g.Q - 1) * g.stride[1] + (g.S - 1) * g.dilation[1] + 1 - g.W - g.pad[1]
    pads = ((0, 0), (0, 0), (g.pad[0], max(below, 0)), (g.pad[1], max(right, 0)))

    def run() -> np.ndarray:
        y = np.empty(g.y_shape, np.float32)
        function(np.pad(x, pads), w, y, *g.stride, *g.dilation)
        return y

    return Prepared(run, lambda y: y.reshape(row.y_shape))


def _backend(name: str, row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    convolve = fc.conv1d if row.axes == 1 else fc.conv2d
    return Prepared(
        lambda: convolve(data.x, data.w, **row.arguments, backend=name, algorithm="direct"), lambda y: np.asarray(y)
    )


def _code_lines(text: str) -> int:
    """Lines of Python that hold code: no comments, no docstrings, no blank ones."""
    strings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return len({line for t in tokens if t.type not in silent for line in range(t.start[0], t.end[0] + 1)} - strings)


def _c_lines(name: str) -> int:
    """Lines of a C file that hold code."""
    inside, count = False, 0
    for line in (ROOT / "csrc" / name).read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if not inside and text and not text.startswith(("/*", "//")):
            count += 1
        if "/*" in text:
            inside = True
        if "*/" in text:
            inside = False
    return count


def _of_functions(*functions: Any) -> int:
    return sum(_code_lines(inspect.getsource(function.py_func)) for function in functions)


def _of_numba_backend() -> int:
    folder = Path(fc.__file__).parent / "backends" / "numba"
    names = ("vector", "kernels", "row_blocks", "plan")
    return sum(_code_lines((folder / f"{name}.py").read_text(encoding="utf-8")) for name in names)


_TERMS = Terms("NCL / NCHW", "an argument", "fresh")
WAYS: tuple[tuple[str, str, Callable[..., Prepared], int], ...] = (
    ("plain", "plain loops", lambda *a: _padded(plain_loops, *a), _of_functions(plain_loops)),
    ("axpy", "axpy on row slices", lambda *a: _padded(axpy_rows, *a), _of_functions(axpy, axpy_rows)),
    ("rows", "four rows in an accumulator", lambda *a: _padded(row_accumulator, *a),
     _of_functions(four_rows, row_accumulator)),
    ("intrinsic", "vector intrinsic (numba backend)", lambda *a: _backend("numba", *a), _of_numba_backend()),
    ("c", "C SIMD (cython backend)", lambda *a: _backend("cython", *a),
     sum(map(_c_lines, ("simd.h", "stencil.h", "tile.h", "pack.h", "direct.h", "direct_row.h", "direct_weight.h")))),
)  # fmt: skip

TEXT = """# Numba beside C

Made by `python benchmarks/numba_vs_c.py`: forward, float32, one thread, all in turn in one process, every result
checked against float64 first. GFLOP/s of direct summation, best of the rounds. fastconv {version}, numba {numba},
{machine}.

{table}

Lines are lines of code without comments. Those of the last two count whole families: every stride, dilation, group and
gradient, both precisions, packing, tiling and threads included; the first three do the forward pass alone.

What to take from it: LLVM does not find the convolution in plain loops, because the innermost one is short and
strided. Handed long rows (axpy) it uses vectors, but each multiply-add then waits for a load and a store of its sum.
Four rows of sums at a time share the loads; that is as far as a page of plain Numba goes. The rest of the way is
registers: blocks whose sums never leave the register file, which Numba can be told through an intrinsic that emits
LLVM's vector instructions. With it Numba reaches {least:.2f} to {most:.2f} of the C kernels' speed on these rows, from
one language and without a C compiler at the user's end; the price is a compilation of some seconds, once a machine.
"""


def measure(names: list[str], seconds: float) -> list[runner.Match]:
    """Every way on every row, checked and timed."""
    contenders = [Contender(name, about, _TERMS, prepare) for name, about, prepare, _ in WAYS]
    with fc.num_threads(1):
        return [runner.play(rows()[name], "forward", contenders, seconds=seconds) for name in names]


def page(matches: list[runner.Match]) -> str:
    """The page in Markdown."""
    for match in matches:
        for name, timing in match.timings.items():
            if timing.status != "ok":
                raise SystemExit(f"{match.row.name}, {name}: {timing.status}: {timing.reason}")
    lines = [
        (about, f"{code:,}", *(f"{m.row.geometry.flops / m.timings[name].best / 1e9:.1f}" for m in matches))
        for name, about, _, code in WAYS
    ]
    table = tables.Table("GFLOP/s", ("way", "lines", *(match.row.name for match in matches)), lines, words=1)
    shares = [match.ratio("intrinsic", "c") for match in matches]
    machine = report.machine()
    return TEXT.format(
        version=fc.__version__, numba=numba.__version__, machine=f"{machine['cpu']} ({machine['isa']})",
        table=table.markdown(), least=min(shares), most=max(shares),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help="names of suite rows")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each contender and row")
    parser.add_argument("--out", type=Path, help="write the page there (default: print it)")
    options = parser.parse_args()
    text = page(measure(options.rows, options.seconds))
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
