"""Study: which layers of the CNN move along when the image moves, and by which shifts?

For shifts of 0 to 8 px the relative error of f(shift x) against shift f(x) is taken after each layer f, before and
after training, with circular padding and circular shifts, and with the protocol's zero padding and zeros moving in. The
cumulative stride s of a layer is the number of pixels between neighbours in its output; a shift by d pixels asks of it
a shift by d / s places, of which the whole part is compared. The precision is "strict": every output is summed in the
same order wherever it is, so where the mathematics says zero, the result is zero to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ... import nn, settings
from .. import data, statistics
from ..equivariance import Config
from . import training

NAME = "layers"
PROTOCOL = 1
SHIFTS = range(9)
DIRECTIONS = {"right": (1, 0), "diagonal": (1, 1)}
PADDINGS = ("circular", "zeros")
# Of each layer: the number of modules of the model up to its end, its cumulative stride, the pixels that an output sees
# from the first, counted from `stride` times its place, and how many there are.
LAYERS = {"conv1": (1, 2, -1, 4), "conv2": (3, 4, -3, 10)}
PARTS = ("whole", "interior", "border")
IMAGES = 500


def descriptions(config: Config) -> list[dict[str, Any]]:
    """The cells, the longest first."""
    return [
        {"dataset": dataset, "padding": padding, "trained": trained, "seed": seed, "epochs": config.epochs}
        for trained in (True, False)
        for dataset in config.datasets
        for padding in PADDINGS
        for seed in range(config.seeds)
    ]


def compute(what: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The errors of one CNN: ``{"errors": {direction: {layer: {part: [of each shift]}}}, "logits": {...}, ...}``.

    A part that a shift leaves nothing of has the error None.
    """
    dataset = config.load(what["dataset"])
    model = training.build("cnn", what["seed"], padding_mode=what["padding"])
    if what["trained"]:
        training.train(
            model,
            (dataset.train_images, dataset.train_labels),
            lr=training.learning_rate("cnn"),
            epochs=what["epochs"],
            seed=what["seed"],
        )
    model.eval()
    images = dataset.validation_images[:IMAGES]
    circular = what["padding"] == "circular"
    with settings.precision("strict"):
        result: dict[str, Any] = {
            "errors": {name: errors(model, images, direction, circular) for name, direction in DIRECTIONS.items()},
            "logits": {
                name: [_logit_change(model, images, d, direction, circular) for d in SHIFTS]
                for name, direction in DIRECTIONS.items()
            },
        }
        if what["seed"] == 0 and what["trained"] and circular:
            result["picture"] = _picture(model, images)
    return result


def errors(
    model: nn.Sequential, images: np.ndarray, direction: tuple[int, int], circular: bool
) -> dict[str, dict[str, list[float | None]]]:
    """For each layer and part of its map the relative error at each shift.

    It is |f(shift x) - shift f(x)| / |f(x)|, Euclidean norms over all images, channels and places of the part.
    """
    found: dict[str, dict[str, list[float | None]]] = {}
    for layer, (depth, stride, first, size) in LAYERS.items():
        head = model[:depth]
        still = head(images)
        found[layer] = {part: [] for part in PARTS}
        for distance in SHIFTS:
            moved = head(move(images, distance, direction, circular))
            expected = move(still, distance // stride, direction, circular)
            inside = interior(still.shape[-1], stride, first, size, distance, direction)
            for part, where in zip(PARTS, (np.ones_like(inside), inside, ~inside), strict=True):
                found[layer][part].append(_relative(moved[..., where] - expected[..., where], still[..., where]))
    return found


def move(maps: np.ndarray, distance: int, direction: tuple[int, int], circular: bool) -> np.ndarray:
    """`maps` (..., H, W) moved by `distance` places along `direction` (right, down); around the edge, or zeros in.

    >>> move(np.array([[1, 2, 3]]), 1, (1, 0), circular=True).tolist()
    [[3, 1, 2]]
    """
    right, down = (distance * step for step in direction)
    if circular:
        return np.roll(maps, (down, right), axis=(-2, -1))
    return data.shift(maps, right, down)


def interior(places: int, stride: int, first: int, size: int, distance: int, direction: tuple[int, int]) -> np.ndarray:
    """(places, places) bool: which outputs see only pixels of the image, in the image itself and in the moved one.

    Output p sees the pixels ``stride * p + first`` and the ``size - 1`` after it; of the moved image's pixels the first
    `distance` along `direction` have moved in.
    """
    starts = stride * np.arange(places) + first
    in_image = starts + size <= data.SIDE
    columns, rows = (in_image & (starts >= step * distance) for step in direction)
    return rows[:, None] & columns[None, :]


def _relative(difference: np.ndarray, of: np.ndarray) -> float | None:
    if not of.size:
        return None
    size = float(np.linalg.norm(of.astype(np.float64)))
    return float(np.linalg.norm(difference.astype(np.float64))) / size if size else None


def _logit_change(
    model: nn.Sequential, images: np.ndarray, distance: int, direction: tuple[int, int], circular: bool
) -> float | None:
    still = model(images)
    return _relative(model(move(images, distance, direction, circular)) - still, still)


def _picture(model: nn.Sequential, images: np.ndarray) -> dict[str, Any]:
    """What the figure shows: one image, moved by 0, 2 and 4 px, and a channel of each layer's maps of it."""
    image = images[:1]
    shown: dict[str, Any] = {}
    for layer, (depth, stride, _, _) in LAYERS.items():
        head = model[:depth]
        channel = int(head(image).var(axis=(0, 2, 3)).argmax())
        shown[layer] = {"channel": channel, "stride": stride, "maps": {}}
        for distance in (0, 2, 4):
            maps = head(move(image, distance, DIRECTIONS["right"], True))
            shown[layer]["maps"][str(distance)] = maps[0, channel].astype(float).round(6).tolist()
    return {"image": image[0, 0].astype(float).round(4).tolist(), "layers": shown}


# ---- summary


def summarise(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``{dataset: {"errors": {padding: {"trained"/"untrained": {direction: {layer: {part: [mean_sd or None]}}}}},
    "picture": ...}}``, over the seeds; the layer "logits" has the part "whole" only."""
    datasets = list(dict.fromkeys(cell["dataset"] for cell in cells))
    return {dataset: _of_dataset([c for c in cells if c["dataset"] == dataset]) for dataset in datasets}


def _of_dataset(cells: list[dict[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for padding in PADDINGS:
        table[padding] = {}
        for state in (True, False):
            rows = [c for c in cells if (c["padding"], c["trained"]) == (padding, state)]
            table[padding]["trained" if state else "untrained"] = {
                direction: {
                    **{
                        layer: {
                            part: _over_seeds([r["errors"][direction][layer][part] for r in rows]) for part in PARTS
                        }
                        for layer in LAYERS
                    },
                    "logits": {"whole": _over_seeds([r["logits"][direction] for r in rows])},
                }
                for direction in DIRECTIONS
            }
    picture = next(cell["picture"] for cell in cells if "picture" in cell)
    return {"errors": table, "picture": picture}


def _over_seeds(rows: list[list[float | None]]) -> list[dict[str, Any] | None]:
    columns = zip(*rows, strict=True)
    return [None if None in column else statistics.mean_sd([v for v in column if v is not None]) for column in columns]
