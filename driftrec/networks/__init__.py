"""Shapes of networks: what maps an image, its JPEG and a noise level to an image.

`network` says what every network is, and `architectures` names those that can be trained: ours, and what plugins add.
`config` says the shape of ours, of which the paper's model and the small one are two; it is `ncsnpp`, with the parts
`blocks` and `estimates`. `adm`, `ddpm` and `qgac` are networks of others, whose published
weights fit; `block_dct` is JPEG's transform of tensors.
Must know nothing of processes, losses or files. Start with `config.NetworkConfig`.
"""

from driftrec.networks.architectures import NETWORKS, Architecture
from driftrec.networks.config import NetworkConfig
from driftrec.networks.ncsnpp import NCSNpp
from driftrec.networks.network import Network

__all__ = ["NETWORKS", "Architecture", "NCSNpp", "Network", "NetworkConfig"]
