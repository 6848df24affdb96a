"""Functions that make encoders, as users name them: `py:py_encoders:vector`."""

import torch
from torch import nn


def vector() -> nn.Module:
    """Pictures of any size to one vector of 5."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def wrong_output() -> nn.Module:
    """No encoder: its output has one axis."""
    return nn.Flatten(0)


def undeclared():
    """Not to be called."""
    raise AssertionError("called")
