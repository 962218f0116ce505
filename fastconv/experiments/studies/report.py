"""The report of the studies: one HTML file, a chapter a study, that keeps what was measured apart from what is known.

As in the base experiment's report, every sentence about a measurement is chosen by the numbers.
"""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .. import data, page
from ..page import count, listed, p_value, points
from ..page import per_cent as pc
from ..statistics import MODELS, SIGNIFICANT
from . import STANDARD, reference
from .invariant import ARCHITECTURES, EXACT, IMAGES, SEEDS
from .layers import IMAGES as LAYER_IMAGES
from .layers import LAYERS, SHIFTS
from .mnist1d import BATCH_SIZE, FEATURES, LEARNING_RATE, STEPS
from .remedies import COMBINATIONS, CONTROLS, FAR, LONGER
from .training import DROPOUT, RANGE

TITLES = {
    "remedies": "Which remedies help against the shift?",
    "layers": "Which layers move along with the image?",
    "invariant": "Networks that are invariant by construction",
    "mnist1d": "The same question in one dimension",
}
Results = dict[str, Any]


def write(results: dict[str, Results], out: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` for the studies in `results` into `out`, whose ``figures`` it takes in. Returns the "
    "file."""
    out = Path(out)
    body = ["<h1>Convolutions and moved images: the shift study</h1>"]
    if len(results) > 1:
        links = "".join(f'<li><a href="#{name}">{html.escape(TITLES[name])}</a></li>' for name in results)
        body.append(f"<ol>{links}</ol>")
    for name, result in results.items():
        body += chapter(name, result, out / "figures")
    return page.write(out / "report.html", "fastconv: the shift study", body)


def chapter(name: str, results: Results, figures: Path) -> list[str]:
    """One study as pieces of HTML; `figures` is the folder that :func:`.figures.draw` filled."""
    return [
        f'<h2 id="{name}">{html.escape(TITLES[name])}</h2>',
        f'<div class="answer">{"".join(map(page.paragraph, answers(results)))}</div>',
        "<h3>What was done</h3>",
        *map(page.paragraph, [*_DONE[name](results), *_setting(results)]),
        "<h3>What was measured</h3>",
        *_MEASURED[name](results, figures),
        "<h3>Against an independent implementation</h3>",
        *_agreement(results),
        "<h3>What is known, and was not measured here</h3>",
        *map(page.paragraph, _KNOWN[name]),
    ]


def answers(results: Results) -> list[str]:
    """What came out, in a few sentences, a paragraph a data set."""
    return _ANSWERS[results["study"]](results)


def _datasets(results: Results) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, found in results["summary"].items():
        yield name, data.title(name), found


# ---- sentences about tests


def _verdict(test: dict[str, Any], more: str, less: str) -> str:
    """`more` or `less` by the sign of the mean difference, with its size and what the test says."""
    size = points(abs(test["difference"]))
    said = more if test["difference"] >= 0 else less
    if test["p"] is None:
        why = "one seed: no test" if test["n"] == 1 else "the same at every seed: no test"
        return f"{said} by {size} ({why})"
    if test["p"] < SIGNIFICANT:
        return f"{said} by {size}, more than chance explains ({p_value(test)})"
    return f"{said} by {size}, which chance may explain ({p_value(test)})"


def _setting(results: Results) -> list[str]:
    config = results["config"]
    seeds = config["seeds_used"]
    said = "Everything was run with one seed: how much the numbers vary from run to run is not known."
    if seeds > 1:
        said = (
            f"Everything was repeated with {seeds} seeds. A number after ± is the standard deviation over them, and "
            f"tests are paired by seed."
        )
    if seeds < config["seeds"]:
        said += f" That is fewer than the {config['seeds']} seeds of the other studies, to keep the whole set short."
    if any(config[key] != value for key, value in STANDARD.items()) and results["study"] != "mnist1d":
        said += (
            f" This is not the standard protocol but {count(config['epochs'], 'epoch')}, {config['train_images']:,} "
            f"images to train on and {config['validation_images']:,} to validate on."
        )
    return [f"{said} All convolutions were computed by fastconv, backend {config['backend']} ({config['isa']})."]


def _agreement(results: Results) -> list[str]:
    found = results["agreement"]
    if found is None:
        return [page.paragraph("These runs are not the standard ones, so they do not compare with the reference.")]
    pieces = _AGREEMENT_WITHOUT_SPREAD[results["study"]](results)
    if not found["n"]:
        none = "The reference has no accuracies with a standard deviation for this study and these data sets."
        return pieces or [page.paragraph(none)]
    said = (
        f"{found['n']} accuracies are known from a {found['source']}. {found['within_two']} of them agree within two "
        f"standard errors of the difference of the means, {found['within_three']} within three. One in twenty is "
        f"expected beyond two by chance; standard deviations from three seeds are themselves uncertain by half."
    )
    rows = [
        [
            ", ".join(part for part in (row["dataset"] and data.title(row["dataset"]), row["model"].upper(),
                                        row["variant"], row["quantity"]) if part),
            pc(row["ours"]),
            pc(row["reference"]),
            f"{row['z']:+.1f}",
        ]
        for row in found["rows"]
    ]  # fmt: skip
    table = page.table(["", "fastconv", "PyTorch", "z"], rows)
    summary = f"<details><summary>{count(len(rows), 'comparison')}</summary>{table}</details>"
    return [page.paragraph(said), summary, *pieces]


# ---- remedies


def _remedies_answers(results: Results) -> list[str]:
    texts = []
    for _, title, found in _datasets(results):
        parts = []
        for model in MODELS:
            of = found["variants"][model]
            parts.append(
                f"shifted training data bring the {model.upper()} from {pc(of['none']['shifted'])} to "
                f"{pc(of['shifts']['shifted'])} on the moved images, {_share(of['shifts'])} of what the shift took; "
                f"dropout gives {_share(of['dropout'])} of it back and batch normalisation {_share(of['batch norm'])}"
            )
        texts.append(f"{title}: {'. '.join(part[0].upper() + part[1:] for part in parts)}.")
    return texts


def _share(numbers: dict[str, Any]) -> str:
    if numbers["recovered"] is None:
        return "nothing"
    return f"{round(100 * numbers['recovered'])} %"  # round: no minus sign before 0


def _remedies_done(results: Results) -> list[str]:
    return [
        "The base experiment's CNN and MLP were trained again with every combination of three remedies: training "
        "images "
        f"moved at random by up to {RANGE} px in each direction, anew in every epoch; dropout of {DROPOUT:.0%} before "
        f"the "
        "last layer; batch normalisation before each ReLU. They were evaluated on the validation images as they are "
        "and "
        "moved by 2 px to the right and 2 px down.",
        "Three controls: three times as many epochs with moved training images; training on the moved set alone; and "
        "one fixed permutation of all pixels, for both models and both sets, after which neighbours are no longer "
        "neighbours.",
    ]


def _remedies_measured(results: Results, figures: Path) -> list[str]:
    pieces = []
    for name, title, found in _datasets(results):
        table, claims = found["variants"], found["claims"]
        pieces.append(f"<h4>{html.escape(title)}</h4>")
        heading = ["", *(f"{model.upper()} {what}" for model in MODELS for what in ("original", "shifted", "back"))]
        rows = [
            [variant]
            + [
                cell
                for model in MODELS
                for cell in (
                    pc(table[model][variant]["original"]),
                    pc(table[model][variant]["shifted"]),
                    "" if variant in ("none", *CONTROLS) and variant != LONGER else _share(table[model][variant]),
                )
            ]
            for variant in (*COMBINATIONS, *CONTROLS)
        ]
        pieces += [page.table(heading, rows), page.paragraph("Back: the part of the lost accuracy that is regained.")]
        pieces.append(
            page.figure(
                figures / f"remedies-accuracies-{name}.png",
                "Accuracy on the original and the moved images with every combination of the remedies.",
            )
        )
        for model in MODELS:
            of = table[model]
            said = [
                f"{remedy}: the {model.upper()} is {_verdict(of[remedy]['gain'], 'better', 'worse')}"
                for remedy in ("shifts", "dropout", "batch norm")
            ]
            pieces.append(page.paragraph(f"On the moved images, against no remedy. {'; '.join(said)}."))
        far = "; ".join(
            f"the {model.upper()} trained with moved images has {pc(table[model]['shifts']['far'])} (without: "
            f"{pc(table[model]['none']['far'])})"
            for model in MODELS
        )
        pieces.append(page.paragraph(f"Beyond the range of the training, moved by {FAR} px right and down: {far}."))
        pieces += map(page.paragraph, _remedies_claims(claims, table))
        pieces += [
            page.figure(
                figures / f"remedies-overfitting-{name}.png",
                "Overfitting: accuracy on the training images minus accuracy on the validation images, neither moved.",
            ),
            page.figure(figures / f"remedies-controls-{name}.png", "The controls beside no remedy and moved images."),
        ]
    return pieces


def _remedies_claims(claims: dict[str, Any], table: dict[str, Any]) -> list[str]:
    swapped = [
        f"for the {m.upper()} {pc(table[m]['trained on shifted']['shifted'])} on the moved and "
        f"{pc(table[m]['trained on shifted']['original'])} on the original images; compared with the model trained and "
        f"evaluated on the original images this one, on the set that it was trained for, is "
        f"{_verdict(claims[f'{m}_swapped_set'], 'better', 'worse')}"
        for m in MODELS
    ]
    last = {m: 100 * table[m]["none"]["gap"][-1]["mean"] for m in MODELS}
    return [
        f"Claim: training on the moved set alone gives the moved set the unmoved accuracy. Measured: "
        f"{'; '.join(swapped)}.",
        f"Claim: the MLP overfits more. Measured after the last epoch: the CNN is {last['cnn']:.1f} points better on "
        f"its training images than on the validation images, the MLP {last['mlp']:.1f}; the MLP's gap is "
        f"{_verdict(claims['mlp_overfits_more'], 'larger', 'smaller')}.",
        f"Claim: the CNN wins by spatial structure. Measured on the original images: with the pixels in their places "
        f"the "
        f"CNN is {_verdict(claims['cnn_ahead'], 'ahead', 'behind')}; with the pixels permuted it is "
        f"{_verdict(claims['cnn_ahead_permuted'], 'ahead', 'behind')}.",
    ]


# ---- layers


def _layers_answers(results: Results) -> list[str]:
    texts = []
    for _, title, found in _datasets(results):
        errors = found["errors"]["circular"]["trained"]["right"]
        exact = {layer: _zeros(errors[layer]["whole"]) for layer in LAYERS}
        at_two = errors["conv2"]["whole"][2]["mean"]
        said = "; ".join(f"{layer} moves along exactly at {_px(shifts)}" for layer, shifts in exact.items())
        texts.append(
            f"{title}, circular: {said}. At the 2 px of the experiment the second layer is off by {at_two:.0%} of its "
            f"output's size: {'it has no symmetry there' if at_two else 'it moves along there as well'}."
        )
    return texts


def _zeros(numbers: list[dict[str, Any] | None]) -> list[int]:
    """The shifts at which every seed's error is exactly zero."""
    return [s for s, n in zip(SHIFTS, numbers, strict=True) if n is not None and n["mean"] == 0]


def _px(shifts: list[int]) -> str:
    return f"{listed([str(shift) for shift in shifts])} px" if shifts else "no shift"


def _layers_done(results: Results) -> list[str]:
    return [
        f"The CNN was given {LAYER_IMAGES} validation images as they are and moved by 0 to {SHIFTS[-1]} px, and after "
        "each layer f the map of the moved image was compared with the moved map of the image: |f(shift x) - shift "
        "f(x)| "
        "/ |f(x)|. Places of the first layer's map are 2 px apart, of the second's 4 px; a map can be moved by whole "
        "places only, so by the whole part of the shift over that distance. For the logits, which have no places, the "
        "map is not moved: what is taken is their change.",
        "Once with circular shifts and circular padding, where there are no borders, and once as in the experiment, "
        "with zero padding and zeros moving in. There the interior is made of those outputs that see neither padding "
        "nor "
        "zeros that moved in, and the border of the others.",
    ]


def _layers_measured(results: Results, figures: Path) -> list[str]:
    pieces = []
    for name, title, found in _datasets(results):
        errors = found["errors"]
        pieces.append(f"<h4>{html.escape(title)}</h4>")
        heading = ["error after a shift right of", *(f"{shift} px" for shift in SHIFTS)]
        rows = [
            [
                f"{layer}, {padding.removesuffix('s')} padding, {state}",
                *(_error(n) for n in errors[padding][state]["right"][layer]["whole"]),
            ]
            for padding in errors
            for state in ("trained", "untrained")
            for layer in (*LAYERS, "logits")
        ]
        rows += [
            [
                f"{layer}, zero padding, trained, interior",
                *(_error(n) for n in errors["zeros"]["trained"]["right"][layer]["interior"]),
            ]
            for layer in LAYERS
        ]
        pieces.append(page.table(heading, rows))
        pieces.append(page.paragraph("0 is exactly zero, to the last bit, at every seed; 0.00 is not."))
        inside = {layer: _zeros(errors["zeros"]["trained"]["right"][layer]["interior"]) for layer in LAYERS}
        everywhere = {layer: _zeros(errors["zeros"]["trained"]["right"][layer]["whole"]) for layer in LAYERS}
        said = "; ".join(
            f"{layer} exactly at {_px(inside[layer])} in the interior, at {_px(everywhere[layer])} on the whole map"
            for layer in LAYERS
        )
        pieces.append(page.paragraph(f"With zero padding the layers move along: {said}."))
        pieces += [
            page.figure(figures / f"layers-errors-{name}.png", "The error of every layer at every shift to the right."),
            page.figure(
                figures / f"layers-picture-{name}.png",
                "Why 2 px are no symmetry of the second layer: its places are 4 px apart, and between two places "
                "there is "
                "nothing that the map could have moved to.",
            ),
            page.figure(
                figures / f"layers-parts-{name}.png",
                "The protocol's own case, zeros and a diagonal shift: the borders spoil what is exact in the interior.",
            ),
        ]
    return pieces


def _error(numbers: dict[str, Any] | None) -> str:
    if numbers is None:
        return "-"
    return "0" if numbers["mean"] == 0 else f"{numbers['mean']:.2f}"


def _layers_reference(results: Results) -> list[str]:
    rows = []
    for entry in reference.load()["layers"]:
        if entry["dataset"] in results["summary"]:
            of = results["summary"][entry["dataset"]]["errors"][entry["padding"]]["trained"]
            ours = of[entry["direction"]][entry["layer"]][entry["part"]]
            where = f"{entry['layer']}, {entry['padding']}, {entry['direction']}, {entry['part']}"
            shown = [(shift, theirs) for shift, theirs in enumerate(entry["errors"]) if theirs is not None]
            rows.append([where, *([""] * 2)])
            rows[-1][1] = "  ".join(f"{shift}: {_error(ours[shift])}" for shift, _ in shown)
            rows[-1][2] = "  ".join(f"{shift}: {theirs:g}" for shift, theirs in shown)
    if not rows:
        return []
    said = f"Errors at each shift in px, from a {reference.load()['source']}, one network, so without a spread:"
    return [page.paragraph(said), page.table(["", "fastconv", "PyTorch"], rows, "text")]


# ---- invariant


def _invariant_answers(results: Results) -> list[str]:
    texts = []
    for _, title, found in _datasets(results):
        trained = {name: found[name]["trained"] for name in ARCHITECTURES}
        whole = [
            name for name in ARCHITECTURES if all(trained[name][k]["mean"] == 1 for k in ("random", "one pixel", "any"))
        ]
        others = [name for name in ARCHITECTURES if name not in whole]
        said = f"{listed(whole)} keep every single answer under circular shifts (100.00 %)" if whole else (
            "no network keeps every answer under circular shifts"
        )  # fmt: skip
        rest = ", ".join(f"{name} {100 * trained[name]['random']['mean']:.1f} %" for name in others)
        texts.append(f"{title}: {said}. Answers that stay under a random shift: {rest}.")
    return texts


def _invariant_done(results: Results) -> list[str]:
    sizes = IMAGES["trained"]
    return [
        "Seven small networks with circular padding. Five have three convolutions of 3 x 3 (8, 16, 32 channels), two "
        "downsamplings, global average pooling and a linear layer, and differ in how they downsample: stride, max "
        "pooling, "
        "a blur of 3 or 5 taps before every second value is taken (BlurPool), or the polyphase component of largest "
        "norm "
        "(APS); 'stride 1' does not downsample at all. Beside them the experiment's own CNN and MLP.",
        "Consistency is the share of answers that do not change when the image is moved around the edge: by a random "
        f"shift and by one pixel ({sizes['random']} images, four shifts each), and the share of images whose answer "
        f"stays "
        f"under every one of the 784 shifts ({sizes['any']} images). An untrained network gives nearly all images the "
        "same answer and looks consistent; so for it the outputs count: the root mean square of their change under a "
        "shift, relative to their spread over different images.",
        f"At most {SEEDS} seeds: these trainings take longest.",
    ]


def _invariant_measured(results: Results, figures: Path) -> list[str]:
    pieces = []
    for name, title, found in _datasets(results):
        pieces.append(f"<h4>{html.escape(title)}</h4>")
        heading = ["trained", "accuracy", "moved 2 px", "stays: 1 px", "random", "any of 784", "output change"]
        rows = [
            [architecture, *(pc(found[architecture]["trained"][key]) for key in ("accuracy", "shifted")),
             *(_exact(found[architecture]["trained"][key]) for key in ("one pixel", "random", "any")),
             _size(found[architecture]["trained"]["change"])]
            for architecture in ARCHITECTURES
        ]  # fmt: skip
        pieces.append(page.table(heading, rows))
        heading = ["untrained", "stays: 1 px", "random", "any of 784", "classes answered", "output change"]
        rows = [
            [architecture,
             *(_exact(found[architecture]["untrained"][key]) for key in ("one pixel", "random", "any")),
             f"{found[architecture]['untrained']['classes']['mean']:.1f}",
             _size(found[architecture]["untrained"]["change"])]
            for architecture in ARCHITECTURES
        ]  # fmt: skip
        pieces.append(page.table(heading, rows))
        caption = "Accuracy and consistency after training; those marked exact are invariant by construction."
        pieces.append(page.figure(figures / f"invariant-consistency-{name}.png", caption))
        caption = "How far a circular shift moves the outputs; the exact ones move by rounding errors only."
        pieces.append(page.figure(figures / f"invariant-change-{name}.png", caption))
        rounding = max(
            found[architecture][s]["change"]["mean"] for architecture in EXACT for s in ("untrained", "trained")
        )
        said = f"The outputs of {listed(list(EXACT))} change by at most {rounding:.0e} of their spread, "
        said += "which is rounding." if rounding < 1e-4 else "which is more than rounding: something is wrong."
        pieces.append(page.paragraph(said))
    return pieces


def _exact(numbers: dict[str, Any]) -> str:
    """A share, in which 100 % means all of them, and nothing less is rounded to it."""
    share = 100 * numbers["mean"]
    return f"{share:.2f} %" if share == 100 else f"{min(share, 99.9):.1f} %"


def _size(numbers: dict[str, Any]) -> str:
    return f"{numbers['mean']:.2g}"


def _invariant_reference(results: Results) -> list[str]:
    rows = []
    for entry in reference.load()["invariant"]:
        if entry["dataset"] in results["summary"]:
            ours = results["summary"][entry["dataset"]][entry["architecture"]]["trained"]
            theirs = f"{100 * entry['accuracy']:.1f} % / {100 * entry['random']:.4g} %"
            rows.append([entry["architecture"], f"{pc(ours['accuracy'])} / {_exact(ours['random'])}", theirs])
    for entry in reference.load()["untrained_change"]:
        if entry["dataset"] in results["summary"]:
            ours = results["summary"][entry["dataset"]][entry["architecture"]]["untrained"]
            label = f"{entry['architecture']}, untrained, output change"
            rows.append([label, _size(ours["change"]), f"{entry['change']:.2g}"])
    if not rows:
        return []
    said = (
        f"Accuracy / answers that stay under a random circular shift, from a {reference.load()['source']}, no spread:"
    )
    return [page.paragraph(said), page.table(["", "fastconv", "PyTorch"], rows)]


# ---- mnist1d


def _mnist1d_answers(results: Results) -> list[str]:
    found, claims = results["summary"]["accuracy"], results["summary"]["claims"]
    return [
        f"In order the CNN has {pc(found['cnn']['in order'])} and the MLP {pc(found['mlp']['in order'])}: the CNN is "
        f"{_verdict(claims['cnn_ahead'], 'ahead', 'behind')}. Shuffled, the same for every example, the CNN has "
        f"{pc(found['cnn']['shuffled'])} and the MLP {pc(found['mlp']['shuffled'])}: the CNN is "
        f"{_verdict(claims['cnn_ahead_shuffled'], 'ahead', 'behind')}."
    ]


def _mnist1d_done(results: Results) -> list[str]:
    steps = results["cells"][0]["what"]["steps"]
    said = "" if steps == STEPS else f" (the standard is {STEPS})"
    return [
        "MNIST-1D: ten templates of twelve values, one for each digit, are padded, stretched, scaled, moved by a "
        "random "
        "distance, covered with noise, sheared, and sampled at 40 places; 4,000 examples to train on and 1,000 to test "
        "with. The data are generated here, from the published description and seed.",
        "The CNN has three conv1d layers with stride 2 and 5,210 parameters, the MLP two hidden layers of 100 with a "
        "skip "
        f"connection and 15,210. Adam with learning rate {LEARNING_RATE}, batches of {BATCH_SIZE} in a "
        f"new order every epoch (the paper's program keeps one order), {steps} steps{said}. "
        "Then the same with the 40 features shuffled by one permutation.",
    ]


def _mnist1d_measured(results: Results, figures: Path) -> list[str]:
    found, claims = results["summary"], results["summary"]["claims"]
    theirs = {(e["variant"], e["model"]): e for e in reference.load()["accuracies"] if e["study"] == "mnist1d"}
    paper = {(e["features"], e["model"]): e["accuracy"] for e in reference.load()["mnist1d_paper"]}
    rows = [
        [f"{model.upper()}, {features}", pc(found["accuracy"][model][features]), pc(found["training"][model][features]),
         pc(theirs[features, model]), f"{100 * paper[features, model]:.0f} %"]
        for features in FEATURES
        for model in MODELS
    ]  # fmt: skip
    return [
        page.figure(figures / "mnist1d-examples.png", "The templates, and an example of each from the test set."),
        page.table(["", "test", "training", "PyTorch, test", "paper's table, test"], rows),
        page.paragraph("The paper's own notebook gives 92.3 % and 65.1 % in place of its table's 94 % and 68 %."),
        page.paragraph(
            f"Shuffling: in order the CNN is {_verdict(claims['cnn_loses'], 'better', 'worse')} than shuffled, the MLP "
            f"{_verdict(claims['mlp_loses'], 'better', 'worse')}."
        ),
        page.figure(
            figures / "mnist1d-accuracies.png", "Test accuracy of both models, features in order and shuffled."
        ),
    ]


_DONE: dict[str, Callable[[Results], list[str]]] = {
    "remedies": _remedies_done,
    "layers": _layers_done,
    "invariant": _invariant_done,
    "mnist1d": _mnist1d_done,
}
_ANSWERS: dict[str, Callable[[Results], list[str]]] = {
    "remedies": _remedies_answers,
    "layers": _layers_answers,
    "invariant": _invariant_answers,
    "mnist1d": _mnist1d_answers,
}
_MEASURED: dict[str, Callable[[Results, Path], list[str]]] = {
    "remedies": _remedies_measured,
    "layers": _layers_measured,
    "invariant": _invariant_measured,
    "mnist1d": _mnist1d_measured,
}
_AGREEMENT_WITHOUT_SPREAD: dict[str, Callable[[Results], list[str]]] = {
    "remedies": lambda results: [],
    "layers": _layers_reference,
    "invariant": _invariant_reference,
    "mnist1d": lambda results: [],
}
_KNOWN = {
    "remedies": [
        "Neither dropout nor batch normalisation has anything in it that concerns position: dropout removes features "
        "at "
        "random, batch normalisation rescales channels. Moved training images show the network the positions "
        "themselves; "
        "what it has not been shown, it need not know.",
        "An MLP is indifferent to a fixed permutation of its inputs: its first layer can learn the permuted weights as "
        "well. The initial weights are drawn alike for every input, so its accuracy differs by chance alone.",
    ],
    "layers": [
        "A convolution with stride 1 commutes with every shift. One with stride s gives every s-th place of the same "
        "result, so it commutes with shifts by multiples of s; layers in a row, with multiples of the product of their "
        "strides (Azulay and Weiss, JMLR 2019, call a network's response to other shifts aliasing).",
        "Zero padding breaks this at the border, since a zero that was padded differs from a pixel that moved in. And "
        "the "
        "linear layer after Flatten has a weight of its own for every place, so a feature that moves along perfectly "
        "may "
        "still change the answer.",
    ],
    "invariant": [
        "Circular convolutions commute with circular shifts, and a global average does not see them: without "
        "downsampling the network is exactly invariant. Adaptive polyphase sampling keeps that with downsampling, "
        "because "
        "a shift only permutes the polyphase components that it chooses from (Chaman and Dokmanic, CVPR 2021; "
        "learnable: "
        "Rojas-Gomez and others, NeurIPS 2022).",
        "BlurPool (Zhang, ICML 2019) reduces aliasing without removing it. On ImageNet it was reported to take "
        "ResNet18 from an accuracy of 69.74 % and a consistency of 85.11 % to 71.67 % and 88.36 %, and ResNet50 from "
        "76.16 % "
        "and 89.20 % to 77.41 % and 91.32 %. Azulay and Weiss (JMLR 2019): one pixel changes a modern CNN's answer "
        "with a "
        "probability of up to 30 %.",
        "All of this is about circular shifts. Photographs have borders, at which content comes in and goes out.",
    ],
    "mnist1d": [
        "Greydanus, 'Scaling down deep learning' (2020): the features of an example are moved at random, so a model "
        "that knows that neighbours belong together needs fewer examples. A permutation takes exactly this knowledge's "
        "use away; an MLP is indifferent to it.",
    ],
}
