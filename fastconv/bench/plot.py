"""The roofline of this machine with every row on it, and the ratios as bars, drawn with matplotlib from a document."""

from __future__ import annotations

import math
from typing import Any

from .report import YARDSTICK, Document, backends_in, best_time, speedup

_SHADES = {"forward": "#1f77b4", "backward_input": "#ff7f0e", "backward_weight": "#2ca02c"}
_MARKS = {"forward": "o", "backward_input": "s", "backward_weight": "^"}


def save(run: Document, path: str) -> None:
    """Write both plots to `path` (.png, .svg or .pdf). ValueError where there is nothing to draw."""
    figure = draw(run)
    figure.savefig(path, dpi=130)


def draw(run: Document) -> Any:
    """A matplotlib figure: the roofline, and one bar for each match's ratio to torch."""
    backends = backends_in(run["results"])
    if not backends:
        raise ValueError("nothing to draw: no backend of ours has times")
    from matplotlib.figure import Figure

    backend = backends[0]
    entries = [entry for entry in run["results"] if math.isfinite(best_time(entry, backend))]
    count = len(entries)
    bars_height = max(2.0, 0.14 * count)
    figure = Figure(figsize=(11, 7 + bars_height), layout="constrained")
    roof, bars = figure.subplots(2, 1, height_ratios=[7, bars_height])
    _roofline(roof, run, entries, backend)
    _ratios(bars, entries, backend)
    return figure


def _roofline(axes: Any, run: Document, entries: list[dict[str, Any]], backend: str) -> None:
    intensities = [entry["flops"] / entry["bytes"] for entry in entries]
    low, high = min(intensities) / 2, max(intensities) * 2
    for limit, dash in zip(run["limits"], ("-", "--", "-.", ":")):
        peak = limit["gflops"]
        threads = f"{limit['threads']} thread(s), {limit['isa']}"
        axes.plot([low, high], [peak, peak], dash, color="black", label=f"peak FMA, {threads}: {peak:.0f} GFLOP/s")
        for level, colour in zip(limit["levels"], ("#888888", "#777777", "#555555", "#333333")):
            bandwidth = level["read"]
            corner = min(high, peak / bandwidth)
            if corner > low:
                label = f"read from {level['name']}, {threads}: {bandwidth:.0f} GB/s"
                axes.plot([low, corner], [low * bandwidth, corner * bandwidth], dash, color=colour, lw=1, label=label)
    for name, filled in ((YARDSTICK, False), (backend, True)):
        for operation, mark in _MARKS.items():
            points = [
                (entry["flops"] / entry["bytes"], entry["flops"] / best_time(entry, name) / 1e9)
                for entry in entries
                if entry["operation"] == operation and math.isfinite(best_time(entry, name))
            ]
            if points:
                shade = _SHADES[operation]
                axes.scatter(
                    *zip(*points), marker=mark, s=22, label=f"{name} {operation}", edgecolors=shade,
                    facecolors=shade if filled else "none", linewidths=0.8, zorder=3 if filled else 2,
                )  # fmt: skip
    for entry in entries:
        if entry["operation"] == "forward":
            at = (entry["flops"] / entry["bytes"], entry["flops"] / best_time(entry, backend) / 1e9)
            axes.annotate(entry["row"], at, xytext=(3, 2), textcoords="offset points", fontsize=5)
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte of x, w and y (direct summation)", ylabel="GFLOP/s")
    axes.set_title(f"Roofline of {run['machine']['cpu']}")
    axes.legend(fontsize=6, loc="lower right")
    axes.grid(which="major", alpha=0.3)


def _ratios(axes: Any, entries: list[dict[str, Any]], backend: str) -> None:
    ratios = [speedup(entry, backend, YARDSTICK) for entry in entries]
    shown = sorted(
        ((ratio, entry) for ratio, entry in zip(ratios, entries) if math.isfinite(ratio)), key=lambda pair: pair[0]
    )
    if not shown:
        axes.set_axis_off()
        axes.text(0.5, 0.5, f"no match with {YARDSTICK}", ha="center")
        return
    places = range(len(shown))
    axes.barh(
        places,
        [ratio - 1 for ratio, _ in shown],
        left=1,
        color=[_SHADES[entry["operation"]] for _, entry in shown],
        alpha=0.85,
    )
    axes.set_xscale("log")
    axes.axvline(1, color="black", lw=1)
    labels = [f"{entry['row']} {entry['operation']} x{entry['threads']}  {ratio:.2f}" for ratio, entry in shown]
    axes.set_yticks(places, labels, fontsize=6)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel(f"times as fast as {YARDSTICK}")
    axes.set_title(f"{backend} against {YARDSTICK}, each operation of each row")
    axes.grid(axis="x", alpha=0.3)
