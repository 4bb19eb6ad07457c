"""Makes the embedded model: `python -m recipes.embedded DATA OUT [--device cuda] [--minutes N] [--init FILE]`.

DATA is what `python -m recipes.photos` has left. OUT receives model.safetensors (averaged weights in bfloat16, with
their card), log.jsonl (the learning curve: PSNR on photographs held out, against pixels and seconds) and
state.safetensors, written every five minutes and at SIGTERM or Ctrl-C, whole or not at all. Killed at any moment, the
same command goes on from there. --minutes counts all attempts together; with more of them a finished run goes on. On a
CPU they are what the process gets of it: one at low priority takes longer by the clock, and ends with the same weights.
--pack trains nothing and leaves in OUT what a machine without a network needs: files of at most 60 MB, to be unpacked
into one folder there.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from driftrec.errors import DriftRecError
from driftrec.models import checkpoint
from driftrec.training.features import Features
from recipes.embedded import plan
from recipes.embedded.data import read_photographs
from recipes.embedded.pack import check_pack, write_pack
from recipes.embedded.run import MODEL, Run

log = logging.getLogger("recipes.embedded")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.embedded", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=120.0, help="of training, all attempts together")
    parser.add_argument("--init", default=None, metavar="FILE", help="a model to start from, say tiny; default: fresh")
    parser.add_argument(
        "--features",
        type=Path,
        default=plan.FEATURES,
        metavar="FILE",
        help="the classifier's first layers that the discriminator sees by, from python -m recipes.standins; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--stage",
        choices=[stage.name for stage in plan.STAGES],
        default=None,
        help="this one alone, from the first minute to the last; default: all, one after the other",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="PART,...",
        help="train these parts of the network (up.2,output), and leave the others as --init has them; default: all",
    )
    parser.add_argument("--workers", type=int, default=None, help="processes that draw; default: by cores")
    parser.add_argument("--threads", type=int, default=None, help="of the network on a CPU; default: PyTorch's")
    parser.add_argument("--pack", action="store_true", help="write data, code and the weights of --init into files")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here; leave it out, or take --device cpu")
    if args.only and not args.init:
        parser.error("--only leaves the rest of the network as --init has it, which is not given")
    if not args.minutes > 0:
        parser.error(f"--minutes must be positive, got {args.minutes:g}")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        check_pack(args.data)
        features = Features.load(args.features)
        if args.pack:
            weights = checkpoint.resolve(args.init) if args.init else None
            log.info("%s", "\n".join(map(str, write_pack(args.data, args.out, args.features, weights))))
            return 0
        with locked(args.out / "pid"):
            init = checkpoint.load(args.init) if args.init else None
            stages = [stage for stage in plan.STAGES if args.stage in (None, stage.name)]
            only = [part for part in args.only.split(",") if part]
            run = Run(args.out, args.device, args.minutes, init, plan.NETWORK, features, stages, only)
            with halted_by_signals(run):
                run.train(read_photographs(args.data), default_workers() if args.workers is None else args.workers)
    except (DriftRecError, OSError, ValueError) as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        return 130
    log.info("%s", args.out / MODEL)
    return 0


@contextmanager
def halted_by_signals(run: Run) -> Generator[None]:
    """SIGTERM and Ctrl-C end the run after its present step; the second one ends it at once."""

    def halt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        signal.signal(number, signal.default_int_handler)
        run.halted = True

    before = {number: signal.signal(number, halt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def default_workers() -> int:
    """Beside a process that trains, on this machine."""
    return min(12, (os.cpu_count() or 1) - 1)


class locked:  # noqa: N801  reads as the statement it is
    """Holds a file with this process's id; a second run on the same folder is refused with BlockingIOError."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a+")

    def __enter__(self) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"{self.file.name}: another run works in this folder") from error
        self.file.truncate(0)
        self.file.write(f"{os.getpid()}\n")
        self.file.flush()

    def __exit__(self, *_: object) -> None:
        self.file.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
