"""The figures of the shift-equivariance experiment, as PNG files, drawn from what ``results.json`` holds.

Colours are those of Okabe and Ito ("Color universal design", 2008), which colour-blind readers can tell apart; whatever
a colour says, a marker, a hatch or a line style says too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from . import data, statistics
from .statistics import MODELS, SETS

COLOUR = {"cnn": "#0072B2", "mlp": "#D55E00"}
MARKER = {"cnn": "o", "mlp": "s"}
LINE = {"original": "-", "shifted": "--"}
HATCH = {"original": "", "shifted": "///"}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "hatch.linewidth": 0.6,
}
DPI = 150


def draw(results: dict[str, Any], datasets: dict[str, data.Dataset], folder: str | os.PathLike[str]) -> list[Path]:
    """Draw every figure of `results` into `folder` and return the files: ``accuracies.png``, ``learning_curves.png``,
    ``shift_maps.png``, and an ``examples-NAME.png`` of each of the `datasets`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figures = {f"examples-{name}": examples(dataset, results) for name, dataset in datasets.items()}
        figures["accuracies"] = accuracies(results)
        figures["learning_curves"] = learning_curves(results)
        figures["shift_maps"] = shift_maps(results)
        return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def save(figure: Figure, path: Path) -> Path:
    """Write `figure` as a PNG file, as a whole or not at all. Returns `path`."""
    FigureCanvasAgg(figure)
    temporary = path.with_name(path.name + ".tmp")
    figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    os.replace(temporary, path)
    return path


def _shift_words(results: dict[str, Any]) -> str:
    right, down = results["config"]["shift"]
    return f"shifted {right} px right, {down} px down"


def examples(dataset: data.Dataset, results: dict[str, Any]) -> Figure:
    """One validation image of each class, as it is and shifted."""
    labels = dataset.validation_labels
    found = [int(np.argmax(labels == label)) for label in range(data.CLASSES) if (labels == label).any()]
    images = dataset.validation_images[found, 0]
    rows = (images, data.shift(images, *results["config"]["shift"]))
    figure = Figure(figsize=(8, 2.1), layout="constrained")
    axes = figure.subplots(2, len(found), squeeze=False)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            ax = axes[row, column]
            ax.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            for spine in ax.spines.values():
                spine.set(visible=True, color="#bbbbbb")
            if row == 0:
                ax.set_title(dataset.class_names[labels[found[column]]], fontsize=9)
        axes[row, 0].set_ylabel(SETS[row])
    figure.suptitle(
        f"{data.title(dataset.name)}: validation images as they are, and {_shift_words(results)}", fontsize=10
    )
    return figure


def accuracies(results: dict[str, Any]) -> Figure:
    """The four accuracies of each data set: means as bars, standard deviations as error bars, seeds as points."""
    names = list(results["summary"])
    figure = Figure(figsize=(0.9 + 4.3 * len(names), 4.2), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, names, strict=True):
        for i, kind in enumerate(SETS):
            for j, model in enumerate(MODELS):
                numbers = results["summary"][name][model][kind]
                x = i + (j - 0.5) * 0.38
                ax.bar(
                    x,
                    100 * numbers["mean"],
                    0.34,
                    yerr=None if numbers["std"] is None else 100 * numbers["std"],
                    capsize=4,
                    color=COLOUR[model],
                    alpha=1.0 if kind == "original" else 0.75,
                    hatch=HATCH[kind],
                    edgecolor="white",
                    label=model.upper() if i == 0 else None,
                )
                seeds = [100 * run[kind] for run in _of(results, name, model)]
                ax.plot(
                    x + np.linspace(-0.11, 0.11, len(seeds)) if len(seeds) > 1 else [x],
                    seeds,
                    MARKER[model],
                    color="black",
                    markersize=2.5,
                    alpha=0.6,
                )
                top = max([100 * (numbers["mean"] + (numbers["std"] or 0)), *seeds])
                ax.text(x, top + 1.5, f"{100 * numbers['mean']:.1f}", ha="center", fontsize=9)
        ax.set_xticks(range(len(SETS)), ["original", "shifted"])
        ax.set_title(data.title(name))
        ax.set_ylim(0, 108)
        ax.set_yticks(range(0, 101, 20))
        ax.grid(False, axis="x")
        ax.axhline(100 / data.CLASSES, color="#555555", linestyle=":", linewidth=1, label="guessing")
    axes[0].set_ylabel("validation accuracy (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    seeds = results["config"]["seeds"]
    bars = "" if seeds == 1 else f"\nerror bars: standard deviation over {seeds} seeds; points: the seeds"
    figure.suptitle(f"Accuracy, original and {_shift_words(results)}{bars}", fontsize=9)
    return figure


def learning_curves(results: dict[str, Any]) -> Figure:
    """Accuracies and training loss after every epoch: mean as a line, standard deviation as a band."""
    names = list(results["summary"])
    figure = Figure(figsize=(9, 0.7 + 3.2 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 2, sharex=True, sharey="col", squeeze=False, width_ratios=(3, 2))
    for row, name in enumerate(names):
        left, right = axes[row]
        for model in MODELS:
            for kind in SETS:
                _curve(left, results, name, model, kind, 100.0, LINE[kind], f"{model.upper()}, {kind}")
            _curve(right, results, name, model, "loss", 1.0, "-", model.upper())
        left.set_title(data.title(name), loc="left")
        left.set_ylabel("validation accuracy (%)")
        right.set_ylabel("training loss (nats)")
        right.set_ylim(bottom=0)
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    seeds = results["config"]["seeds"]
    if seeds > 1:
        figure.suptitle(f"Mean over {seeds} seeds; bands: standard deviation", fontsize=9)
    return figure


def _curve(
    ax: Any, results: dict[str, Any], dataset: str, model: str, key: str, scale: float, line: str, label: str
) -> None:
    mean, std = (scale * np.array(values) for values in statistics.mean_curves(results["runs"], dataset, model, key))
    epochs = np.arange(1, len(mean) + 1)
    ax.plot(epochs, mean, line, color=COLOUR[model], marker=MARKER[model], markersize=3.5, label=label)
    ax.fill_between(epochs, mean - std, mean + std, color=COLOUR[model], alpha=0.15, linewidth=0)


def shift_maps(results: dict[str, Any]) -> Figure:
    """For each data set and model the mean accuracy at every shift; a frame marks the shift of the main result."""
    shifts = results["shift_map"]["shifts"]
    names = list(results["summary"])
    figure = Figure(figsize=(4 * len(MODELS) + 0.8, 0.6 + 3.7 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(MODELS), sharex=True, sharey=True, squeeze=False)
    right, down = results["config"]["shift"]
    for row, name in enumerate(names):
        for column, model in enumerate(MODELS):
            ax = axes[row, column]
            values = 100 * np.array(results["shift_map"]["accuracy"][name][model])
            image = ax.imshow(values, cmap="cividis", vmin=0, vmax=100)
            for (i, j), value in np.ndenumerate(values):
                ax.text(
                    j, i, f"{value:.0f}", ha="center", va="center", fontsize=8, color="black" if value > 55 else "white"
                )
            ax.set_xticks(range(len(shifts)), [f"{s:+d}" if s else "0" for s in shifts])
            ax.set_yticks(range(len(shifts)), [f"{s:+d}" if s else "0" for s in shifts])
            ax.grid(False)
            if right in shifts and down in shifts:
                corner = (shifts.index(right) - 0.5, shifts.index(down) - 0.5)
                ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="white", linewidth=2))
                ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=0.8))
            ax.set_title(f"{data.title(name)}, {model.upper()}: mean {values.mean():.1f} %")
            if row == len(names) - 1:
                ax.set_xlabel("shift to the right (px)")
            if column == 0:
                ax.set_ylabel("shift down (px)")
    figure.colorbar(image, ax=axes, label="validation accuracy (%)", shrink=0.8, aspect=30)
    return figure


def _of(results: dict[str, Any], dataset: str, model: str) -> list[dict[str, Any]]:
    return [run for run in results["runs"] if (run["dataset"], run["model"]) == (dataset, model)]
