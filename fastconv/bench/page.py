"""One self-contained page of a run: plots, tables, machine. No script, no link, nothing fetched."""

from __future__ import annotations

import base64
import html
import io

from . import plot, report

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-size: 12px; }
th, td { padding: 2px 8px; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
tbody tr:hover { background: #f4f4f4; }
.wide { overflow-x: auto; }
img { max-width: 100%; }
p { max-width: 50em; }
"""


def render(run: report.Document) -> str:
    """The page as HTML. Without matplotlib, or with nothing to draw, it says so in the place of the plots."""
    machine = ", ".join(f"{html.escape(str(key))}: {html.escape(str(value))}" for key, value in run["machine"].items())
    tables = report.all_tables(run)
    # What one wants to know first comes first.
    ordered = sorted(tables, key=lambda table: table.title != "Summary")
    body = "\n".join(table.html() for table in ordered)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>fastconv {html.escape(run["fastconv"])}: benchmarks</title>
<style>{_STYLE}</style></head><body>
<h1>fastconv {html.escape(run["fastconv"])}: benchmarks</h1>
<p>{html.escape(run["date"])}, {run["seconds"]:.0f} s. {machine}.</p>
<p>Each contender is timed in turn within one process, after its result was checked against float64. Rows that lose are
shown like all others.</p>
{_plots(run)}
{body}
</body></html>
"""


def _plots(run: report.Document) -> str:
    try:
        figure = plot.draw(run)
    except (ValueError, ModuleNotFoundError) as error:
        return f"<p>No plots: {html.escape(str(error))}.</p>"
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    encoded = base64.b64encode(image.getvalue()).decode("ascii")
    return f'<img alt="roofline and ratios" src="data:image/png;base64,{encoded}">'
