"""A stack of square layers: ``layers * width * (width + 1)`` parameters."""

import torch
from torch import nn


def build(width: int, layers: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(layers)])
