"""How fast is one evaluation of the paper's network on this CPU, and what does the speed cost in accuracy?

python -m benchmarks.network [--size 256] [--rounds 3] [--threads 2] [--authors CHECKOUT]

The same random weights go through: the authors' network as shipped (if the folder of a checkout of their public
repository is given), ours in float32 with every filter as a plain depth-wise convolution, ours in float32, and ours in
bfloat16 and channels_last, which is what `Restorer` does on a CPU that computes in bfloat16. Interleaved: each round
runs every one of them once. Prints the fastest round of each, in seconds and in CPU seconds of all threads (which count
on a machine that does other work, too), and the relative difference (L2) of its output to that of the first.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from driftrec.models import lightning
from driftrec.networks.blocks import Resample
from driftrec.networks.config import NetworkConfig
from driftrec.networks.ncsnpp import NCSNpp

Evaluate = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, y, sigma) -> the estimated noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the image, a multiple of 64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="default: PyTorch's")
    parser.add_argument("--authors", type=Path, default=None, metavar="CHECKOUT")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    arms = candidates(args.authors)
    x, y = torch.rand(2, 1, 3, args.size, args.size)
    outputs: dict[str, Tensor] = {}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    with torch.inference_mode():
        for _ in range(args.rounds + 1):  # the first round warms up
            for name, evaluate in arms.items():
                start = time.perf_counter(), time.process_time()
                outputs[name] = evaluate(x, y, torch.tensor([0.1]))
                taken[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    print(f"{args.size}x{args.size}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}")
    print(f"{'network':<32}{'seconds':>9}{'speed-up':>10}{'CPU s':>9}{'speed-up':>10}{'difference':>12}")
    best = {name: [min(column) for column in zip(*rounds[1:], strict=True)] for name, rounds in taken.items()}
    first, exact = next(iter(best.values())), next(iter(outputs.values()))
    for name, (wall, cpu) in best.items():
        times = f"{wall:>9.3f}{first[0] / wall:>10.2f}{cpu:>9.3f}{first[1] / cpu:>10.2f}"
        print(f"{name:<32}{times}{((outputs[name] - exact).norm() / exact.norm()).item():>12.1e}")


def candidates(checkout: Path | None) -> dict[str, Evaluate]:
    """The networks by name, the slowest first."""
    ours = NCSNpp(NetworkConfig.paper()).eval()
    randomise(ours)
    arms: dict[str, Evaluate] = {}
    if checkout is not None:
        theirs = their_network(checkout)
        randomise(theirs)
        ours.load_state_dict(lightning.convert(checkout, theirs.state_dict(), ours))
        arms["authors', as shipped"] = lambda x, y, sigma: -sigma * theirs(torch.cat([x, y], dim=1), None, sigma)
    general, fast = deepcopy(ours), deepcopy(ours)
    for module in general.modules():
        if isinstance(module, Resample):
            module.fast = None
    fast = fast.to(torch.bfloat16).to(memory_format=torch.channels_last)
    return arms | {
        "ours, float32, general filters": lambda x, y, sigma: general(x, y, sigma.log()),
        "ours, float32": lambda x, y, sigma: ours(x, y, sigma.log()),
        "ours, bfloat16, channels_last": lambda x, y, sigma: fast(x.bfloat16(), y.bfloat16(), sigma.log()).float(),
    }


def randomise(network: nn.Module) -> None:
    """Weights that keep the size of the signal; fresh ones have zero convolutions."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def their_network(checkout: Path) -> nn.Module:
    """The 6-channel network of their repository, without its CUDA extensions. Their package has the name of ours."""

    def named_driftrec() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == "driftrec"]

    mine = {name: sys.modules.pop(name) for name in named_driftrec()}
    sys.path.insert(0, str(checkout))
    try:
        with mock.patch("torch.utils.cpp_extension.load"):
            from driftrec.backbones import NCSNpp as TheirNCSNpp  # pyright: ignore
    finally:
        sys.path.remove(str(checkout))
        for name in named_driftrec():
            del sys.modules[name]
        sys.modules |= mine
    return TheirNCSNpp().eval()


if __name__ == "__main__":
    main()
