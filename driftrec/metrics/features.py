"""Image features for set metrics: (B, 3, H, W) floats in [0, 1] -> (B, D) float32, D = `feature_size`.

Images go through the network one by one, so that no image's features depend on its batch: on one machine they are
bit-equal in any batch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from driftrec.errors import InvalidInput
from driftrec.metrics.planes import check_image
from driftrec.metrics.weights import fill

Extractor = Callable[[Tensor], Tensor]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's


def load_features(name: str, path: Path) -> Extractor:
    """The extractor FEATURES[name] with the weights of `path`. Raises InvalidInput where either is wrong."""
    if name not in FEATURES:
        raise InvalidInput(f"no features are called {name}; there are {', '.join(FEATURES)}")
    network = FEATURES[name](path)

    def extract(image: Tensor) -> Tensor:
        network.to(image.device)
        with torch.inference_mode():
            return torch.cat([network(one).flatten(1) for one in check_image(image).float().split(1)])

    return extract


class Inception(nn.Module):
    """piq's InceptionV3 (2048 features, images resized to 299x299, bilinear), the weights of pytorch-fid."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        from piq.feature_extractors.fid_inception import InceptionV3

        weighted = fid_inception(path)

        class Weighted(InceptionV3):
            """piq's would download its weights, and run what code their pickle holds."""

            @staticmethod
            def fid_inception_v3() -> nn.Module:
                return weighted

        self.inception = Weighted().eval()

    def forward(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, 2048, 1, 1)."""
        return self.inception(image)[0]


def fid_inception(path: Path | None) -> nn.Module:
    """InceptionV3 as TensorFlow's FID has it: torchvision's with other pooling in nine blocks. None: random weights."""
    from piq.feature_extractors import fid_inception as blocks
    from torchvision.models import inception_v3

    network = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    for name, channels, pooled in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
        setattr(network, name, blocks.FIDInceptionA(channels, pool_features=pooled))
    for name, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        setattr(network, name, blocks.FIDInceptionC(768, channels_7x7=inner))
    network.Mixed_7b, network.Mixed_7c = blocks.FIDInceptionE1(1280), blocks.FIDInceptionE2(2048)
    if path is not None:
        fill(network, path)
    return network


class MobileNet(nn.Module):
    """MobileNetV2's 1280 pooled features, images at their own size: a stand-in for Inception's."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2

        network = mobilenet_v2(weights=None)
        fill(network, path)
        self.features = network.features

    def forward(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, 1280)."""
        mean, std = (image.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return self.features((image - mean) / std).mean(dim=(2, 3))


FEATURES: dict[str, Callable[[Path], nn.Module]] = {"inception": Inception, "mobilenet": MobileNet}
