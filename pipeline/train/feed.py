"""Training batches for one worker: Ray Data tasks read shards and draw patches, a thread gathers windows ahead.

The order is that of `pipeline.train.windows`, whatever the timing.
"""

import logging
import queue
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import cast

import pyarrow as pa
import ray.data
from ray.data import DataContext, ExecutionResources
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from driftrec.errors import Reason
from pipeline.inputs.pairing import Pairing
from pipeline.inputs.shards import Shard
from pipeline.settings import allowed_failures
from pipeline.train.windows import Drawing, Looked, Pair, Position, Window, draw_shard, gather_windows, locate

log = logging.getLogger(__name__)

CHAPTER = 256  # items in one Ray Dataset: starting one takes about a second, planning one a millisecond an item
DRAW_CPUS = 0.5  # left beside the workers for each drawing task
RETRIES = 3  # of a drawing task whose process died
WINDOWS_AHEAD = 2  # of patches that may lie finished in Ray's object store
NAMED = 20  # skipped images whose names the result tells

Item = tuple[int, int, Shard, Pairing | None]  # number of the item, epoch, shard and where its partners are


class PatchSource(Datasource):
    """Read tasks, one an item, one block each."""

    def __init__(self, items: Sequence[Item], drawing: Drawing) -> None:
        super().__init__()
        self._items, self._drawing = items, drawing

    def estimate_inmemory_data_size(self) -> int | None:
        """Not known: it is the number of images that counts."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """One task an item, whatever parallelism is asked for."""
        return [ReadTask(self._task(*item), BlockMetadata(None, None, None, None)) for item in self._items]

    def _task(self, item: int, epoch: int, shard: Shard, pairing: Pairing | None) -> Callable[[], list[pa.Table]]:
        drawing = self._drawing
        return lambda: [draw_shard(shard, epoch, item, drawing, pairing)]


def read_items(items: Sequence[Item], drawing: Drawing, ahead_bytes: int, drawers: int) -> Iterator[pa.Table]:
    """The tables of the items in their order, drawn by so many Ray Data tasks at once, about `ahead_bytes` of them in
    advance.
    """
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.target_max_block_size = None  # one block an item
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=ahead_bytes)
    with DataContext.current(context), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # ray_remote_args: the only way to say max_retries
        dataset = ray.data.read_datasource(
            PatchSource(items, drawing),
            num_cpus=0,  # never kept waiting: after a node is lost the workers that are left may hold every CPU
            concurrency=drawers,
            override_num_blocks=len(items),
            ray_remote_args={"max_retries": RETRIES},
        )
    yield from cast(Iterator[pa.Table], dataset.iter_batches(batch_size=None, batch_format="pyarrow"))


def drawers(cpus: float, mine: float, world: int) -> int:
    """Drawing tasks that a worker has at work at once: its share of the CPUs that no worker reserves, at least one.

    Args:
        cpus: of the cluster.
        mine: that each worker reserves.
        world: how many workers there are.
    """
    return max(1, int((cpus - mine * world) / world / DRAW_CPUS))


class Feed:
    """Iterates over a worker's batches without end, from `position` on; `position` moves with the iteration.

    `pairings`, if given, says for each shard where the damaged images are.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        drawing: Drawing,
        batch_size: int,
        shuffle_buffer: int,
        rank: int = 0,
        world: int = 1,
        position: Position | None = None,
        pairings: Sequence[Pairing] | None = None,
        drawers: int = 1,
    ) -> None:
        self._drawers = drawers
        self._shards, self._pairings = shards, pairings or [None] * len(shards)
        self._drawing, self._batch_size = drawing, batch_size
        self._patches = max(shuffle_buffer, batch_size)  # in a window
        self._rank, self._world = rank, world
        self._queue: queue.Queue[Window | BaseException] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self.position = position or Position()
        self.counts: dict[int, Counter[str]] = {}  # by shard: how many images gave patches (""), or why they gave none
        self._total: Counter[str] = Counter()  # of them
        self.named: list[str] = []  # the first images that cannot be used, and why
        self.waited_s = 0.0  # for batches, in all

    @property
    def epoch(self) -> int:
        """Of the present window's first item."""
        return self._locate(self.position.item)[0]

    @property
    def spoilt(self) -> tuple[int, int, int]:
        """(images, those among them that cannot be used, shards) looked at; those too small are left out on purpose."""
        return *looked_at(self._total), len(self.counts)

    def __iter__(self) -> Iterator[Pair]:
        threading.Thread(target=self._fill, args=[self.position.item], name="windows", daemon=True).start()
        taken = self.position.batch
        while True:
            begun = time.perf_counter()
            window = self._queue.get()
            if isinstance(window, BaseException):
                raise window
            for item, looked in window.looked_at.items():
                self._count(self._locate(item)[1], looked)
            for number, indices in enumerate(window.batches(self._batch_size, self._drawing.seed)):
                if number < taken:
                    continue
                pair = window.take(indices)
                self.waited_s += time.perf_counter() - begun
                self.position = Position(window.first, number + 1)
                yield pair
                begun = time.perf_counter()
            self.position, taken = Position(window.following), 0

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()

    def _fill(self, item: int) -> None:
        """Gather windows, one ahead of the iteration; runs in a thread of its own."""
        try:
            for window in gather_windows(self._tables(item), self._patches, self._drawing, len(self._shards)):
                if not self._put(window):
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, window: Window | BaseException) -> bool:
        """Wait for a place in the queue; False once the feed is closed."""
        while not self._closed.is_set():
            try:
                self._queue.put(window, timeout=0.5)
            except queue.Full:
                continue
            return True
        return False

    def _tables(self, item: int) -> Iterator[pa.Table]:
        ahead = WINDOWS_AHEAD * 2 * self._drawing.bytes_per_image * self._patches // self._drawing.patches.per_image
        while True:
            chapter: list[Item] = []
            for number in range(item, item + CHAPTER):
                epoch, shard = self._locate(number)
                chapter.append((number, epoch, self._shards[shard], self._pairings[shard]))
            yield from read_items(chapter, self._drawing, ahead, self._drawers)
            item += CHAPTER

    def _locate(self, item: int) -> tuple[int, int]:
        return locate(item, self._rank, self._world, self._drawing.seed, len(self._shards))

    def _count(self, shard: int, looked: Looked) -> None:
        """Count what an item held, and name every skipped image once."""
        if shard in self.counts:
            return
        reasons = Counter(why.partition(":")[0] for why in looked.skipped.values())
        self.counts[shard] = reasons + Counter({"": looked.images - reasons.total()})
        self._total += self.counts[shard]
        for key, why in looked.skipped.items():
            log.warning("%s gives no patches: %s", key, why)
            if len(self.named) < NAMED and not why.startswith(Reason.too_small):
                self.named.append(f"{key}: {why}")


def looked_at(counts: Counter[str]) -> tuple[int, int]:
    """Of `Feed.counts`: images, and those among them that cannot be used."""
    images = counts.total()
    return images, images - counts[""] - counts[Reason.too_small]


def merged(counts: Iterable[Mapping[int, Counter[str]]]) -> dict[int, Counter[str]]:
    """What all workers have counted, each shard once, whoever has looked at it."""
    shards: dict[int, Counter[str]] = {}
    for theirs in counts:
        shards |= theirs
    return shards


def too_many_skipped(limit: str, images: float, spoilt: float, seen: float, shards: int) -> bool:
    """Whether more images than `limit`, "N" or "P%", cannot be used.

    All workers together have looked at `images` in `seen` shards, perhaps of several epochs, of `shards` that there
    are. What a share is of, the number of all images, is estimated from that.
    """
    if not seen:
        return False
    epochs = max(1.0, seen / shards)
    return spoilt / epochs > allowed_failures(limit, round(images / seen * shards))
