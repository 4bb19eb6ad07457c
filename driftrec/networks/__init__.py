"""Shapes of networks: what maps an image, its JPEG and a noise level to an image.

`ncsnpp` is the one network, of which the paper's model and the small one are configs; the other modules are its parts.
Must know nothing of processes, losses or files. Start with `ncsnpp.NetworkConfig`.
"""

from driftrec.networks.ncsnpp import NCSNpp, NetworkConfig

__all__ = ["NCSNpp", "NetworkConfig"]
