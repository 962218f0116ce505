"""fastconv.nn: train small convolutional networks on NumPy arrays, with the names and numbers of torch.nn.

>>> import numpy as np
>>> import fastconv.nn as nn
>>> _ = nn.manual_seed(0)
>>> model = nn.Sequential(nn.Conv2d(1, 5, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(980, 10))
>>> x, y = np.random.default_rng(0).random((100, 1, 28, 28), np.float32), np.arange(100) % 10
>>> sgd = nn.SGD(model.parameters(), lr=0.01, momentum=0.9)
>>> history = nn.fit(model, (x, y), loss=nn.CrossEntropyLoss(), optimizer=sgd, epochs=2, batch_size=50)
>>> len(history["step_loss"])
4

:mod:`module` holds what a layer is, :mod:`layers`, :mod:`pooling` and :mod:`normalisation` the layers, :mod:`losses`,
:mod:`optimisers`, :mod:`training` (fit) and :mod:`checkpoints` the rest. Convolutions are those of :mod:`fastconv`
itself.
"""

from .initialisation import manual_seed
from .layers import Conv1d, Conv2d, Dropout, Flatten, Linear, ReLU
from .losses import CrossEntropyLoss, Loss, MSELoss
from .module import Module, Parameter, Sequential
from .normalisation import BatchNorm1d, BatchNorm2d
from .optimisers import SGD, Adam, AdamW, Optimizer
from .pooling import (
    AdaptivePolyphase2d,
    AvgPool1d,
    AvgPool2d,
    BlurPool2d,
    GlobalAvgPool,
    MaxPool1d,
    MaxPool2d,
)
from .training import evaluate, fit

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AdaptivePolyphase2d",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BlurPool2d",
    "Conv1d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "Linear",
    "Loss",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "Module",
    "Optimizer",
    "Parameter",
    "ReLU",
    "Sequential",
    "evaluate",
    "fit",
    "manual_seed",
]
