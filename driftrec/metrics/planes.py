"""What the pair metrics share: checked float64 images, luma, means that no batch neighbour can change."""

import torch
from torch import Tensor

from driftrec.jpeg.codec import LUMA


def check_image(image: Tensor) -> Tensor:
    """(B, 3, H, W) floats in [0, 1] -> the same in float64. ValueError on another shape or integers."""
    if image.ndim != 4 or image.shape[1] != 3 or image.numel() == 0 or not image.is_floating_point():
        raise ValueError(
            f"metrics take (B, 3, H, W) floats in [0, 1], no side of 0; got {tuple(image.shape)} {image.dtype}"
        )
    return image.double()


def check_pair(reference: Tensor, restored: Tensor) -> tuple[Tensor, Tensor]:
    """Both (B, 3, H, W) floats in [0, 1] -> both in float64. Raises ValueError where shapes differ."""
    check_shapes(reference, restored)
    return check_image(reference), check_image(restored)


def check_shapes(reference: Tensor, restored: Tensor) -> None:
    """Raises ValueError where shapes differ."""
    if reference.shape != restored.shape:
        raise ValueError(f"a pair needs one shape, got {tuple(reference.shape)} and {tuple(restored.shape)}")


def check_sides(image: Tensor, smallest: int, name: str) -> None:
    """Raises ValueError where a side has less than `smallest` pixels, which the metric `name` needs."""
    if min(image.shape[2:]) < smallest:
        raise ValueError(f"{name} needs sides of at least {smallest}, got {tuple(image.shape[2:])}")


def luma(image: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W), BT.601 full range, not rounded."""
    weights = image.new_tensor(LUMA).view(3, 1, 1)
    return (image * weights).sum(dim=1, keepdim=True)


def plane_means(planes: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C). One by one: a batch must not change the order of sums, hence the last bit."""
    return torch.stack([image.flatten(1).mean(dim=1) for image in planes])
