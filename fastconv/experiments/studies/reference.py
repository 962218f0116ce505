"""Do the studies agree with an independent implementation? The numbers of a plain PyTorch run, and the comparison.

``reference.json`` holds them, with their source. Two means over different seeds are compared by z, their difference in
units of its standard error, sqrt(s1**2 / n1 + s2**2 / n2).
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("reference.json")
_SAME_IMAGES = {"fashion-full": "fashion"}


@functools.cache
def load() -> dict[str, Any]:
    """The content of ``reference.json``."""
    content: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return content


def agreement(study: str, summary: dict[str, Any]) -> dict[str, Any]:
    """Every accuracy of the reference that `summary` has as well, beside it, with z.

    Returns ``{"source", "rows": [{"dataset", "variant", "model", "quantity", "reference", "ours", "z"}], "n",
    "within_two", "within_three"}``; the last three count rows.
    """
    rows = []
    datasets = [None] if study == "mnist1d" else list(summary)
    for dataset in datasets:
        for entry in load()["accuracies"]:
            if entry["study"] == study and entry.get("dataset") == _SAME_IMAGES.get(dataset or "", dataset):
                ours = _ours(study, summary, dataset, entry)
                theirs = {key: entry[key] for key in ("mean", "std", "n")}
                rows.append(
                    {"dataset": dataset, "variant": entry["variant"], "model": entry["model"],
                     "quantity": entry["quantity"], "reference": theirs, "ours": ours, "z": z(ours, theirs)}
                )  # fmt: skip
    return {
        "source": load()["source"],
        "rows": rows,
        "n": len(rows),
        "within_two": sum(abs(row["z"]) <= 2 for row in rows),
        "within_three": sum(abs(row["z"]) <= 3 for row in rows),
    }


def _ours(study: str, summary: dict[str, Any], dataset: str | None, entry: dict[str, Any]) -> dict[str, Any]:
    if study == "mnist1d":
        found: dict[str, Any] = summary["accuracy"][entry["model"]][entry["variant"]]
    else:
        assert dataset is not None
        found = summary[dataset]["variants"][entry["model"]][entry["variant"]][entry["quantity"]]
    return found


def z(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The difference of two means in units of its standard error; one seed of ours is taken to spread as theirs do.

    >>> z({"mean": 0.95, "std": 0.03, "n": 9}, {"mean": 0.93, "std": 0.0, "n": 4})
    2.0
    """
    std = theirs["std"] if ours["std"] is None else ours["std"]
    error = math.sqrt(std**2 / ours["n"] + theirs["std"] ** 2 / theirs["n"])
    return round((ours["mean"] - theirs["mean"]) / error, 6) if error else 0.0
