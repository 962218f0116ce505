"""The command line: every command runs, every mistake is one line with exit code 2, and nothing heavy is imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fastconv as fc
from fastconv import cli
from fastconv.experiments.data import write_idx

Run = Callable[..., tuple[int, str, str]]
RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fastconv(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process; gives exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = cli.main(list(arguments))
        except SystemExit as end:  # argparse: --help, --version, and what it refuses
            code = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def refused(result: tuple[int, str, str]) -> str:
    """The one line that an error is."""
    code, out, err = result
    assert code == 2
    assert out == ""
    (line,) = err.splitlines()
    return line


# ---- in general


def test_help_lists_the_commands(fastconv: Run) -> None:
    code, out, _ = fastconv("--help")
    assert code == 0
    for command in cli.COMMANDS:
        assert re.search(rf"^    {command.name}\s+{re.escape(command.help[:20])}", out, re.MULTILINE), command.name


@pytest.mark.parametrize("command", [command.name for command in cli.COMMANDS])
def test_every_command_has_help(fastconv: Run, command: str) -> None:
    code, out, _ = fastconv(command, "--help")
    assert code == 0
    assert out.startswith(f"usage: fastconv {command}")


def test_version(fastconv: Run) -> None:
    assert fastconv("--version") == (0, f"fastconv {fc.__version__}\n", "")


def test_python_m_fastconv_is_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "fastconv", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"fastconv {fc.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["train"], "invalid choice: 'train'"),
        (["config", "--wrong"], "unrecognized arguments: --wrong"),
        (["equivariance", "--seeds", "0"], "argument --seeds: must be at least 1, got 0"),
        (["equivariance", "--seeds", "1.5"], "argument --seeds: must be an integer, got '1.5'"),
        (["worked-example", "--x", "1", "two"], "argument --x: invalid float value: 'two'"),
        (["worked-example", "--backend", "fortran"], "argument --backend: invalid choice: 'fortran'"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(fastconv: Run, arguments: list[str], message: str) -> None:
    line = refused(fastconv(*arguments))
    assert line.startswith("fastconv")
    assert message in line


def test_importing_the_command_line_imports_nothing_heavy(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_python(
        """
        import sys
        import fastconv.cli
        fastconv.cli.parser()
        heavy = ("matplotlib", "rich", "scipy", "joblib", "numba", "torch", "pooch", "safetensors", "fastconv.nn",
                 "fastconv.experiments")
        print([name for name in heavy if name in sys.modules])
        """
    )
    assert done.stdout.strip() == "[]"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m fastconv worked-example | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() == "One training step of a 1-D convolution"
    assert done.stderr == ""


def test_traceback_shows_where(fastconv: Run) -> None:
    with pytest.raises(ValueError, match="y must have 2 values"):
        cli.main(["--traceback", "worked-example", "--y", "1"])


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("rich.console", ["equivariance"], "rich is not installed: pip install \"fastconv[experiments]\""),
        ("matplotlib", ["equivariance"], "matplotlib is not installed: pip install \"fastconv[experiments]\""),
        ("joblib", ["equivariance"], "joblib is not installed: pip install \"fastconv[experiments]\""),
        ("pooch", ["equivariance", "--dataset", "mnist"], "pooch is not installed: pip install \"fastconv[data]\""),
    ],
)  # fmt: skip
def test_a_missing_extra_is_named(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    module: str,
    arguments: list[str],
    extra: str,
) -> None:
    arguments = [*arguments, "--out", str(tmp_path), "--train-images", "10", "--validation-images", "10"]
    done = run_python(
        f"""
        import sys
        sys.modules[{module!r}] = None
        from fastconv.cli import main
        sys.exit(main({arguments!r}))
        """,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"fastconv equivariance: error: {extra}"]


def test_every_extra_named_is_one_of_the_package() -> None:
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    section = pyproject.read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    names = set(re.findall(r"^([a-z]+) = ", section, re.MULTILINE))
    assert set(cli.EXTRAS.values()) <= names


# ---- config and explain


def test_config(fastconv: Run) -> None:
    code, out, _ = fastconv("config")
    assert code == 0
    assert re.search(rf"^fastconv +{re.escape(fc.__version__)}$", out, re.MULTILINE)


def test_explain_is_fc_explain(fastconv: Run) -> None:
    code, out, _ = fastconv(
        "explain", "--input", "1,64,56,56", "--weight", "64,64,3,3", "--stride", "1", "--padding", "1",
        "--operation", "backward_weight", "--dtype", "float64", "--backend", "reference", "--threads", "1",
    )  # fmt: skip
    with fc.num_threads(1):
        plan = fc.explain(
            (1, 64, 56, 56),
            (64, 64, 3, 3),
            padding=1,
            operation="backward_weight",
            dtype="float64",
            backend="reference",
        )
    assert (code, out) == (0, f"{plan}\n")


def test_explain_in_one_dimension_and_transposed(fastconv: Run) -> None:
    code, out, _ = fastconv("explain", "--input", "2,3,10", "--weight", "4,3,3", "--padding", "same", "--strict")
    with fc.precision("strict"):
        assert (code, out) == (0, f"{fc.explain((2, 3, 10), (4, 3, 3), padding='same')}\n")
    shapes = ("--input", "2,3,10,12", "--weight", "3,4,3,3", "--stride", "2,3", "--output-padding", "1")
    code, out, _ = fastconv("explain", "--transposed", *shapes)
    plan = fc.explain((2, 3, 10, 12), (3, 4, 3, 3), (2, 3), transposed=True, output_padding=1)
    assert (code, out) == (0, f"{plan}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "1,64,56,56", "--weight", "64,3,3,3"], "takes 3 input channels"),
        (["--input", "1,64,56,56", "--weight", "64,64"], "must have 3 axes (conv1d) or 4 (conv2d)"),
        (
            ["--input", "1;64", "--weight", "64,64,3"],
            "--input: must be integers separated by commas, got '1;64'",
        ),
        (["--input", "1,1,9", "--weight", "1,1,3", "--algorithm", "magic"], "unknown algorithm 'magic'"),
    ],
)
def test_explain_refuses(fastconv: Run, arguments: list[str], message: str) -> None:
    assert message in refused(fastconv("explain", *arguments))


# ---- worked-example


def test_worked_example_defaults_to_the_homework(fastconv: Run) -> None:
    code, out, _ = fastconv("worked-example")
    assert code == 0
    assert "the loss falls from 200 to 61.064" in out


def test_worked_example_takes_every_argument(fastconv: Run, backend: str) -> None:
    code, out, _ = fastconv(
        "worked-example", "--x", "1", "-2", "3", "-4e-1", "--w", "2", "-1", "--b", "1", "1", "0", "--y", "0", "1", "2",
        "--lr", "1e-3", "--stride", "2", "--padding", "1", "1", "--backend", backend,
    )  # fmt: skip
    assert code == 0
    assert "x = (1, -2, 3, -0.4)" in out
    assert "lr = 0.001" in out
    assert "position 1 = (0, x1) = (0, 1)" in out
    assert "p2 = b2 + w1*x2 + w2*x3 = 1 + 2*(-2) + (-1)*3 = -6" in out
    assert "p3 = b3 + w1*x4 = 0 + 2*(-0.4) = -0.8" in out


def test_worked_example_in_two_dimensions(fastconv: Run) -> None:
    code, out, _ = fastconv("worked-example", "--dims", "2")
    assert code == 0
    assert "the loss falls from 25 to 17.3315" in out
    line = refused(fastconv("worked-example", "--dims", "2", "--y", "-1;2"))
    assert "y must have 2 x 2 values, got 2 x 1" in line
    code, out, _ = fastconv(
        "worked-example", "--dims", "2", "--x", "-1 2 3; 4 5 6; 7 8 9", "--w", "1", "2;", "3", "4",
        "--stride", "2", "2", "--y", "-1,2;3,4", "--b", "-1 0;0 2", "--padding", "0", "1", "1", "0",
    )  # fmt: skip
    assert code == 0
    assert "x = [-1 2 3; 4 5 6; 7 8 9]" in out
    assert "w = [1 2; 3 4]" in out
    assert "position (1, 1) = [0 x11; 0 x21] = [0 -1; 0 4]" in out
    assert "(0 above, 1 below) and columns (1 left, 0 right)" in " ".join(out.split())


@pytest.mark.parametrize(("format", "start"), [("markdown", "# One "), ("latex", r"\documentclass"), ("text", "One ")])
def test_worked_example_formats(fastconv: Run, format: str, start: str) -> None:
    code, out, _ = fastconv("worked-example", "--format", format, "--b", "1", "1")
    assert code == 0
    assert out.startswith(start)
    assert "63.22" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--y", "1", "2", "3"], "give 2 outputs, so y must have 2 values, got 3"),
        (["--b", "1", "2", "3"], "b must have 1 value (shared by the outputs) or 2 (untied, one an output), got 3"),
        (["--w", "1", "2", "3", "4", "5"], "the kernel is larger than the padded input"),
        (["--padding", "1", "2", "3"], "padding"),
        (["--padding", "one"], "argument --padding: must be an integer, 'same' or 'valid', got 'one'"),
        (["--stride", "0"], "stride must be at least 1"),
        (["--x", "1 2; 3 4"], "--x has 2 rows: matrices need --dims 2"),
        (["--dims", "2", "--x", "1 2; 3"], "--x: the rows must have the same length, got 2, 1"),
        (["--dims", "2", "--y", "1 2"], "give 2 x 2 outputs, so y must have 2 x 2 values, got 1 x 2"),
        (["--dims", "3"], "argument --dims: invalid choice: 3"),
    ],
)
def test_worked_example_refuses(fastconv: Run, arguments: list[str], message: str) -> None:
    assert message in refused(fastconv("worked-example", *arguments))


# ---- equivariance


def test_equivariance_end_to_end(fastconv: Run, tmp_path: Path) -> None:
    code, out, err = fastconv(
        "equivariance", "--seeds", "2", "--epochs", "1", "--train-images", "200", "--validation-images", "50",
        "--jobs", "1", "--out", str(tmp_path / "deep" / "out"),
    )  # fmt: skip
    assert code == 0, err
    assert "mean ± standard deviation over 2 seeds" in out
    assert "fashion: on the shifted images the CNN is" in out
    assert "results.json, figures/, report.html" in out.replace("\n", " ")
    assert len(re.findall(r"^\[\d/4\] fashion (CNN|MLP) seed [01]: original", err, re.MULTILINE)) == 4
    results = json.loads((tmp_path / "deep" / "out" / "results.json").read_text(encoding="utf-8"))
    assert len(results["runs"]) == 4
    assert (tmp_path / "deep" / "out" / "report.html").stat().st_size > 100_000
    assert len(list((tmp_path / "deep" / "out" / "figures").glob("*.png"))) == 4


def test_equivariance_from_a_folder_of_idx_files(fastconv: Run, tmp_path: Path) -> None:
    folder = tmp_path / "letters"
    folder.mkdir()
    write_idx(folder / "train-images-idx3-ubyte.gz", np.random.default_rng(0).integers(0, 256, (80, 28, 28), np.uint8))
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.arange(80, dtype=np.uint8) % 10)
    small = ("--seeds", "1", "--epochs", "1", "--train-images", "50", "--validation-images", "30", "--jobs", "1")
    code, out, err = fastconv("equivariance", "--data-dir", str(folder), *small, "--out", str(tmp_path / "out"))
    assert code == 0, err
    assert "letters: on the shifted images the CNN is" in out
    assert "one seed: no test" in out
    line = refused(fastconv("equivariance", "--data-dir", str(tmp_path), *small, "--out", str(tmp_path / "out")))
    assert "has no train-images-idx3-ubyte or train-images.idx3-ubyte (plain or .gz)" in line


@pytest.mark.parametrize(
    ("names", "folders", "expected"),
    [
        ([], [], {"fashion": None}),
        (["mnist"], [], {"mnist": None}),
        (["mnist"], ["d"], {"mnist": "d"}),
        (["fashion"], ["d"], {"fashion": "d"}),
        (["fashion", "mnist"], ["d"], {"fashion": None, "mnist": "d"}),
        (["mnist", "kuzushiji"], ["kuzushiji=k", "mnist=m"], {"mnist": "m", "kuzushiji": "k"}),
        ([], ["some/where/digits"], {"digits": "some/where/digits"}),
        ([], ["a=some/where", "b=else/where"], {"a": "some/where", "b": "else/where"}),
    ],
)
def test_whose_folder_it_is(names: list[str], folders: list[str], expected: dict[str, str | None]) -> None:
    assert cli._datasets(names, folders) == expected


@pytest.mark.parametrize(
    ("names", "folders", "message"),
    [
        (["mnist", "kuzushiji"], ["d"], "say whose folder it is with NAME=d"),
        (["mnist"], ["letters=d"], "'letters' is not among the data sets mnist"),
        (["mnist"], ["a", "mnist=b"], "'mnist' has a folder already, a"),
        ([], ["a", "b"], "say whose folder it is"),
    ],
)
def test_folders_that_cannot_be_assigned(names: list[str], folders: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cli._datasets(names, folders)


def test_equivariance_refuses_an_unknown_data_set(fastconv: Run, tmp_path: Path) -> None:
    line = refused(fastconv("equivariance", "--dataset", "cifar", "--out", str(tmp_path)))
    assert "unknown data set 'cifar': fashion, mnist, fashion-full, or any name with a folder of idx files" in line
