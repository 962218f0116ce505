"""The suite: every row is a layer that everybody agrees on, and its exact answer is exact."""

from __future__ import annotations

import numpy as np
import pytest

import fastconv as fc
from fastconv.backends import reference
from fastconv.bench import cases

ROWS = list(cases.rows().values())
FUNCTIONS = {
    1: (fc.conv1d, fc.grad.conv1d_input, fc.grad.conv1d_weight),
    2: (fc.conv2d, fc.grad.conv2d_input, fc.grad.conv2d_weight),
}


def compute(row: cases.Row, operation: str, data: cases.Arrays) -> np.ndarray:
    forward, backward_input, backward_weight = FUNCTIONS[row.axes]
    if operation == "forward":
        return forward(data.x, data.w, **row.arguments)
    if operation == "backward_input":
        return backward_input(row.x_shape, data.w, data.gy, **row.arguments)
    return backward_weight(data.x, row.w_shape, data.gy, **row.arguments)


def test_suite_has_every_family_filled():
    filled = {row.family for row in ROWS}
    assert filled == set(cases.families())
    assert len(ROWS) == len(cases.rows()) > 40


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row_geometry_is_torchs(row, torch):
    meta = {"device": "meta"}
    function = torch.nn.functional.conv1d if row.axes == 1 else torch.nn.functional.conv2d
    out = function(torch.empty(row.x_shape, **meta), torch.empty(row.w_shape, **meta), **row.arguments)
    assert tuple(out.shape) == row.y_shape
    assert row.geometry.flops == 2 * out.numel() * row.w_shape[1] * int(np.prod(row.k))
    assert sum(row.bytes_moved("forward")) == 4 * row.geometry.elements


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_small_row_on_every_kernel(row, fast_kernels):
    """A new row of the suite is a test case of every backend and ISA: a layer of its kind, small enough to be cheap."""
    small = row.small()
    data = small.arrays()
    assert small.geometry.flops < 1e7
    for operation in cases.OPERATIONS:
        answer = cases.exact(small, operation, data)
        error = cases.relative_error(compute(small, operation, data), answer)
        assert error < 1e-5, f"{operation}: {error}"


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_exact_answer_is_the_references(row):
    small = row.small()
    data = small.arrays()
    wide = cases.Arrays(*(a.astype(np.float64) for a in data))
    assert reference.unavailable() is None
    with fc.use_backend("reference"):
        for operation in cases.OPERATIONS:
            answer = cases.exact(small, operation, data)
            assert answer.dtype == np.float64
            assert answer.shape == small.output_shape(operation)
            assert cases.relative_error(compute(small, operation, wide), answer) < 1e-13


def test_small_rows_keep_what_makes_them_special():
    for row in ROWS:
        small = row.small()
        assert (small.axes, small.stride, small.dilation) == (row.axes, row.stride, row.dilation)
        assert (small.groups > 1) == (row.groups > 1)
        assert (small.groups == small.c_in) == (row.groups == row.c_in)
        assert small.n <= row.n


def test_data_is_ordinary_and_always_the_same():
    row = cases.rows()["seed_conv1"]
    first, second = row.arrays(), row.arrays()
    for one, two, shape in zip(first, second, (row.x_shape, row.w_shape, row.y_shape)):
        assert one.shape == shape
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, two)
        assert np.abs(one).min() >= np.float32(0.1)
        assert np.abs(one).max() <= 1
        assert (one > 0).any() and (one < 0).any()
    assert not np.array_equal(first.x, cases.rows()["lenet_c1"].arrays().x[: row.n])


def test_relative_error_sees_what_is_wrong():
    answer = np.array([1.0, -2.0])
    assert cases.relative_error(np.array([1.0, -2.0]), answer) == 0
    assert cases.relative_error(np.array([1.0, -2.2]), answer) == pytest.approx(0.1)
    assert cases.relative_error(np.array([1.0, np.nan]), answer) == np.inf
    assert cases.relative_error(np.array([1.0]), answer) == np.inf


def test_select():
    assert [row.name for row in cases.select(["tiny_2d"])] == ["tiny_2d"]
    assert {row.family for row in cases.select(None, ["tiny", "grouped2d"])} == {"tiny", "grouped2d"}
    assert cases.select() == ROWS
    with pytest.raises(ValueError, match=r"no row 'nothing'.*tiny_2d"):
        cases.select(["nothing"])
    with pytest.raises(ValueError, match=r"no family 'nothing'.*thin1d"):
        cases.select(None, ["nothing"])


GOOD = '[families]\nf = "x"\n[row.r]\nfamily = "f"\nwhy = "w"\nn = 1\nc_in = 2\nsize = [5]\nc_out = 3\nk = 3\n'


def test_parse_reads_a_block():
    families, rows = cases.parse(GOOD + "stride = 2\npadding = [1]\n")
    assert families == {"f": "x"}
    assert rows["r"].y_shape == (1, 3, 3)
    assert (rows["r"].padding, rows["r"].dilation, rows["r"].groups) == ((1,), (1,), 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "strides = 2\n", r"row r: unknown key\(s\) strides"),
        (GOOD.replace("k = 3\n", ""), r"row r: missing key\(s\) k"),
        (GOOD.replace('family = "f"', 'family = "g"'), "row r: unknown family 'g'"),
        (GOOD.replace("k = 3", "k = 7"), "row r: .*larger than the padded input"),
        (GOOD.replace("k = 3", "k = [3, 3]"), "row r: .* should have 1 entries"),
        (GOOD + "groups = 0\n", "row r: .*groups"),
    ],
)
def test_parse_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        cases.parse(text)
