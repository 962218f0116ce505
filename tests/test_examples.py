"""The examples run, and show what they say that they show."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    """What each example prints, each run once in a process of its own."""
    texts = {}
    for name in NAMES:
        command = [sys.executable, "-W", "error::RuntimeWarning", str(EXAMPLES / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        texts[name] = done.stdout
    return texts


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_explains_itself(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert len(ast.get_docstring(ast.parse(text)) or "") > 150


def test_check_your_homework(printed: dict[str, str]) -> None:
    first, mended = printed["check_your_homework.py"].split("\nMended\n")
    assert "check_conv: look at grad_weight first" in first
    assert "grad_weight: stride ignored" in first
    assert "grad_bias: not summed over the positions" in first
    assert "check_conv: all right" in mended


def test_filter_bank(printed: dict[str, str]) -> None:
    text = printed["filter_bank.py"]
    accuracy = re.search(r"told apart, new ones: (\d+)%", text)
    assert accuracy
    assert int(accuracy[1]) >= 95
    bands = [int(hertz) for hertz in re.findall(r"(\d+) Hz   #", text)]
    assert len(bands) == 6
    # The filters have found the tones: some are tuned to the low one, some to the high one.
    assert any(abs(band - 400) < 100 for band in bands)
    assert any(abs(band - 1800) < 150 for band in bands)


def test_shift_study(printed: dict[str, str]) -> None:
    text = printed["shift_study.py"]
    mlp, cnn = ([int(cell) for cell in re.findall(r"(\d+)%", row)] for row in text.splitlines()[1:3])
    assert len(mlp) == len(cnn) == 5
    assert mlp[0] >= 95
    assert cnn[0] >= 95
    assert min(mlp) < 75, "the MLP is lost where the pictures have moved"
    assert min(cnn) >= 90, "the CNN is not"
