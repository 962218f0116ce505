"""Whole models in eager PyTorch against the same models after fastconv.torch.convert(model, example=...), in turn.

    python benchmarks/torch_models.py [--models wav2vec,resnet18] [--threads 1,2] [--seconds 10] [--all]
                                      [--json FILE] [--publish]
    python benchmarks/torch_models.py --layers [--threads 1]

Both sides start from the same weights. Each round runs one step (forward, loss, backward) on either side, a different
one first each time, and gives one ratio; the median of them is reported, so that a slow moment of the machine hits
both. On one thread it is CPU time that is read, which other processes do not count in; on more, the time passed.
A third contender is the eager model with convolutions that cost nothing (they give what they gave the first time): its
ratio is what no convolution can surpass. Memory is what the first step of a new process adds to it at its peak (Linux
alone).

Before anything is timed, losses and gradients are compared: the loss relatively, between the two; the gradients of
either with those of the same model in float64, relative to the largest of the whole model. A value within rounding of
zero may pass a ReLU on one side and not on the other, and a gradient then differs by much more than rounding. So these
values are counted, and the gradients compared once more with every ReLU held to the side that float64 takes.

``--layers`` times single layers instead, those of the suite, and prints the means by kind that
fastconv.torch.conversion.GAINS holds. ``--publish`` puts the table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import collections
import copy
import functools
import json
import math
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import fastconv as fc
import fastconv.torch as ft
from fastconv.bench import cases
from fastconv.torch import conversion

# ---- the models


class Wav2Vec2Encoder(nn.Module):
    """The feature encoder of wav2vec 2.0 base (Baevski et al. 2020): seven convolutions, 320 samples a frame."""

    def __init__(self) -> None:
        super().__init__()
        kernels, strides = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
        channels = (1, *[512] * 7)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(channels[i], channels[i + 1], kernels[i], strides[i], bias=False) for i in range(7)
        )
        self.norm = nn.GroupNorm(512, 512)

    def forward(self, x: Tensor) -> Tensor:
        for i, convolution in enumerate(self.convolutions):
            x = convolution(x)
            x = F.gelu(self.norm(x) if i == 0 else x)
        return x


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm, two linear layers, scaled residual (Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand, self.reduce = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.reduce(F.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext_stage() -> nn.Module:
    """The first stage of ConvNeXt-T behind its stem: 96 channels, three blocks."""
    return nn.Sequential(nn.Conv2d(3, 96, 4, 4), *(ConvNeXtBlock(96) for _ in range(3)))


class InvertedResidual(nn.Module):
    """Expand, depthwise 3x3, project (Sandler et al. 2018)."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = c_in * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(c_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()]
        layers += [
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def mobilenet_v2() -> nn.Module:
    """MobileNetV2, width 1."""
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    width = 32
    for expansion, c_out, count, stride in plan:
        for i in range(count):
            layers.append(InvertedResidual(width, c_out, stride if i == 0 else 1, expansion))
            width = c_out
    layers += [nn.Conv2d(width, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


class BasicBlock(nn.Module):
    """Two 3x3 and a shortcut (He et al. 2016)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.norm2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    width = 64
    for c_out in (64, 128, 256, 512):
        layers += [BasicBlock(width, c_out, 1 if c_out == 64 else 2), BasicBlock(c_out, c_out, 1)]
        width = c_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


class TCNBlock(nn.Module):
    """One dilated block of Conv-TasNet's separator: 1x1, depthwise, 1x1 (Luo and Mesgarani 2019)."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(128, 512, 1),
            nn.PReLU(),
            nn.GroupNorm(1, 512),
            nn.Conv1d(512, 512, 3, padding=dilation, dilation=dilation, groups=512),
            nn.PReLU(),
            nn.GroupNorm(1, 512),
            nn.Conv1d(512, 128, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ConvTasNet(nn.Module):
    """Conv-TasNet's encoder and one repeat of eight blocks, masking two speakers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, 512, 16, 8, bias=False)
        self.bottleneck = nn.Sequential(nn.GroupNorm(1, 512), nn.Conv1d(512, 128, 1))
        self.blocks = nn.Sequential(*(TCNBlock(2**i) for i in range(8)))
        self.mask = nn.Sequential(nn.PReLU(), nn.Conv1d(128, 2 * 512, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.encoder(x))
        masks = self.mask(self.blocks(self.bottleneck(y)))
        return masks.unflatten(1, (2, 512)) * y[:, None]


def lenet() -> nn.Module:
    """LeNet-5 on 28x28 images (LeCun et al. 1998), with ReLU."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 120, 5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


class ConformerConvolution(nn.Module):
    """The convolution module of a Conformer layer (Gulati et al. 2020): 256 channels, 31 taps depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(256)
        self.expand = nn.Conv1d(256, 512, 1)
        self.depthwise = nn.Conv1d(256, 256, 31, padding=15, groups=256)
        self.batch_norm = nn.BatchNorm1d(256)
        self.project = nn.Conv1d(256, 256, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.expand(self.norm(x.mT).mT), dim=1)
        return x + self.project(F.silu(self.batch_norm(self.depthwise(y))))


class Model(NamedTuple):
    """A model and its input: (batch, channels, size); `tiny` is one that tests can afford."""

    about: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    tiny: tuple[int, ...]
    steps: int = 1  # of the same batch size, with an SGD update after each: an epoch


MODELS = {
    "wav2vec": Model("wav2vec 2.0 feature encoder, 10 s of audio", Wav2Vec2Encoder, (1, 1, 160000), (1, 1, 2000)),
    "convnext": Model("ConvNeXt-T stem and first stage, 224x224", convnext_stage, (1, 3, 224, 224), (1, 3, 32, 32)),
    "mobilenet": Model("MobileNetV2, 2 images of 224x224", mobilenet_v2, (2, 3, 224, 224), (2, 3, 64, 64)),
    "resnet18": Model("ResNet-18, 2 images of 224x224", resnet18, (2, 3, 224, 224), (2, 3, 64, 64)),
    "convtasnet": Model("Conv-TasNet, encoder and 8 blocks, 2 s of 8 kHz", ConvTasNet, (1, 1, 16000), (1, 1, 800)),
    "lenet": Model("LeNet, an epoch of 2,048 images in batches of 64", lenet, (64, 1, 28, 28), (4, 1, 28, 28), 32),
    "conformer": Model(
        "Conformer convolution module, 4 x 1,000 frames", ConformerConvolution, (4, 256, 1000), (2, 256, 40)
    ),
}

# ---- one step


class Side:
    """One of the two contenders: a model of its own, its data, and a step of training."""

    def __init__(self, model: nn.Module, x: Tensor, steps: int):
        self.model, self.x, self.steps = model.train(), x, steps

    def gradients(self) -> tuple[float, dict[str, Tensor]]:
        """The loss and the gradients of one step from here; nothing is updated."""
        self.model.zero_grad()
        loss = self.model(self.x).square().mean()
        loss.backward()
        return loss.item(), {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}

    def run(self) -> None:
        """What is timed."""
        for _ in range(self.steps):
            self.gradients()
            if self.steps > 1:
                with torch.no_grad():
                    for parameter in self.model.parameters():
                        parameter -= 1e-3 * parameter.grad


def sides(name: str, shape: tuple[int, ...], all_layers: bool) -> tuple[Side, Side, int, int]:
    """Eager and converted, and how many convolutions were swapped, of how many."""
    torch.manual_seed(0)
    entry = MODELS[name]
    eager = entry.build()
    converted = copy.deepcopy(eager)
    x = torch.randn(shape)
    swapped = len(ft.convert(converted, all=all_layers, example=None if all_layers else x, verbose=False))
    total = sum(isinstance(layer, (nn.Conv1d, nn.Conv2d)) for layer in eager.modules())
    return Side(eager, x, entry.steps), Side(converted, x, entry.steps), swapped, total


class Sides(TorchFunctionMode):
    """Notes on which side of its bends each value lies that goes into a ReLU or ReLU6; holds it to `given` sides."""

    def __init__(self, given: list[Tensor] | None = None) -> None:
        super().__init__()
        self.given, self.found = given, list[Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (F.relu, F.hardtanh):
            return func(*args, **(kwargs or {}))
        x, top = args[0], kwargs["max_val"] if func is F.hardtanh else math.inf
        self.found.append((x > 0).to(torch.int8) + (x >= top))
        if self.given is None:
            return func(*args, **(kwargs or {}))
        side = self.given[len(self.found) - 1]
        return torch.where(side == 1, x, torch.where(side == 2, top, 0.0).to(x.dtype))

    def differing(self, other: Sides) -> int:
        return sum(int((a != b).sum()) for a, b in zip(self.found, other.found))


def differences(eager: Side, converted: Side) -> dict[str, Any]:
    """How the two differ from each other (the loss) and from float64 (gradients); pairs are PyTorch's and ours.

    "loss": relative. "gradient": the largest difference relative to the largest gradient of the whole model. (Not of
    each parameter: a bias before a batch norm has no gradient but rounding.) "flips": values on another side of a ReLU.
    "held": as "gradient", with all on float64's side.
    """
    with Sides() as truth:
        _, expected = in_float64(eager).gradients()
    largest = max(float(g.abs().max()) for g in expected.values())

    def error(side: Side, mode: Sides) -> tuple[float, float]:
        with mode:
            loss, found = side.gradients()
        return loss, max(float((found[name] - g).abs().max()) for name, g in expected.items()) / largest

    modes = [Sides(), Sides()]
    (loss, theirs), (other, ours) = (error(side, mode) for side, mode in zip((eager, converted), modes))
    return {
        "loss": abs(other - loss) / abs(loss),
        "gradient": (theirs, ours),
        "flips": tuple(mode.differing(truth) for mode in modes),
        "held": tuple(error(side, Sides(truth.found))[1] for side in (eager, converted)),
    }


def in_float64(side: Side) -> Side:
    """The same in double precision."""
    return Side(copy.deepcopy(side.model).double(), side.x.double(), side.steps)


class _Remembered(torch.autograd.Function):
    """A convolution that gives what it gave the first time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, layer: Any, memory: dict[str, Any]) -> Tensor:
        if "y" not in memory:
            memory["y"] = type(layer)._conv_forward(layer, x, w, bias).detach()
            ctx.save_for_backward(x, w)
        ctx.layer, ctx.memory, ctx.with_bias = layer, memory, bias is not None
        return memory["y"].detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if "gradients" not in ctx.memory:
            layer = ctx.layer
            steps = (layer.stride, layer.padding, layer.dilation, False, (0,) * len(layer.stride), layer.groups)
            needed = (ctx.needs_input_grad[0], True, ctx.with_bias)
            sizes = [layer.out_channels] if ctx.with_bias else None
            ctx.memory["gradients"] = torch.ops.aten.convolution_backward(
                grad, *ctx.saved_tensors, sizes, *steps, needed
            )
        return (*ctx.memory["gradients"], None, None)


def _remembered(layer: Any, memory: dict[str, Any], x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    return _Remembered.apply(x, w, bias, layer, memory)


def without_convolutions(side: Side) -> Side:
    """The same model, with convolutions that cost nothing from the second step on."""
    model = copy.deepcopy(side.model)
    for layer in model.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            layer._conv_forward = functools.partial(_remembered, layer, {})
    return Side(model, side.x, side.steps)


def race(runs: list[Callable[[], None]], seconds: float, least: int = 3) -> tuple[list[float], list[float], int]:
    """Best time of each, median over rounds of (first's time / each one's), number of rounds."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for run in runs:
        run()
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < least or time.perf_counter() < end:
        taken = [0.0] * len(runs)
        for i in sorted(range(len(runs)), reverse=len(rounds) % 2 == 1):
            start = clock()
            runs[i]()
            taken[i] = clock() - start
        rounds.append(taken)
    best = [min(times) for times in zip(*rounds)]
    ratios = [statistics.median(times[0] / times[i] for times in rounds) for i in range(len(runs))]
    return best, ratios, len(rounds)


# ---- memory, in a process of its own


def _resident(key: str) -> int:
    """Bytes resident, now ("VmRSS") or at most ("VmHWM")."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return 1024 * int(found[1])


def first_step_adds(name: str, side: str, all_layers: bool) -> int:
    """Bytes by which the first step raises this process's peak above what it holds before."""
    torch.set_num_threads(1)
    eager, converted, *_ = sides(name, MODELS[name].shape, all_layers or side == "eager")
    contender = eager if side == "eager" else converted
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident("VmRSS")
    contender.gradients()
    return _resident("VmHWM") - before


def peaks(name: str, all_layers: bool) -> list[int]:
    found = []
    for side in ("eager", "converted"):
        command = [sys.executable, __file__, "--memory", name, side, *(["--all"] if all_layers else [])]
        found.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return found


# ---- results


def measure(name: str, threads: list[int], seconds: float, all_layers: bool, memory: bool) -> list[dict[str, Any]]:
    """One row for each number of threads."""
    torch.set_num_threads(threads[0])
    eager, converted, swapped, total = sides(name, MODELS[name].shape, all_layers)
    accuracy = differences(eager, converted)
    peak: list[int | None] = [*peaks(name, all_layers)] if memory and sys.platform == "linux" else [None, None]
    rows = []
    for count in threads:
        torch.set_num_threads(count)
        if count != threads[0]:  # other layers may win on other numbers of threads
            eager, converted, swapped, total = sides(name, MODELS[name].shape, all_layers)
        best, ratios, rounds = race([eager.run, converted.run, without_convolutions(eager).run], seconds)
        row = {"model": name, "about": MODELS[name].about, "threads": count, "swapped": swapped, "convolutions": total}
        row |= {"eager": best[0], "converted": best[1], "ratio": ratios[1], "bound": ratios[2]}
        row |= {"rounds": rounds, "peak_eager": peak[0], "peak_converted": peak[1], **accuracy}
        rows.append(row)
        print(line(row), flush=True)
    return rows


HEADER = (
    "| model | swapped | threads | eager | converted | ratio | if convolutions cost nothing "
    "| memory eager | converted | loss |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)

ACCURACY_HEADER = (
    "| model | gradients, PyTorch | converted | values that pass another side of a ReLU, PyTorch | converted "
    "| gradients with ReLUs held, PyTorch | converted |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def line(row: dict[str, Any]) -> str:
    memory = ["-" if row[k] is None else f"{row[k] / 1e6:.0f} MB" for k in ("peak_eager", "peak_converted")]
    cells = [row["about"], f"{row['swapped']} of {row['convolutions']}", str(row["threads"])]
    cells += [f"{1e3 * row['eager']:.1f} ms", f"{1e3 * row['converted']:.1f} ms"]
    cells += [f"{row['ratio']:.2f}", f"{row['bound']:.2f}", *memory, f"{row['loss']:.1e}"]
    return "| " + " | ".join(cells) + " |"


def accuracy_line(row: dict[str, Any]) -> str:
    cells = [row["about"], *(f"{e:.1e}" for e in row["gradient"]), *map(str, row["flips"])]
    return "| " + " | ".join([*cells, *(f"{e:.1e}" for e in row["held"])]) + " |"


def accuracy_table(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each model: accuracy is looked at on the first number of threads alone."""
    return [ACCURACY_HEADER, *dict.fromkeys(map(accuracy_line, rows))]


def machine() -> dict[str, Any]:
    config = fc.show_config("dicts") or {}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "fastconv": fc.__version__}
    return {**versions, "platform": platform.platform(), "config": {k: str(v) for k, v in config.items()}}


MARKS = ("<!-- models: made by torch_models.py -->", "<!-- end of models -->")


def publish(rows: list[dict[str, Any]], took: float) -> None:
    """Puts the table between the marks in benchmarks/README.md."""
    page = Path(__file__).with_name("README.md")
    config = fc.show_config("dicts") or {}
    head = f"PyTorch {torch.__version__}, {config.get('ISA in use')}; {took:.0f} s in all.\n"
    text = "\n".join([MARKS[0], head, HEADER, *map(line, rows), "", *accuracy_table(rows), MARKS[1]])
    pattern = re.escape(MARKS[0]) + ".*" + re.escape(MARKS[1])
    page.write_text(
        re.sub(pattern, lambda _: text, page.read_text(encoding="utf-8"), flags=re.DOTALL), encoding="utf-8"
    )


# ---- single layers


def layer_runs(row: cases.Row) -> list[Callable[[], None]]:
    """Forward and backward of one row of the suite, by torch and by fastconv."""
    data = [torch.from_numpy(a) for a in row.arrays()]
    x, w = (t.requires_grad_() for t in data[:2])
    keywords = {k: v for k, v in row.arguments.items() if k in ("stride", "padding", "dilation", "groups")}

    def timed(convolve: Callable[..., Tensor]) -> Callable[[], None]:
        def run() -> None:
            torch.autograd.grad(convolve(x, w, **keywords), (x, w), data[2])

        return run

    pairs = ((F.conv1d, ft.conv1d), (F.conv2d, ft.conv2d))
    return [timed(convolve) for convolve in pairs[row.axes - 1]]


def layers(seconds: float, threads: int) -> None:
    """The table for fastconv.torch.conversion.GAINS."""
    torch.set_num_threads(threads)
    found: dict[str, list[float]] = collections.defaultdict(list)
    for row in cases.rows().values():
        if row.family == "tiny":
            continue
        kind = conversion.kind(row.c_in, row.c_out, row.k, row.stride, row.dilation, row.groups)
        _, (_, ratio), _ = race(layer_runs(row), seconds)
        found[kind].append(ratio)
        print(f"{row.name:<20} {kind:<22} {ratio:.2f}", flush=True)
    print()
    for kind, ratios in sorted(found.items()):
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        print(f"{kind:<22} {mean:.2f}  ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} layers)")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument(
        "--seconds", type=float, default=8, help="for each model and number of threads, 3 rounds at least"
    )
    parser.add_argument("--all", action="store_true", help="convert every convolution, expected gain or not")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.memory:
        print(first_step_adds(*options.memory, options.all))
        return
    threads = [int(count) for count in options.threads.split(",")]
    if options.layers:
        layers(min(options.seconds, 1), threads[0])
        return
    start = time.perf_counter()
    print(HEADER)
    rows = []
    for name in options.models.split(","):
        rows += measure(name, threads, options.seconds, options.all, not options.no_memory)
    took = time.perf_counter() - start
    print("", *accuracy_table(rows), sep="\n")
    if options.json:
        options.json.write_text(json.dumps({**machine(), "seconds": took, "results": rows}, indent=1), encoding="utf-8")
    if options.publish:
        publish(rows, took)


if __name__ == "__main__":
    main()
