"""The document of a run, its tables, its summary, and the command line."""

from __future__ import annotations

import itertools
import json
import math
import re

import pytest

from fastconv import cli
from fastconv.bench import limits, report, runner
from fastconv.bench.cases import rows
from fastconv.bench.limits import Level, Limits
from fastconv.bench.runner import Match, Sample, Timing
from fastconv.bench.tables import Table, digits, seconds, size

LIMITS = Limits(1, "test", 1e11, (Level("L1", 1e6, 2e11, 1e11, 1e11), Level("memory", math.inf, 1e10, 5e9, 6e9)))


def timed(value: float, *, disturbed: bool = False) -> Timing:
    samples = [Sample(value, value, 4), Sample(2 * value, 2 * value, 4)]
    if disturbed:
        return Timing(error=1e-7, spare=samples)
    return Timing(error=1e-7, clean=samples, rounds=[1.5 * value])


def entry(row: str, operation: str, **times: float | Timing) -> dict:
    timings = {name: value if isinstance(value, Timing) else timed(value) for name, value in times.items()}
    return report.result(Match(rows()[row], operation, 1, timings), LIMITS)


@pytest.fixture
def run() -> report.Document:
    results = [
        entry("resnet_56", "forward", cython=1e-3, torch=2e-3, ncnn=0.5e-3),
        entry("resnet_56", "backward_input", cython=1e-3, torch=8e-3, ncnn=Timing("unsupported", "no gradients")),
        entry("fir_255", "forward", cython=timed(1e-3, disturbed=True), torch=0.5e-3),
        entry("fir_255", "backward_weight", cython=Timing("wrong", "off by 1", 1.0), torch=1e-3),
    ]
    return report.document(results, [LIMITS], {"seconds": 0.1}, 12.0)


def test_document_is_plain_json_with_its_keys(run):
    again = json.loads(json.dumps(run, allow_nan=False))
    assert again == run
    words = "format fastconv date seconds cpu_seconds settings machine limits contenders results summary"
    assert set(words.split()) == run.keys()
    first = run["results"][0]
    assert {"row", "family", "operation", "threads", "flops", "bytes", "limit", "limited_by", "timings"} == first.keys()
    assert {"status", "error", "best", "median", "cpu_over_wall", "gflops", "gbytes", "fraction_of_limit",
            "rounds", "calls", "thrown_out", "disturbed"} == first["timings"]["cython"].keys()  # fmt: skip
    assert first["timings"]["cython"]["gflops"] == pytest.approx(first["flops"] / 1e-3 / 1e9)
    names = [contender["name"] for contender in run["contenders"]]
    assert {"cython", "numba", "reference", "torch", "onnxruntime", "litert"} <= set(names)


def test_machine_names_nothing_private(run):
    text = json.dumps(run)
    assert "/" + "home" not in text
    assert "hostname" not in text


def test_limit_is_the_larger_of_two_times():
    work, traffic = LIMITS.seconds(rows()["resnet_56"], "forward")
    row = rows()["resnet_56"]
    assert work == row.geometry.flops / 1e11
    read, written = row.bytes_moved("forward")
    assert read + written > 1e6
    assert traffic == pytest.approx(read / 1e10 + written / 5e9)
    found = entry("resnet_56", "forward", cython=1.0)
    assert found["limit"] == max(work, traffic)
    assert found["limited_by"] == "flops"
    assert entry("dw_112_96", "forward", cython=1.0)["limited_by"] == "traffic"
    assert LIMITS.level(10).name == "L1"


def test_summary_counts_rows_won_and_lost(run):
    (everything,) = (e for e in run["summary"] if e["family"] == "all")
    assert everything["backend"] == "cython"
    assert everything["rows"] == 3  # the wrong result has no time
    assert everything["torch"] == {"geometric_mean": pytest.approx(2.0), "won": 2, "lost": 1}
    assert everything["best_peer"] == {"geometric_mean": pytest.approx((0.5 * 8 * 0.5) ** (1 / 3)), "won": 1, "lost": 2}
    (dense,) = (e for e in run["summary"] if e["family"] == "dense2d")
    assert dense["torch"]["geometric_mean"] == pytest.approx(4.0)


def test_tables_hold_losing_rows_and_refusals(run):
    text = "\n".join(table.text() for table in report.all_tables(run))
    line = next(line for line in text.splitlines() if line.startswith("fir_255    forward"))
    assert "1.00 ms*" in line
    assert "0.500" in line
    assert "no gradients" in text
    assert "WRONG" in text
    assert report.wrong_results(run) == ["fir_255 backward_weight cython: off by 1"]
    markdown = report.summary_table(run).markdown()
    assert "| cython | all | 1 | 3 | 2.00 | 2 | 1 |" in markdown


def test_agreement_of_two_runs(run):
    other = json.loads(json.dumps(run))
    assert report.agreement(run, other) == {
        "matches": 3,
        "median": pytest.approx(0),
        "within_15_percent": 1.0,
        "worst": pytest.approx(0),
    }
    other["results"][0]["timings"]["torch"]["best"] *= 1.2
    other["results"][1]["timings"]["torch"]["best"] /= 1.1
    found = report.agreement(run, other)
    assert found["within_15_percent"] == pytest.approx(2 / 3)
    assert found["worst"] == pytest.approx(0.2)
    assert found["median"] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="share no match"):
        report.agreement(run, {**run, "results": []})


def test_table_escapes_what_would_break_it():
    table = Table("a < b", ("x|y", "n"), [("<script>", "1")], "R&D")
    assert "x\\|y" in table.markdown()
    assert "&lt;script&gt;" in table.html()
    assert "<script>" not in table.html()
    assert "R&amp;D" in table.html()


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (seconds, 1.234e-7, "123 ns"),
        (seconds, 4.5e-5, "45.0 us"),
        (seconds, 2.0, "2.00 s"),
        (seconds, math.nan, "-"),
        (digits, 1234.5, "1234"),
        (digits, 0.01234, "0.0123"),
        (digits, 0.0, "0"),
        (size, 1.5e6, "1.50 MB"),
        (size, 12.0, "12 B"),
    ],
)
def test_numbers_as_text(function, value, text):
    assert function(value) == text


def test_measured_limits_are_plausible():
    reason = limits.unavailable()
    if reason:
        pytest.skip(f"no C extension: {reason}")
    peaks = limits.every_isa()
    assert peaks
    assert all(1e8 < peak < 1e13 for peak in peaks.values())
    found = limits.measure(1)
    assert found.flops > 1e8
    assert [level.name for level in found.levels][-1] == "memory"
    for level in found.levels:
        assert min(level.read, level.write, level.copy) > 1e7
        assert max(level.read, level.write, level.copy) < 1e13
    with pytest.raises(RuntimeError, match="not to be had"):
        limits.measure(1, "no_such_isa")


# ---- the command line


def test_command_writes_json_plot_page_and_markdown(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: no plots")
    files = {kind: tmp_path / "new" / f"run.{kind}" for kind in ("json", "html", "md")}
    picture = tmp_path / "run.png"
    arguments = ["bench", "--rows", "exercise_1d", "--peers", "numpy_im2col", "--backends", "reference"]
    arguments += ["--operations", "forward", "--seconds", "0.01", "--plot", str(picture)]
    arguments += ["--json", str(files["json"]), "--html", str(files["html"]), "--markdown", str(files["md"])]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "[1/8] exercise_1d forward x1" in printed
    assert "[8/8] exercise_1d forward x1" in printed
    assert "Summary" in printed
    run = json.loads(files["json"].read_text())
    assert run["settings"]["contenders"] == ["reference", "numpy_im2col"]
    page = files["html"].read_text()
    assert page.count("<img") == 1
    assert not re.search(r"(src|href)=\"http", page)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "| exercise_1d | forward |" in files["md"].read_text()

    assert cli.main(["bench", "--show", str(files["json"])]) == 0
    assert "exercise_1d" in capsys.readouterr().out
    with pytest.raises(ValueError, match="share no match"):
        report.agreement(run, run)


def test_interrupted_run_keeps_what_it_has(tmp_path, capsys, monkeypatch):
    def stopped(*arguments, **options):
        yield from itertools.islice(everything(*arguments, **options), 3)
        raise KeyboardInterrupt

    everything = runner.tournament
    monkeypatch.setattr(runner, "tournament", stopped)
    arguments = ["bench", "--rows", "exercise_1d", "--peers", "none", "--backends", "reference", "--seconds", "0.01"]
    assert cli.main([*arguments, "--json", str(tmp_path / "run.json")]) == 130
    printed = capsys.readouterr()
    assert "after 3 of 24 sittings" in printed.err
    assert "run.json" in printed.err
    run = json.loads((tmp_path / "run.json").read_text())
    assert [entry["operation"] for entry in run["results"]] == ["forward", "backward_input", "backward_weight"]
    assert run["settings"]["interrupted"] == "after 3 of 24 sittings"
    assert cli.main(["bench", "--show", str(tmp_path / "run.json")]) == 0


def test_command_lists_rows_and_missing_rivals(capsys):
    assert cli.main(["bench", "--list"]) == 0
    printed = capsys.readouterr().out
    for word in ("resnet_56", "thin1d", "onnxruntime", "litert", "NHWC"):
        assert word in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "nothing"], "there is no row 'nothing'"),
        (["--family", "nothing"], "there is no family 'nothing'"),
        (["--peers", "nothing"], "there is no peer 'nothing'"),
        (["--backends", "nothing"], "there is no backend 'nothing'"),
        (["--operations", "sideways"], "there is no operation 'sideways'"),
        (["--backends", "none", "--peers", "none"], "nobody to time"),
        (["--show", "no_such_file.json"], "no_such_file.json"),
    ],
)
def test_command_says_what_is_wrong(arguments, message, capsys):
    assert cli.main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--threads", "x"], ["--seconds", "0"]])
def test_command_refuses_numbers(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", *arguments])
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_import_stays_light(run_python):
    done = run_python(
        "import sys, fastconv, fastconv.cli; fastconv.cli.parser()\n"
        "heavy = {'torch', 'scipy', 'numba', 'matplotlib', 'rich', 'fastconv.bench.peers', 'fastconv.bench.cases'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    assert done.stdout.strip() == "[]"
