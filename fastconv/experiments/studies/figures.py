"""The figures of the studies, drawn from what their JSON files hold, in the style of the base experiment's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from .. import data
from ..data import mnist1d as signals
from ..figures import COLOUR, HATCH, LINE, MARKER, STYLE, save
from ..statistics import MODELS, SETS
from . import reference
from .invariant import ARCHITECTURES, EXACT
from .layers import LAYERS, PADDINGS, SHIFTS
from .mnist1d import FEATURES
from .remedies import COMBINATIONS, CONTROLS

# Okabe and Ito, "Color universal design" (2008)
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
LAYER_STYLE = {"conv1": (BLUE, "o", "-"), "conv2": (VERMILION, "s", "--"), "logits": (BLACK, "^", ":")}
CONSISTENCY = {"one pixel": (SKY, ""), "random": (BLUE, "///"), "any": (BLACK, "")}
CONSISTENCY_LABEL = {
    "one pixel": "answers that stay after 1 px",
    "random": "answers that stay after a random shift",
    "any": "images whose answer stays under all 784 shifts",
}


def draw(results: dict[str, Any], folder: str | os.PathLike[str]) -> list[Path]:
    """Draw the figures of one study's `results` into `folder`, as ``STUDY-NAME.png``, and return the files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        return [
            save(figure, folder / f"{results['study']}-{name}.png")
            for name, figure in _FIGURES[results["study"]](results).items()
        ]


def _seeds(results: dict[str, Any]) -> str:
    seeds = results["config"]["seeds_used"]
    return "one seed" if seeds == 1 else f"means over {seeds} seeds; error bars: standard deviation"


def _error(numbers: dict[str, Any]) -> float:
    return 100 * (numbers["std"] or 0.0)


# ---- remedies


def _remedies(results: dict[str, Any]) -> dict[str, Figure]:
    figures = {}
    for dataset, found in results["summary"].items():
        name = data.title(dataset)
        figures[f"accuracies-{dataset}"] = _remedy_accuracies(found, name, _seeds(results))
        figures[f"overfitting-{dataset}"] = _overfitting(found, name, results["config"]["seeds_used"])
        figures[f"controls-{dataset}"] = _controls(found, name, _seeds(results))
    return figures


def _set_bars(ax: Any, rows: list[dict[str, Any]], names: list[str], colour: str) -> None:
    """For each of `rows` a bar for the original and one for the shifted set, one row below the other."""
    for offset, kind in zip((-0.2, 0.2), SETS, strict=True):
        places = np.arange(len(rows)) + offset
        means = [100 * row[kind]["mean"] for row in rows]
        errors = [_error(row[kind]) for row in rows]
        ax.barh(
            places, means, 0.36, xerr=errors, capsize=2.5, color=colour, alpha=1.0 if kind == "original" else 0.6,
            hatch=HATCH[kind], edgecolor="white", label=f"{kind} images",
        )  # fmt: skip
        for place, mean, error in zip(places, means, errors, strict=True):
            ax.text(mean + error + 1.5, place, f"{mean:.1f}", va="center", fontsize=8)
    ax.set_yticks(range(len(rows)), names)
    ax.set_xlim(0, 112)
    ax.set_xticks(range(0, 101, 20))
    ax.set_xlabel("validation accuracy (%)")
    ax.grid(False, axis="y")


def _remedy_accuracies(found: dict[str, Any], title: str, seeds: str) -> Figure:
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots(1, len(MODELS), sharey=True)
    for ax, model in zip(axes, MODELS, strict=True):
        _set_bars(ax, [found["variants"][model][name] for name in COMBINATIONS], list(COMBINATIONS), COLOUR[model])
        ax.set_title(model.upper())
        for kind in SETS:
            plain = 100 * found["variants"][model]["none"][kind]["mean"]
            ax.axvline(plain, color="#555555", linestyle=LINE[kind], linewidth=1)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize=8, frameon=False)
    axes[0].invert_yaxis()
    figure.suptitle(f"{title}: every combination of the remedies; lines: without any. {seeds.capitalize()}", fontsize=9)
    return figure


def _overfitting(found: dict[str, Any], title: str, seeds: int) -> Figure:
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(1, len(MODELS), sharey=True)
    colours = {(): BLACK, ("dropout",): BLUE, ("batch norm",): ORANGE, ("dropout", "batch norm"): PURPLE}
    markers = dict(zip(colours, "osD^", strict=True))
    for ax, model in zip(axes, MODELS, strict=True):
        for name, variant in COMBINATIONS.items():
            others = tuple(remedy for remedy in variant.remedies if remedy != "shifts")
            gap = found["variants"][model][name]["gap"]
            mean, std = (np.array([100 * (point[key] or 0.0) for point in gap]) for key in ("mean", "std"))
            epochs = np.arange(1, len(gap) + 1)
            line = "--" if "shifts" in variant.remedies else "-"
            ax.plot(
                epochs, mean, line, color=colours[others], marker=markers[others], markersize=3.5,
                markerfacecolor="white" if line == "--" else colours[others], label=name,
            )  # fmt: skip
            ax.fill_between(epochs, mean - std, mean + std, color=colours[others], alpha=0.12, linewidth=0)
        ax.axhline(0, color="#555555", linewidth=0.8)
        ax.set_title(model.upper())
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("training - validation accuracy (points)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    bands = "" if seeds == 1 else f" Means over {seeds} seeds; bands: standard deviation"
    figure.suptitle(f"{title}: overfitting after every epoch, unshifted images.{bands}", fontsize=9)
    return figure


def _controls(found: dict[str, Any], title: str, seeds: str) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, len(MODELS), sharey=True)
    names = ["none", "shifts", *CONTROLS]
    for ax, model in zip(axes, MODELS, strict=True):
        _set_bars(ax, [found["variants"][model][name] for name in names], names, COLOUR[model])
        ax.set_title(model.upper())
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8, frameon=False)
    axes[0].invert_yaxis()
    figure.suptitle(f"{title}: the controls. {seeds.capitalize()}", fontsize=9)
    return figure


# ---- layers


def _layers(results: dict[str, Any]) -> dict[str, Figure]:
    figures = {}
    for dataset, found in results["summary"].items():
        figures[f"errors-{dataset}"] = _layer_errors(found["errors"], data.title(dataset), _seeds(results))
        figures[f"parts-{dataset}"] = _layer_parts(found["errors"], data.title(dataset), _seeds(results))
        figures[f"picture-{dataset}"] = _half_a_step(found["picture"])
    return figures


def _line(ax: Any, numbers: list[dict[str, Any] | None], style: tuple[str, str, str], label: str) -> None:
    colour, marker, line = style
    known = [(shift, n) for shift, n in zip(SHIFTS, numbers, strict=True) if n is not None]
    shifts, means = [shift for shift, _ in known], [n["mean"] for _, n in known]
    errors = [n["std"] or 0.0 for _, n in known]
    ax.errorbar(
        shifts, means, errors, color=colour, marker=marker, linestyle=line, markersize=5, capsize=2.5, label=label
    )
    zero = [shift for shift, mean in zip(shifts, means, strict=True) if mean == 0]
    ax.plot(zero, [0.0] * len(zero), marker, color=colour, markerfacecolor="white", markersize=9, clip_on=False)


def _layer_errors(errors: dict[str, Any], title: str, seeds: str) -> Figure:
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(len(PADDINGS), 2, sharex=True, sharey=True)
    for row, padding in enumerate(PADDINGS):
        for column, state in enumerate(("trained", "untrained")):
            ax = axes[row, column]
            for layer, style in LAYER_STYLE.items():
                label = f"{layer} (steps of {LAYERS[layer][1]} px)" if layer in LAYERS else layer
                _line(ax, errors[padding][state]["right"][layer]["whole"], style, label)
            ax.set_title(f"{padding.removesuffix('s')} padding, {state}", loc="left")
            ax.set_xticks(list(SHIFTS))
            ax.set_ylim(bottom=-0.05)
            if row == len(PADDINGS) - 1:
                ax.set_xlabel("shift to the right (px)")
            if column == 0:
                ax.set_ylabel("relative error of\nf(shift x) against shift f(x)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(f"{title}: large open markers are exact zeros. {seeds.capitalize()}", fontsize=9)
    return figure


def _layer_parts(errors: dict[str, Any], title: str, seeds: str) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, len(LAYERS), sharey=True)
    styles = {"interior": (GREEN, "o", "-"), "border": (ORANGE, "s", "--"), "whole": (BLACK, "^", ":")}
    for ax, layer in zip(axes, LAYERS, strict=True):
        for part, style in styles.items():
            label = "whole map" if part == "whole" else part
            _line(ax, errors["zeros"]["trained"]["diagonal"][layer][part], style, label)
        ax.set_title(f"{layer} (steps of {LAYERS[layer][1]} px)", loc="left")
        ax.set_xticks(list(SHIFTS))
        ax.set_xlabel("shift to the right and down (px)")
        ax.set_ylim(bottom=-0.05)
    axes[0].set_ylabel("relative error of\nf(shift x) against shift f(x)")
    axes[0].legend(fontsize=8, framealpha=0.9)
    figure.suptitle(f"{title}, trained, zeros moving in: interior and border apart. {seeds.capitalize()}", fontsize=9)
    return figure


def _half_a_step(picture: dict[str, Any]) -> Figure:
    """The image moved by 0, 2 and 4 px, and under each what a channel of both layers makes of it."""
    layers = picture["layers"]
    figure = Figure(figsize=(8, 7.6), layout="constrained")
    axes = figure.subplots(1 + len(layers), 4, squeeze=False)
    image = np.array(picture["image"])
    for column, distance in enumerate((0, 2, 4)):
        _show(axes[0, column], np.roll(image, distance, axis=1), "gray_r", (0.0, 1.0))
        axes[0, column].set_title("the image" if not distance else f"moved {distance} px", fontsize=10)
    axes[0, 3].axis("off")
    words = "Where a layer moves along,\nits map is the first one,\nmoved by whole places."
    axes[0, 3].text(0, 0.5, words, va="center", fontsize=9, transform=axes[0, 3].transAxes)
    for row, (layer, shown) in enumerate(layers.items(), start=1):
        maps = {distance: np.array(values) for distance, values in shown["maps"].items()}
        span = max(float(np.abs(values).max()) for values in maps.values())
        for column, distance in enumerate(maps):
            values, steps = maps[distance], int(distance) / shown["stride"]
            _show(axes[row, column], values, "PuOr", (-span, span))
            if steps == int(steps):
                same = np.array_equal(values, np.roll(maps["0"], int(steps), axis=1))
                note = f"{steps:g} place{'' if steps == 1 else 's'}: {'the' if same else 'not the'} first, moved"
            else:
                note = f"{steps:g} places: a map of its own"
            axes[row, column].set_xlabel(note if int(distance) else "the first map", fontsize=8)
        axes[row, 0].set_ylabel(f"{layer}, channel {shown['channel']}\none place = {shown['stride']} px", fontsize=9)
        halfway = maps["2"] - np.roll(maps["0"], 2 // shown["stride"], axis=1)
        _show(axes[row, 3], halfway, "PuOr", (-span, span))
        axes[row, 3].set_xlabel("after 2 px: minus the first,\nmoved by the whole places", fontsize=8)
    figure.suptitle("Two pixels are a whole step of the first layer and half a step of the second", fontsize=11)
    return figure


def _show(ax: Any, values: np.ndarray, colours: str, span: tuple[float, float]) -> None:
    ax.imshow(values, cmap=colours, vmin=span[0], vmax=span[1], interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)


# ---- invariant


def _invariant(results: dict[str, Any]) -> dict[str, Figure]:
    figures = {}
    for dataset, found in results["summary"].items():
        figures[f"consistency-{dataset}"] = _consistency(found, data.title(dataset), _seeds(results))
        figures[f"change-{dataset}"] = _change(found, data.title(dataset), _seeds(results))
    return figures


def _consistency(found: dict[str, Any], title: str, seeds: str) -> Figure:
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    places = np.arange(len(ARCHITECTURES))
    trained = [found[name]["trained"] for name in ARCHITECTURES]
    accuracies = [100 * row["accuracy"]["mean"] for row in trained]
    left.errorbar(
        accuracies, places, xerr=[_error(row["accuracy"]) for row in trained], fmt="o", color=BLACK, capsize=3
    )
    for place, value in zip(places, accuracies, strict=True):
        left.text(value, place - 0.22, f"{value:.1f}", ha="center", fontsize=8)
    left.set_xlabel("validation accuracy (%)")
    left.margins(x=0.2)
    for number, (kind, (colour, hatch)) in enumerate(CONSISTENCY.items()):
        offset = 0.26 * (number - 1)
        means = [100 * row[kind]["mean"] for row in trained]
        errors = [_error(row[kind]) for row in trained]
        right.barh(
            places + offset, means, 0.24, xerr=errors, capsize=2, color=colour, hatch=hatch, edgecolor="white",
            label=CONSISTENCY_LABEL[kind],
        )  # fmt: skip
        for place, mean, error in zip(places + offset, means, errors, strict=True):
            right.text(mean + error + 1, place, f"{mean:.4g}" if mean != 100 else "100", va="center", fontsize=7)
    right.set_xlim(0, 112)
    right.set_xticks(range(0, 101, 20))
    right.set_xlabel("consistency (%)")
    left.set_yticks(places, [f"{name} (exact)" if name in EXACT else name for name in ARCHITECTURES])
    left.invert_yaxis()
    for ax in (left, right):
        ax.grid(False, axis="y")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(f"{title}, trained, circular shifts. {seeds.capitalize()}", fontsize=9)
    return figure


def _change(found: dict[str, Any], title: str, seeds: str) -> Figure:
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    ax = figure.subplots()
    places = np.arange(len(ARCHITECTURES))
    for offset, (state, marker, colour) in zip((-0.12, 0.12), (("untrained", "o", SKY), ("trained", "s", VERMILION))):
        numbers = [found[name][state]["change"] for name in ARCHITECTURES]
        means = np.array([n["mean"] for n in numbers])
        stds = np.array([n["std"] or 0.0 for n in numbers])
        below = np.minimum(stds, 0.9 * means)  # a logarithmic axis has no place for 0
        ax.errorbar(means, places + offset, xerr=(below, stds), fmt=marker, color=colour, capsize=3, label=state)
    theirs = {entry["architecture"]: entry["change"] for entry in reference.load()["untrained_change"]}
    if title == "MNIST":
        known = [(theirs[name], place) for place, name in zip(places, ARCHITECTURES, strict=True) if name in theirs]
        ax.plot(*zip(*known, strict=True), "x", color=BLACK, label="untrained, PyTorch")
    ax.set_xscale("log")
    ax.axvline(1, color="#555555", linestyle=":", linewidth=1)
    ax.set_yticks(places, ARCHITECTURES)
    ax.invert_yaxis()
    ax.set_xlabel("change of the outputs under a circular shift, relative to their spread over images (1 = as large)")
    ax.legend(fontsize=8)
    figure.suptitle(f"{title}: how far a shift moves the outputs. {seeds.capitalize()}", fontsize=9)
    return figure


# ---- mnist1d


def _mnist1d(results: dict[str, Any]) -> dict[str, Figure]:
    return {"examples": _signals(), "accuracies": _mnist1d_accuracies(results)}


def _signals() -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(2, signals.CLASSES, sharey="row", sharex="row")
    generated = signals.generate()
    for label, curve in enumerate(signals.templates()):
        example = generated.test[np.argmax(generated.test_labels == label)]
        for ax, values, colour in zip(axes[:, label], (curve, example), (BLACK, BLUE), strict=True):
            ax.plot(values, np.arange(len(values)), color=colour, linewidth=1.2)
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
        axes[0, label].set_title(str(label))
    for ax, name in zip(axes[:, 0], ("template", "example"), strict=True):
        ax.set_ylabel(f"{name}:\nposition, down", fontsize=8)
        ax.invert_yaxis()
    figure.suptitle("MNIST-1D: the ten templates and a test example of each; values to the right", fontsize=9)
    return figure


def _mnist1d_accuracies(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained")
    ax = figure.subplots()
    found = results["summary"]["accuracy"]
    for number, model in enumerate(MODELS):
        places = np.arange(len(FEATURES)) + 0.4 * (number - 0.5)
        means = [100 * found[model][features]["mean"] for features in FEATURES]
        errors = [_error(found[model][features]) for features in FEATURES]
        ax.bar(places, means, 0.34, yerr=errors, capsize=4, color=COLOUR[model], edgecolor="white", label=model.upper())
        for place, mean, error in zip(places, means, errors, strict=True):
            ax.text(place, mean + error + 1.5, f"{mean:.1f}", ha="center", fontsize=9)
        for name, entries, marker in (
            ("PyTorch", [e for e in reference.load()["accuracies"] if e["study"] == "mnist1d"], MARKER["cnn"]),
            ("paper", reference.load()["mnist1d_paper"], "x"),
        ):
            of = {e.get("variant", e.get("features")): 100 * e.get("mean", e.get("accuracy")) for e in entries
                  if e["model"] == model}  # fmt: skip
            ax.plot(
                places + (0.1 if name == "paper" else -0.1), [of[features] for features in FEATURES], marker,
                color=BLACK, markersize=6, markerfacecolor="white", label=name if number == 0 else None,
            )  # fmt: skip
    ax.axhline(100 / signals.CLASSES, color="#555555", linestyle=":", linewidth=1, label="guessing")
    ax.set_xticks(range(len(FEATURES)), [f"features {features}" for features in FEATURES])
    ax.set_ylim(0, 108)
    ax.set_ylabel("test accuracy (%)")
    ax.grid(False, axis="x")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.suptitle(f"MNIST-1D. {_seeds(results).capitalize()}", fontsize=9)
    return figure


_FIGURES: dict[str, Callable[[dict[str, Any]], dict[str, Figure]]] = {
    "remedies": _remedies,
    "layers": _layers,
    "invariant": _invariant,
    "mnist1d": _mnist1d,
}
