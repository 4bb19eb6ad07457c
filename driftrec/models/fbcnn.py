"""FBCNN (Jiang, Zhang and Timofte, "Towards Flexible Blind JPEG Artifacts Removal", ICCV 2021), a regression network
to compare with: it estimates the quality factor itself, and that estimate, or a quality that it is told (the paper's
FBCNN@10), steers its decoder.

The names of its weights are those of the public files fbcnn_color.pth, fbcnn_gray.pth and fbcnn_gray_double.pth, which
are not part of this package: fetch them where their authors publish them and give their path. One evaluation an image,
no noise, no sampling settings. Knows nothing of diffusion.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from driftrec.errors import InvalidInput
from driftrec.jpeg.codec import LUMA
from driftrec.models import tensors as tensor_files
from driftrec.networks.blocks import conv3x3, pad_to_multiple

WIDTHS = (64, 128, 256, 512)  # channels at 1, 1/2, 1/4 and 1/8 of the resolution
BLOCKS = 4  # residual blocks a stage


class FBCNN(nn.Module):
    """forward(y, told) -> (restored, quality). y, restored: (B, colours, H, W) in [0, 1], any size, restored not
    clipped; told: the JPEG quality factor, 1 to 100, that steers the decoder, None for its own estimate; quality: (B,),
    that estimate, 0 to 100.

    Args:
        colours: 3, or 1 for the grey networks.
    """

    def __init__(self, colours: int = 3) -> None:
        super().__init__()
        first, second, third, last = WIDTHS
        self.m_head = conv3x3(colours, first)
        self.m_down1 = nn.Sequential(*residual_blocks(first), nn.Conv2d(first, second, 2, stride=2))
        self.m_down2 = nn.Sequential(*residual_blocks(second), nn.Conv2d(second, third, 2, stride=2))
        self.m_down3 = nn.Sequential(*residual_blocks(third), nn.Conv2d(third, last, 2, stride=2))
        self.m_body_encoder = nn.Sequential(*residual_blocks(last))
        self.m_body_decoder = nn.Sequential(*residual_blocks(last))
        self.m_up3, self.m_up2, self.m_up1 = up_stage(last, third), up_stage(third, second), up_stage(second, first)
        self.m_tail = conv3x3(first, colours)
        self.qf_pred = nn.Sequential(
            *residual_blocks(last), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *dense(last, last), *dense(last, last),
            nn.Linear(last, 1), nn.Sigmoid(),
        )  # fmt: skip
        self.qf_embed = nn.Sequential(*dense(1, last), *dense(last, last), *dense(last, last))
        self.to_gamma_3, self.to_beta_3 = modulation(third)
        self.to_gamma_2, self.to_beta_2 = modulation(second)
        self.to_gamma_1, self.to_beta_1 = modulation(first)

    def forward(self, y: Tensor, told: float | None = None) -> tuple[Tensor, Tensor]:
        height, width = y.shape[-2:]
        x1 = self.m_head(pad_to_multiple(y, 8))
        x2 = self.m_down1(x1)
        x3 = self.m_down2(x2)
        x4 = self.m_down3(x3)
        encoded = self.m_body_encoder(x4)
        damage = self.qf_pred(encoded)  # (B, 1): 1 - quality / 100
        steer = self.qf_embed(damage if told is None else torch.full_like(damage, 1 - told / 100))
        x = self.m_body_decoder(encoded) + x4
        x = ascend(self.m_up3, x, self.to_gamma_3(steer), self.to_beta_3(steer)) + x3
        x = ascend(self.m_up2, x, self.to_gamma_2(steer), self.to_beta_2(steer)) + x2
        x = ascend(self.m_up1, x, self.to_gamma_1(steer), self.to_beta_1(steer)) + x1
        return self.m_tail(x)[..., :height, :width], 100 * (1 - damage[:, 0])


class ResidualBlock(nn.Module):
    """x + conv(ReLU(conv(x))); in the decoder the convolutions' result is scaled and shifted, channel by channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.res = nn.Sequential(conv3x3(width, width), nn.ReLU(), conv3x3(width, width))

    def forward(self, x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None) -> Tensor:
        h = self.res(x)
        if gamma is not None and beta is not None:  # (B, width) each
            h = gamma[..., None, None] * h + beta[..., None, None]
        return x + h


def residual_blocks(width: int) -> list[nn.Module]:
    """The blocks of one stage."""
    return [ResidualBlock(width) for _ in range(BLOCKS)]


def up_stage(channels: int, width: int) -> nn.ModuleList:
    """Doubling of the resolution, then the blocks that the quality steers."""
    return nn.ModuleList([nn.ConvTranspose2d(channels, width, 2, stride=2), *residual_blocks(width)])


def ascend(stage: nn.ModuleList, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Through an `up_stage`: (B, C, H, W) -> (B, width, 2 H, 2 W)."""
    double, *blocks = stage
    x = double(x)
    for block in blocks:
        x = block(x, gamma, beta)
    return x


def dense(channels: int, width: int) -> list[nn.Module]:
    """A linear layer and its ReLU."""
    return [nn.Linear(channels, width), nn.ReLU()]


def modulation(width: int) -> tuple[nn.Sequential, nn.Sequential]:
    """From the embedded quality to a stage's scale in (0, 1) and shift in (-1, 1)."""
    return (
        nn.Sequential(nn.Linear(WIDTHS[-1], width), nn.Sigmoid()),
        nn.Sequential(nn.Linear(WIDTHS[-1], width), nn.Tanh()),
    )


@dataclass(frozen=True)
class Weights:
    """A network read from a file."""

    network: FBCNN
    sha256: str  # of the file, and of the quality that it is told
    told: int | None = None  # the quality, 1 to 100, that it takes for every picture's
    sampling: dict[str, Any] = field(default_factory=lambda: {"fidelity": 1.0})  # in a sampler's terms: one evaluation

    @property
    def shape(self) -> dict[str, object]:
        """What two of them must share to be interpolated."""
        return {"colours": self.network.m_head.in_channels, "quality": self.told}

    def restore(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] -> the same, not clipped, and the quality (B,) that the network sees, 0 to 100. A grey
        network restores luma; Cb and Cr stay as they are.
        """
        if self.network.m_head.in_channels == 3:
            return self.network(y, self.told)
        luma = (y * y.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
        restored, quality = self.network(luma, self.told)
        return y + (restored - luma), quality


def load(path: str | Path, told: int | None = None) -> Weights:
    """Read the public weights, colour or grey: a .pth file, of which only tensors are taken and nothing is executed,
    or the same tensors as .safetensors. `told`: a quality, 1 to 100, in place of the network's own estimate. Raises
    InvalidInput naming the file, what is wrong and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"FBCNN weights {str(path)!r}: no such file; give the path of fbcnn_color.pth as fbcnn:PATH")
    tensors = tensor_files.read(path)
    with torch.device("meta"):
        network = FBCNN(colours=1 if tensors.get("m_head.weight", torch.empty(0)).shape[1:2] == (1,) else 3)
    network.load_state_dict(tensor_files.fitting(path, tensors, network.state_dict()), assign=True)
    sha256 = tensor_files.file_sha256(path)
    if told is not None:
        sha256 = tensor_files.derived_sha256(f"{sha256}?quality={told}")
    return Weights(network.eval().requires_grad_(False), sha256, told)
