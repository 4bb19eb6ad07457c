"""What a classical filter knows of an image, shown to the network: DCT coefficients too small to be detail.

An overcomplete 8x8 DCT of the luma, every second pixel: of its coefficients those below a threshold are put together
again (Nosratinia 2001; Yu and Sapiro 2011). Luma less that part is the filter's estimate of the clean image. Nothing
here is learnt, and a value depends on the pixels at most 7 away. It knows nothing of networks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftrec.jpeg.codec import LUMA
from driftrec.networks.block_dct import SIDE, dct_basis

STEP = 2  # pixels from one block to the next
REACH = SIDE - STEP
GAIN = 8.0  # what a threshold takes away is small beside the pixels: in the network's input it shall not be
OVERLAP = (SIDE // STEP) ** 2  # blocks over each pixel


class SmallCoefficients(nn.Module):
    """forward(image) -> (B, one channel a threshold, H, W): GAIN times what luma would lose by that threshold. image:
    (B, 3, H, W) in [-1, 1], both sides even; thresholds in levels of 255.
    """

    blocks: Tensor
    luma: Tensor

    def __init__(self, thresholds: tuple[int, ...]) -> None:
        super().__init__()
        self.limits = [threshold / 127.5 for threshold in thresholds]
        self.register_buffer("blocks", dct_blocks(), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        luma = (image * self.luma.to(image)).sum(dim=1, keepdim=True)
        luma = F.pad(luma, (REACH,) * 4, mode="replicate")
        blocks = self.blocks.to(image)
        coefficients = F.conv2d(luma, blocks, stride=STEP)
        size = coefficients.abs()
        lost = [F.conv_transpose2d(coefficients * (size < limit), blocks, stride=STEP) for limit in self.limits]
        return torch.cat(lost, dim=1)[..., REACH:-REACH, REACH:-REACH].to(image) * (GAIN / OVERLAP)


def dct_blocks() -> Tensor:
    """The 63 orthonormal basis blocks of the 8x8 DCT-II that are not constant: (63, 1, 8, 8)."""
    rows = dct_basis()
    return torch.einsum("ux,vy->uvxy", rows, rows).reshape(-1, 1, SIDE, SIDE)[1:].float()
