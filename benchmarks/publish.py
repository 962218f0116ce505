"""Puts the tables of a full run into benchmarks/README.md, and the run itself beside it.

    fastconv bench --json run.json
    fastconv bench --beyond --json beyond.json
    python benchmarks/publish.py run.json [beyond.json]

The runs are kept as ``results/<name>.json``; what stands between the README's two marks is replaced. Nothing is left
out: the tables hold every row, and say who was missing. A run may carry a ``"note"``, a sentence on how it was made.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fastconv.bench import beyond, report

HERE = Path(__file__).resolve().parent
START, END = "<!-- results: made by publish.py -->", "<!-- end of results -->"


def section(run: report.Document, more: dict[str, Any] | None) -> str:
    """The text between the marks."""
    machine = run["machine"]
    busy = "" if run["cpu_seconds"] > 0.9 * run["seconds"] * min(run["settings"]["threads"]) else (
        " **Other work was going on meanwhile**, so a quiet machine will give steadier numbers."
    )  # fmt: skip
    disturbed = sum(timing.get("disturbed", False) for entry in run["results"] for timing in entry["timings"].values())
    timed = sum(timing["status"] == "ok" for entry in run["results"] for timing in entry["timings"].values())
    stopped = run["settings"].get("interrupted")
    busy += f" **Stopped early**, {stopped}: rows without a time were not reached." if stopped else ""
    parts = [
        f"fastconv {run['fastconv']}, {run['date'][:10]}. {machine['cpu']}, {machine['cpus']} CPUs, "
        f"{machine['system']}, {machine['isa']}; Python {machine['python']}, NumPy {machine['numpy']}, "
        f"{machine['compiler']}. "
        f"--seconds {run['settings']['seconds']}: took {run['seconds']:.0f} s, {run['cpu_seconds']:.0f} s of CPU time; "
        f"{disturbed} of {timed} timings were never undisturbed.{busy}" + (f" {run['note']}." if "note" in run else ""),
        report.summary_table(run).markdown(),
        *(table.markdown() for table in report.limit_tables(run)),
        *(report.result_table(run, backend).markdown() for backend in report.backends_in(run["results"])),
        report.everybody_table(run).markdown(),
        report.contender_table(run["contenders"]).markdown(),
        report.refusals_table(run).markdown(),
    ]
    if more is not None:
        parts += ["## Beyond speed", f"{more['date'][:10]}, {more['machine']['cpu']}."]
        parts += [table.markdown() for table in beyond.all_tables(more)]
    return "\n\n".join(parts)


def replaced(text: str, new: str) -> str:
    """`text` with `new` between the marks. ValueError where a mark is missing."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"the marks {START} and {END} are not there")
    return f"{before}{START}\n\n{new}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("beyond", type=Path, nargs="?")
    options = parser.parse_args()
    run = json.loads(options.run.read_text(encoding="utf-8"))
    more = json.loads(options.beyond.read_text(encoding="utf-8")) if options.beyond else None
    readme = HERE / "README.md"
    readme.write_text(replaced(readme.read_text(encoding="utf-8"), section(run, more)), encoding="utf-8")
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    for name, document in (("suite", run), ("beyond", more)):
        if document is not None:
            (folder / f"{name}.json").write_text(
                json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8"
            )


if __name__ == "__main__":
    main()
