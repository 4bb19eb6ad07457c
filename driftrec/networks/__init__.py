"""Shapes of networks: what maps an image, its JPEG and a noise level to an image.

`config` says the shape, of which the paper's model and the small one are two; `ncsnpp` is the one network that is
trained here, `blocks` and `estimates` are its parts. `adm`, `ddpm` and `qgac` are networks of others, whose published
weights fit; `block_dct` is JPEG's transform of tensors.
Must know nothing of processes, losses or files. Start with `config.NetworkConfig`.
"""

from driftrec.networks.config import NetworkConfig
from driftrec.networks.ncsnpp import NCSNpp

__all__ = ["NCSNpp", "NetworkConfig"]
