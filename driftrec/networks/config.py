"""The shape of a network, as a checkpoint and a training's settings say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

from driftrec import bounds

COLOURS = 3
# lowest, highest, and how many at most: far above every network that is of use, far below what a machine cannot hold
LISTS = {
    "multipliers": (1, 64, 10),
    "extra": (0, 32, 10),
    "attention_levels": (0, 9, 10),
    "fir_kernel": (-1000, 1000, 16),
    "estimates": (1, 255, 8),
}
MCU = 16  # pixels: the side of what 4:2:0 codes together


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of a network. Level k works at 1 / (stem * 2^k) of the image's resolution."""

    width: int = 128  # channels of the first level
    conditional: bool = True  # sees a process state and its noise level beside the JPEG; off: the JPEG alone
    # False: halving drops the last row or column of an odd size, doubling repeats the one before it
    pad_input: bool = True  # fill sides up to multiples of `stride`; off: as the authors do
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 2, 2, 2)  # channels of a level, in widths
    blocks: int = 2  # residual blocks per level going down; one more going up
    # their sums are not divided by sqrt(2): new ones change nothing in a trained network
    extra: tuple[int, ...] = ()  # further blocks going up, by level
    stem: int = 1  # pixels of stem x stem become channels before the first convolution
    attention_levels: tuple[int, ...] = (4,)  # levels whose blocks are followed by self-attention
    attention_middle: bool = True  # self-attention at the lowest level, between its two blocks
    norm: Literal["group", "pixel", "none"] = "group"  # over the whole image, or the channels of each pixel
    activation: Literal["silu", "relu"] = "silu"  # between convolutions
    block: Literal["biggan", "gated"] = "biggan"  # BigGAN's residual blocks, or NAFNet's
    estimates: tuple[int, ...] = ()  # thresholds, levels of 255: what a DCT filter would take away is an input, too
    grid: bool = False  # where a pixel lies in the JPEG's MCU of 16x16 is learnt; the stem must divide 16
    pyramid: bool = True  # every level sees the shrunken input, and its output is summed (input_skip, output_skip)
    fir_kernel: tuple[int, ...] = (1, 3, 3, 1)  # low-pass filter of the resampling; (1, 1) is a 2x2 mean
    fourier_scale: float = 16.0  # standard deviation of the noise level's Fourier frequencies
    dropout: float = 0.0  # share of activations left out in training

    @classmethod
    def paper(cls) -> NetworkConfig:
        """The 65.6 M parameter network of the paper (Section IV-A)."""
        return cls()

    @classmethod
    def tiny(cls) -> NetworkConfig:
        """The network for CPUs. Without attention and with norms a pixel wide its output depends on a bounded
        neighbourhood only.
        """
        return cls(
            width=64,
            multipliers=(1, 2, 2),
            blocks=1,
            extra=(3, 2),
            stem=2,
            attention_levels=(),
            attention_middle=False,
            norm="pixel",
            pyramid=False,
            fir_kernel=(1, 1),
            fourier_scale=1.0,
        )

    def __post_init__(self) -> None:
        for name, (low, high, most) in LISTS.items():
            bounds.integers(name, getattr(self, name), low, high, most)
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists come from JSON and YAML
        for name in ("conditional", "pad_input", "attention_middle", "pyramid", "grid"):
            bounds.boolean(name, getattr(self, name))
        for name in ("norm", "activation", "block"):
            bounds.choice(name, getattr(self, name), get_args(get_type_hints(NetworkConfig)[name]))
        bounds.number("fourier_scale", self.fourier_scale, 0, 1e4)
        bounds.number("dropout", self.dropout, 0, 0.99)
        self._check_shape()

    def _check_shape(self) -> None:
        for name, high in {"width": 4096, "blocks": 32, "stem": 64}.items():
            bounds.integer(name, getattr(self, name), 1, high)
        if len(self.fir_kernel) < 2 or len(self.fir_kernel) % 2 or sum(self.fir_kernel) == 0:
            raise ValueError(f"fir_kernel needs an even count of numbers whose sum is not 0, got {self.fir_kernel}")
        if self.width % 4:
            raise ValueError(f"width must be a positive multiple of 4, got {self.width}")
        if len(self.extra) > len(self.multipliers):
            raise ValueError(f"extra needs one number per level, at most {len(self.multipliers)}, got {self.extra}")
        if self.grid and MCU % self.stem:
            raise ValueError(f"with grid the stem must divide {MCU}, got {self.stem}")
        if self.estimates and self.stride % 2:
            raise ValueError("estimates need sides of even length: a stem of 2 or more than one level")
        if not self.multipliers:
            raise ValueError("multipliers needs one number per level, got none")

    @property
    def image_channels(self) -> int:
        """Channels of the input, two pictures or one and the estimates, at the first level's resolution."""
        return ((2 if self.conditional else 1) * COLOURS + len(self.estimates)) * self.stem**2

    @property
    def stride(self) -> int:
        """Pixels of the image to a pixel of the lowest level."""
        return self.stem * 2 ** (len(self.multipliers) - 1)

    def padded(self, side: int) -> int:
        """The side of what the first convolution sees, for an image's side, in pixels."""
        multiple = self.stride if self.pad_input or side < self.stride else self.stem
        return -(-side // multiple) * multiple
