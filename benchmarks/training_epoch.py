"""A training epoch of the experiment's CNN and MLP, here and in PyTorch, in turn in one process.

    python benchmarks/training_epoch.py [--rounds 7] [--threads 1] [--backend cython]

Each round trains one epoch on either side (10,000 images in batches of 50), one after the other, so that a slow moment
of the machine hits both. Before anything is timed the first epoch's losses are compared, step by step, from the same
initial weights in the same order of images.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

import fastconv as fc
from fastconv import nn
from fastconv.experiments.data import load
from fastconv.experiments.equivariance import BATCH_SIZE, LEARNING_RATE, MOMENTUM, build

# Between two losses of the first epoch. Rounding alone gives 1e-6; where an activation lies within rounding of zero the
# two sides take different branches of a ReLU, and 1e-3 is seen (torch in float32 against float64 does the same).
LARGEST_DIFFERENCE = 1e-2


class Ours:
    """Our trainer, one call of `fit` an epoch."""

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray):
        self.model = build(name, 0)
        self.data = (images, labels)
        self.optimizer = nn.SGD(self.model.parameters(), lr=LEARNING_RATE[name], momentum=MOMENTUM)

    def epoch(self, order: np.ndarray) -> list[float]:
        history = nn.fit(
            *(self.model, self.data),
            loss=nn.CrossEntropyLoss(),
            optimizer=self.optimizer,
            epochs=1,
            batch_size=BATCH_SIZE,
            order=[order],
            progress=False,
        )
        return history["step_loss"]


class Torch:
    """The same in PyTorch, as its tutorials write the loop, data already in tensors."""

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray, state: dict[str, np.ndarray]):
        t = torch.nn
        if name == "cnn":
            layers = [t.Conv2d(1, 5, 4, 2, 1), t.ReLU(), t.Conv2d(5, 10, 4, 2, 1), t.ReLU(), t.Flatten()]
            self.model = t.Sequential(*layers, t.Linear(490, 10))
        else:
            self.model = t.Sequential(t.Flatten(), t.Linear(784, 30), t.ReLU(), t.Linear(30, 10))
        self.model.load_state_dict({key: torch.tensor(value) for key, value in state.items()})
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
        self.loss = t.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE[name], momentum=MOMENTUM)

    def epoch(self, order: np.ndarray) -> list[float]:
        losses = []
        for batch in torch.from_numpy(order).split(BATCH_SIZE):
            self.optimizer.zero_grad()
            loss = self.loss(self.model(self.images[batch]), self.labels[batch])
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses


def contenders(name: str) -> tuple[Ours, Torch]:
    """Both sides with the same initial weights, after a check that their first epochs give the same losses."""
    data = load("fashion")
    images, labels = data.train_images, data.train_labels
    ours = Ours(name, images, labels)
    theirs = Torch(name, images, labels, ours.model.state_dict())
    order = np.random.default_rng(0).permutation(len(images))
    difference = np.abs(np.subtract(ours.epoch(order), theirs.epoch(order))).max()
    print(f"{name}: largest difference between the losses of the first epoch {difference:.1e}")
    if not difference <= LARGEST_DIFFERENCE:
        raise AssertionError(f"{name}: losses of the first epoch differ by {difference:.1e}")
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="cython")
    options = parser.parse_args()
    fc.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    fc.use_backend(options.backend)
    print(f"seconds an epoch, {options.threads} thread(s), {options.backend}: best (median) of {options.rounds}")
    for name in ("cnn", "mlp"):
        ours, theirs = contenders(name)
        seconds: dict[str, list[float]] = {"fastconv": [], "torch": []}
        for i in range(options.rounds):
            order = np.random.default_rng(i).permutation(len(ours.data[0]))
            for side, contender in (("fastconv", ours), ("torch", theirs)):
                start = time.perf_counter()
                contender.epoch(order)
                seconds[side].append(time.perf_counter() - start)
        best = {side: min(times) for side, times in seconds.items()}
        ratio = statistics.median(t / o for o, t in zip(seconds["fastconv"], seconds["torch"]))
        shown = "  ".join(f"{side} {best[side]:.3f} ({statistics.median(t):.3f})" for side, t in seconds.items())
        print(f"{name}: {shown}  torch/fastconv: best {best['torch'] / best['fastconv']:.2f}, median {ratio:.2f}")


if __name__ == "__main__":
    main()
