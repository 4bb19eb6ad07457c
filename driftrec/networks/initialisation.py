"""The weights that NCSN++ begins with where Song et al. (ICLR 2021) and the paper's authors train it: uniform, of
variance scale / fan, the fan being the mean of a layer's inputs and outputs (Glorot and Bengio 2010); biases are 0.
"""

from __future__ import annotations

import math

from torch import nn

from driftrec.networks.blocks import ResidualBlock, SelfAttention
from driftrec.networks.ncsnpp import NCSNpp, UpLevel

NOTHING = 1e-10  # scale of what adds next to nothing at first
ATTENTION = 0.1  # scale of query, key and value


def initialise(network: NCSNpp) -> None:
    """Draw the weights anew from PyTorch's global generator. Norms, the noise level's frequencies and the pyramid's
    last convolution keep what they have.
    """
    scales = dict.fromkeys(_attending(network), ATTENTION) | dict.fromkeys(_quiet(network), NOTHING)
    last = set(network.output.modules()) if network.config.pyramid else set[nn.Module]()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer not in last:
            _draw(layer, scales.get(layer, 1.0))


def _attending(network: NCSNpp) -> list[nn.Module]:
    """All queries, keys and values."""
    blocks = [module for module in network.modules() if isinstance(module, SelfAttention)]
    return [layer for block in blocks for layer in (block.query, block.key, block.value)]


def _quiet(network: NCSNpp) -> list[nn.Module]:
    """The last layers of blocks, attention and, with a pyramid, of each level's share of the output."""
    found: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            found.append(module.conv2)
        elif isinstance(module, SelfAttention):
            found.append(module.project)
        elif isinstance(module, UpLevel) and module.give is not None:
            found.append(module.give[-1])
    return found


def _draw(layer: nn.Conv2d | nn.Linear, scale: float) -> None:
    outputs, inputs, *taps = layer.weight.shape
    fan = (inputs + outputs) / 2 * math.prod(taps)
    bound = math.sqrt(3 * scale / fan)
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
