"""The report of the shift-equivariance experiment: one HTML file that needs no other.

Every sentence about what was measured is chosen by the numbers: by the sign of a difference, by whether there were
seeds enough for a test, by what the test says. What is known from mathematics or the literature stands apart from it.
"""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

from . import data, page
from .page import count, listed, p_value, points
from .page import per_cent as pc
from .statistics import MODELS, SIGNIFICANT

_TITLE = "fastconv: the shift-equivariance experiment"
NAME = {"cnn": "CNN", "mlp": "MLP"}


def write(results: dict[str, Any], out: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` for `results` into the folder `out`, whose ``figures`` it takes in. Returns the file."""
    out = Path(out)
    return page.write(out / "report.html", _TITLE, render(results, out / "figures"))


def render(results: dict[str, Any], figures: Path) -> list[str]:
    """The report as pieces of HTML; `figures` is the folder that :func:`fastconv.experiments.figures.draw` filled."""
    names = list(results["summary"])
    right, down = results["config"]["shift"]
    body = [
        "<h1>Does a CNN keep its accuracy when the images move?</h1>",
        f'<div class="answer">{"".join(page.paragraph(answer(results, name)) for name in names)}</div>',
        "<h2>What was done</h2>",
        *map(page.paragraph, _protocol(results)),
    ]
    for name in names:
        what = f"one validation image of each class; above as it is, below {right} px right and {down} px down"
        caption = f"{data.title(name)}: {what}."
        body.append(page.figure(figures / f"examples-{name}.png", caption))
    body += [
        "<h2>What was measured</h2>",
        _accuracy_table(results),
        page.figure(
            figures / "accuracies.png",
            "Accuracy of both models on the original (plain bars) and the shifted images (hatched bars).",
        ),
    ]
    for name in names:
        body += [f"<h3>{html.escape(data.title(name))}</h3>", *map(page.paragraph, findings(results, name))]
    body += [
        page.figure(figures / "shift_maps.png", "Mean accuracy for every shift; the frame marks the shift used above."),
        page.figure(figures / "learning_curves.png", "Accuracy and training loss after every epoch."),
        "<h2>What follows from it</h2>",
        *map(page.paragraph, conclusions(results)),
        "<h2>What is known, and was not measured here</h2>",
        *map(page.paragraph, _KNOWN),
        "<h2>Limits</h2>",
        *map(page.paragraph, _limits(results)),
        f"<h2>All runs</h2>\n<details><summary>{count(len(results['runs']), 'run')}</summary>",
        _runs_table(results),
        "</details>",
        "<h2>Settings</h2>",
        _settings_table(results),
    ]
    return body


# ---- sentences that follow from the numbers


def answer(results: dict[str, Any], dataset: str) -> str:
    """The result for one data set in two or three sentences."""
    cnn, mlp = (results["summary"][dataset][model] for model in MODELS)
    test = results["paired"][dataset]
    falls = (
        f"{data.title(dataset)}: moving the images by {_shift(results)} takes the CNN from {pc(cnn['original'])} to "
        f"{pc(cnn['shifted'])} and the MLP from {pc(mlp['original'])} to {pc(mlp['shifted'])}."
    )
    if min(cnn["drop"]["mean"], mlp["drop"]["mean"]) <= 0:
        invariant = "" if cnn["drop"]["mean"] > 0 else " The CNN lost nothing by it in these runs."
    else:
        invariant = " Neither of them is invariant to the shift."
    if test["p"] is None:
        compared = f" The CNN is {_better(test)} on the moved images; {_no_test(test)}."
    elif test["p"] < SIGNIFICANT:
        compared = f" The CNN is {_better(test)} on the moved images, more than chance explains ({p_value(test)})."
    else:
        size = points(abs(test["difference"]))
        compared = f" On the moved images the two differ by {size}, which chance may explain ({p_value(test)})."
    return falls + compared + invariant


def findings(results: dict[str, Any], dataset: str) -> list[str]:
    """What was measured on one data set, a paragraph a question."""
    cnn, mlp = (results["summary"][dataset][model] for model in MODELS)
    tests = results["paired"][dataset]
    return [
        _accuracy_sentence("original", tests["original"]),
        _accuracy_sentence("shifted", tests),
        f"The shift costs the CNN {points(cnn['drop']['mean'])} and the MLP {points(mlp['drop']['mean'])}. "
        f"{_drop_sentence(tests['drop'])}",
        _map_sentence(results, dataset),
    ]


def _drop_sentence(test: dict[str, Any]) -> str:
    size = points(abs(test["difference"]))
    claim = f"The CNN's drop is {size}{_spread(test)} {'smaller' if test['difference'] > 0 else 'larger'}"
    if test["p"] is None:
        return f"{claim}; {_no_test(test)}."
    if test["p"] < SIGNIFICANT:
        return f"{claim}, more than chance explains ({p_value(test)})."
    return f"{claim}, which chance may explain ({p_value(test)}): neither model is shown to be the more robust."


def _accuracy_sentence(images: str, test: dict[str, Any]) -> str:
    direction = "more accurate" if test["difference"] >= 0 else "less accurate"
    claim = (
        f"On the {images} images the CNN is {points(abs(test['difference']))}{_spread(test)} {direction} than the MLP"
    )
    if test["p"] is None:
        return f"{claim}; {_no_test(test)}."
    seeds = f"at {test['positive']} of {test['n']} seeds the CNN is ahead"
    if test["p"] < SIGNIFICANT:
        return f"{claim}: {seeds}, and chance does not explain the difference ({p_value(test)})."
    return f"{claim}, but {seeds}, and chance may explain the difference ({p_value(test)})."


def _map_sentence(results: dict[str, Any], dataset: str) -> str:
    shifts = results["shift_map"]["shifts"]
    parts = []
    centre = shifts.index(0)
    for model in MODELS:
        grid = results["shift_map"]["accuracy"][dataset][model]
        cells = [value for row in grid for value in row]
        along = grid[centre]
        parts.append(
            f"the {NAME[model]} has {100 * sum(cells) / len(cells):.1f} % on average over all {len(cells)} shifts, "
            f"{100 * along[centre - 1]:.1f} % and {100 * along[centre + 1]:.1f} % one pixel to the left and to the "
            f"right, and {100 * along[0]:.1f} % and {100 * along[-1]:.1f} % at {-shifts[0]} pixels"
        )
    return f"Over shifts from {shifts[0]} to {shifts[-1]} px in both directions {'; '.join(parts)}."


def conclusions(results: dict[str, Any]) -> list[str]:
    """What follows, over all data sets."""
    names = list(results["summary"])
    texts = []
    drops = [results["summary"][name][model]["drop"]["mean"] for name in names for model in MODELS]
    if min(drops) > 0:
        between = f"by between {100 * min(drops):.1f} and {points(max(drops))}"
        texts.append(
            f"Both models lose accuracy when the images move, {between}. Convolutions alone do not make the answers of "
            f"a network invariant."
        )
    elif max(drops) <= 0:
        texts.append(
            "No model lost accuracy by the shift in these runs; that is not what the theory below leads one to expect."
        )
    else:
        texts.append("Some of the models lose accuracy when the images move and some do not: see the table.")
    if all(results["paired"][name]["p"] is None for name in names):
        texts.append(
            "Nothing can be said about how far chance accounts for the differences between the models: that takes "
            "several seeds that differ."
        )
        return texts
    better = "the {} is the more accurate on the shifted images"
    loses = "the {} loses less by the shift"
    texts.append(_over_data_sets({name: results["paired"][name] for name in names}, better))
    texts.append(_over_data_sets({name: results["paired"][name]["drop"] for name in names}, loses))
    return texts


def _over_data_sets(tests: dict[str, dict[str, Any]], claim: str) -> str:
    """What the tests of the data sets say of `claim`, which has a place for the name of the model."""
    groups: dict[str, list[str]] = {}
    for name, test in tests.items():
        said = claim.format("CNN" if test["difference"] >= 0 else "MLP")
        if test["p"] is None:
            said = "this cannot be tested"
        elif test["p"] >= SIGNIFICANT:
            said = f"it is not shown that {said}"
        groups.setdefault(said, []).append(data.title(name))
    return " ".join(f"On {listed(members)} {said}." for said, members in groups.items())


_KNOWN = [
    "Away from the borders a convolution with stride 1 commutes with translation: moving the input moves the feature "
    "map. A layer with stride 2 keeps that only for shifts by multiples of 2, two such layers in a row only for "
    "multiples of 4. The shift of 2 px used here is half a step of the second layer's output, so that layer has no "
    "symmetry with respect to it.",
    "After the convolutions the features are flattened, and the linear layer has a weight of its own for every "
    "position. Even where the feature maps move along exactly, the answer may change. So this CNN is equivariant at "
    "best, and not invariant.",
    "Classifiers that are exactly invariant to circular shifts exist: convolutions without stride and with circular "
    "padding followed by global average pooling, or adaptive polyphase sampling (Chaman and Dokmanic, CVPR 2021). "
    "Blurring before downsampling (Zhang, ICML 2019) reduces the change without removing it. Azulay and Weiss (JMLR "
    "2019) report that shifting by one pixel changes the answers of modern CNNs with a probability of up to 30 %.",
    "Training on shifted images is the usual remedy, within the range of the shifts trained on. Dropout and batch "
    "normalisation have nothing in them that concerns position.",
]


def _protocol(results: dict[str, Any]) -> list[str]:
    config = results["config"]
    seeds = config["seeds"]
    return [
        "A small convolutional network (CNN: two convolutions of 4 x 4 with stride 2, then a linear layer) and a "
        f"small network without convolutions (MLP: 30 hidden units) learnt to classify images of {data.SIDE} x "
        f"{data.SIDE} pixels. They were trained on {config['train_images']:,} images as they are, and evaluated on "
        f"{config['validation_images']:,} others, once as they are and once with the content moved by "
        f"{_shift(results)}; what moves in is 0. Neither saw a moved image in training.",
        f"Training: cross-entropy, stochastic gradient descent with momentum {config['momentum']}, learning rate "
        f"{config['learning_rate']['cnn']} (CNN) and {config['learning_rate']['mlp']} (MLP), batches of "
        f"{config['batch_size']}, {count(config['epochs'], 'epoch')}. "
        + (
            "Everything was run once, with one seed: how much the numbers vary from run to run is not known."
            if seeds == 1
            else f"Everything was repeated with {seeds} seeds, which decide the initial weights and the order of the "
            "images. A number after ± is the standard deviation over the seeds. The models are compared seed by seed "
            f"with a paired t-test; a difference is called more than chance explains where p is below {SIGNIFICANT}."
        ),
        f"All convolutions, forward and backward, were computed by fastconv's own kernels: backend "
        f"{config['backend']} ({config['isa']}).",
    ]


def _limits(results: dict[str, Any]) -> list[str]:
    texts = [
        "Two small networks and images that are centred and have a plain background; larger networks, other "
        "architectures and photographs may behave otherwise.",
        "The test is about the randomness of training (initial weights and order). The images are the same at every "
        "seed, so it says nothing about other images.",
    ]
    config = results["config"]
    if 1 < config["seeds"] < 5:
        texts.append(f"With {config['seeds']} seeds a test finds only large differences.")
    if (config["train_images"], config["validation_images"], config["epochs"]) != (data.SPLIT, data.SPLIT, 10):
        texts.append(
            f"These runs are not the standard ones ({data.SPLIT:,} images to train on, {data.SPLIT:,} to validate on, "
            f"10 epochs), so they do not compare with published numbers."
        )
    return texts


# ---- pieces


def _spread(test: dict[str, Any]) -> str:
    return "" if test["std"] is None else f" (± {100 * test['std']:.1f})"


def _no_test(test: dict[str, Any]) -> str:
    return "with one seed there is no test" if test["n"] == 1 else "the difference is the same at every seed: no test"


def _better(test: dict[str, Any]) -> str:
    return f"{points(abs(test['difference']))} {'better' if test['difference'] >= 0 else 'worse'} than the MLP"


def _shift(results: dict[str, Any]) -> str:
    right, down = results["config"]["shift"]
    return f"{right} px to the right and {down} px down"


def _accuracy_table(results: dict[str, Any]) -> str:
    rows = []
    for name, models in results["summary"].items():
        for model, numbers in models.items():
            drop = f"{100 * numbers['drop']['mean']:.1f}"
            rows.append(
                [
                    f"{data.title(name)}, {NAME[model]}",
                    pc(numbers["original"]),
                    pc(numbers["shifted"]),
                    drop,
                ]
            )
    return page.table(["", "original", "shifted", "drop (points)"], rows)


def _runs_table(results: dict[str, Any]) -> str:
    rows = [
        [
            f"{data.title(run['dataset'])}, {NAME[run['model']]}, seed {run['seed']}",
            f"{100 * run['original']:.2f} %",
            f"{100 * run['shifted']:.2f} %",
            f"{run['epochs'][-1]['loss']:.4f}",
            f"{run['seconds']:.1f} s",
        ]
        for run in results["runs"]
    ]
    return page.table(["run", "original", "shifted", "training loss", "training time"], rows)


def _settings_table(results: dict[str, Any]) -> str:
    rows = [["fastconv", results["fastconv"]]]
    rows += [[name, version] for name, version in results["versions"].items()]
    rows += [
        [f"data: {name}", f"{entry['source']}, SHA-256 {entry['sha256']}"] for name, entry in results["data"].items()
    ]
    side_by_side = f"{count(results['config']['jobs'], 'training')} at a time, each on one thread"
    rows += [
        ["backend", f"{results['config']['backend']} ({results['config']['isa']})"],
        ["machine", f"{results['machine']}, {side_by_side}"],
        ["finished", results["finished"]],
    ]
    return page.table(["", ""], rows, "text")
