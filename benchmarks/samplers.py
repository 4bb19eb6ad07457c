"""Error against evaluations for every sampler and grid, on a case with the exact score.

python -m benchmarks.samplers [--process ouve tsdve cosve] [--markdown]

x0 - y is Gaussian with five scales from 0.01 to 0.15 (pixels in [0, 1]), so that the score is known in closed form. The
error is the root mean square, over the scales, of ln(standard deviation of the samples / true one); 50,000 samples a
scale, which leaves 0.003 of noise in it. Each row is one sampler on one grid; each column a number of evaluations.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from driftrec.diffusion.drift import PROCESSES
from driftrec.diffusion.process import Process
from driftrec.restoration.options import Sampling

SCALES = torch.tensor([0.01, 0.02, 0.04, 0.08, 0.15], dtype=torch.float64)
SAMPLES = 50_000
EVALUATIONS = (2, 3, 5, 8, 10, 20, 50, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--process", nargs="+", default=["ouve", "tsdve", "cosve"], choices=list(PROCESSES))
    parser.add_argument("--markdown", action="store_true", help="print tables for docs/results/samplers.md")
    args = parser.parse_args()
    for name in args.process:
        show(PROCESSES[name](), args.markdown)


def show(process: Process, markdown: bool) -> None:
    cells = [
        [label, *(f"{error(process, make(n)):.4f}" if make(n) else "" for n in EVALUATIONS)] for label, make in arms()
    ]
    cells.append(["ode, tolerance 1e-3", *ode_cells(process)])
    header = [f"{process.name}: sampler", *map(str, EVALUATIONS)]
    if markdown:
        print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
        print("\n".join("| " + " | ".join(row) + " |" for row in cells) + "\n")
    else:
        for row in [header, *cells]:
            print(f"{row[0]:<44}" + "".join(f"{cell:>9}" for cell in row[1:]))
        print()


def arms() -> Iterator[tuple[str, Callable[[int], Sampling | None]]]:
    """Label, and the sampling settings that take so many evaluations (None where it cannot)."""
    for grid in ("uniform", "quadratic", "lambda"):
        yield f"multistep 2, eta 0, {grid}", lambda n, grid=grid: Sampling(steps=n, grid=grid)
    yield "multistep 1, eta 0, quadratic", lambda n: Sampling(steps=n, order=1)
    for eta in (0.5, 1.0):
        yield f"multistep 2, eta {eta:g}, quadratic", lambda n, eta=eta: Sampling(steps=n, eta=eta)
    for grid in ("uniform", "quadratic"):
        yield f"euler-maruyama, {grid}", lambda n, grid=grid: Sampling(sampler="euler-maruyama", steps=n, grid=grid)
    yield "euler-maruyama, authors' spacing", lambda n: Sampling(sampler="euler-maruyama", steps=n, spacing="authors")
    yield (
        "euler-maruyama, uniform, 1 corrector step",
        lambda n: None if n % 2 else Sampling(sampler="euler-maruyama", steps=n // 2, corrector_steps=1),
    )
    for grid in ("uniform", "quadratic"):
        yield (
            f"euler-heun, {grid}",
            lambda n, grid=grid: None if n % 2 else Sampling(sampler="euler-heun", steps=n // 2, grid=grid),
        )


def ode_cells(process: Process) -> list[str]:
    """The error stands under the first number of evaluations that is enough for the solver's own."""
    calls: list[int] = []
    value = error(process, Sampling(sampler="ode", steps=1, tolerance=1e-3, t_eps=0.01), calls)
    fits = next((n for n in EVALUATIONS if n >= len(calls)), EVALUATIONS[-1])
    return [f"{value:.4f} ({len(calls)})" if n == fits else "" for n in EVALUATIONS]


def error(process: Process, sampling: Sampling, calls: list[int] | None = None) -> float:
    """Root mean square over the scales of the logarithm of drawn over true standard deviation."""
    y = torch.full((1, len(SCALES), 1, SAMPLES), 0.5, dtype=torch.float64)
    variance = SCALES.reshape(1, -1, 1, 1) ** 2
    generator = torch.Generator().manual_seed(0)

    def denoise(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        if calls is not None:
            calls.append(1)
        a, sigma = process.mean_coefficient(t), process.std(t)
        return y + a * variance / (a**2 * variance + sigma**2) * (x - process.centre(y, t))

    def noise(step: int) -> Tensor:  # noqa: ARG001
        return torch.randn(y.shape, generator=generator, dtype=y.dtype)

    settings = sampling.resolve({})
    drawn = settings.draw()(denoise, process, y, noise, settings.times(process)) - y
    return (drawn[0].std(dim=(1, 2)) / SCALES).log().square().mean().sqrt().item()


if __name__ == "__main__":
    main()
