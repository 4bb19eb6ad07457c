"""What is to be done: an input as a deterministic list of shards. Knows no Ray.

Loose files are grouped in the order of their names; a tar is one shard, or cut into several, and not opened before its
turn; a row group of a Parquet file is one shard.
"""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, replace

from driftrec.errors import InvalidInput
from pipeline.inputs.collisions import OutputName, Taken, refuse
from pipeline.inputs.containers import CONTAINERS
from pipeline.inputs.kinds import sorted_out
from pipeline.inputs.location import Input, nothing_found, open_input
from pipeline.inputs.loose import grouped
from pipeline.inputs.names import printable, suffix
from pipeline.inputs.parquet import NoImages
from pipeline.inputs.selection import EVERYTHING, Choice, Selection
from pipeline.inputs.shards import Cutting, Shard, checked, shard_id
from pipeline.storage.base import StorageError
from pipeline.storage.packed import PackedNames

log = logging.getLogger(__name__)

TARGET_BYTES = 8 * 2**20  # compressed; 4 to 16 MiB a block works best with Ray Data
MAX_IMAGES = 64  # in a shard of loose files: what a kill costs at most
MIN_SHARDS = 16  # a small input is cut finer than that, so that all actors get work and the progress shows
MIN_PIECE = 2**20  # bytes of a tar, when small tars are cut finer for the same reason
RECORD = 20 * 512  # bytes that tar writes at once: no piece is smaller
MAX_PIECES = 100_000  # of all tars together: what lies in more than 800 GB of tars is cut less finely


@dataclass(frozen=True)
class Listing:
    """What an input holds."""

    source: Input
    shards: list[Shard]
    ignored: Counter[str]  # files that are no images, by suffix or what they are
    left_out: int = 0  # loose files and rows of Parquet files that the choice leaves out
    output_name: OutputName | None = None  # by which outputs are named, where there are any
    most_shards: int | None = None  # of loose files, beyond which neighbours were joined

    def bounded(self, max_bytes: int) -> "Listing":
        """The same listing, of whose files none larger than this is read."""
        return replace(self, shards=[replace(shard, max_bytes=max_bytes) for shard in self.shards])

    def carrying(self) -> "Listing":
        """The same listing, of whose containers what lies beside the images is read, too."""
        return replace(self, shards=[replace(shard, carries=True) for shard in self.shards])

    @property
    def images(self) -> int | None:
        """How many images, None while tars are unopened."""
        counts = [shard.images for shard in self.shards]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def digest(self) -> str:
        """One digest of all shards: it changes when the input does."""
        return hashlib.sha256("\n".join(shard.id for shard in self.shards).encode()).hexdigest()


def list_shards(
    url: str, target_bytes: int = TARGET_BYTES, max_images: int = MAX_IMAGES, limit: int | None = None
) -> list[Shard]:
    """The shards of an input, without the check of output names (see `list_input`)."""
    return list_input(url, target_bytes, max_images, limit).shards


def list_input(
    url: str,
    target_bytes: int = TARGET_BYTES,
    max_images: int = MAX_IMAGES,
    limit: int | None = None,
    output_name: OutputName | None = None,
    choice: Choice = EVERYTHING,
    cut_tars: bool = False,
    most_shards: int | None = None,
    clashes_as_rows: bool = False,
    image_column: str | None = None,
) -> Listing:
    """List an input: deterministic, and linear in memory with some 50 bytes per image.

    Args:
        url: folder, tar, Parquet, or a glob; local or any fsspec URL.
        target_bytes: compressed bytes of loose files at which a shard is closed.
        max_images: loose files in a shard, at most; small inputs are cut finer.
        limit: only the first so many images; tars are opened then, to count.
        output_name: of a key; given, two loose files on one output are refused, and rows of Parquet know it.
        choice: of the images; with a list of keys, tars that may hold some of them are opened.
        cut_tars: whether a tar is cut into shards of `target_bytes`, or is one shard and read whole.
        most_shards: of loose files, beyond which neighbours are joined; None: however many there are.
        clashes_as_rows: of two loose files on one output the later one becomes a row that says so; else the input is
            refused.
        image_column: of Parquet files; None: by its name, or the only one that can be it.

    What a tar holds on the output name of another shard's image only their ledger parts show (`runs.settling`).
    Raises InvalidInput for an input that does not exist, is empty, or has two loose files on one output name; for a
    choice that leaves nothing, or names keys that are not there.
    """
    source = open_input(url)
    try:
        listing = _list(
            *(source, target_bytes, max_images, output_name, choice, cut_tars, most_shards, clashes_as_rows),
            image_column,
        )
        if limit:
            listing = replace(listing, shards=_limited(listing.shards, limit))
    except StorageError as error:
        raise InvalidInput(f"INPUT {error}") from None
    if not listing.shards and listing.left_out:
        raise InvalidInput(f"INPUT {source.url}: --include, --exclude and --only-listed leave none of its images")
    if not listing.shards:
        raise nothing_found(source, listing.ignored.total())
    if listing.ignored:
        kinds = ", ".join(f"{count} {kind or 'without suffix'}" for kind, count in listing.ignored.most_common(8))
        log.info("files that are no images, left out: %s", kinds)
    return listing


def _list(
    source: Input,
    target_bytes: int,
    max_images: int,
    output_name: OutputName | None,
    choice: Choice,
    cut_tars: bool,
    most_shards: int | None,
    clashes_as_rows: bool,
    image_column: str | None,
) -> Listing:
    ignored: Counter[str] = Counter()
    containers: list[tuple[str, int]] = []
    selection = Selection(choice)
    loose = PackedNames()
    log.info("listing %s", source.url)
    for name, size, kind, counted_as in sorted_out(source.store, source.entries(), frozenset(CONTAINERS)):
        if kind is None:
            ignored[counted_as] += 1
        elif kind == "container":
            containers.append((name, size))
        elif selection.may_hold(name) if kind == "folder" else selection.takes(name):
            loose.add(name, max(0, size))
    taken = Taken(output_name) if output_name else None
    unopened = [(name, size) for name, size in containers if not CONTAINERS[suffix(name)].tells_keys]
    lost: frozenset[str] = frozenset()
    if taken:
        clashes = taken.add_files(lambda: (name for name, _ in loose))
        if clashes and not clashes_as_rows:
            refuse(clashes)
        lost = frozenset(printable(name) for _, name in clashes)
        taken.check_trees([name for name, _ in unopened])
    total = sum(size for _, size in unopened)
    length = max(RECORD, total // MAX_PIECES, min(target_bytes, max(MIN_PIECE, total // MIN_SHARDS)))
    cutting = Cutting(selection, taken, length if cut_tars else None, image_column)
    groups = grouped(source.store, loose, target_bytes, max_images, MIN_SHARDS, most_shards)
    shards: list[Shard] = [shard.losing(lost) for shard in groups] if lost else [*groups]
    refused: list[NoImages] = []
    for name, size in containers:
        try:
            shards += CONTAINERS[suffix(name)].shards(source.store, name, size, cutting)
        except NoImages as error:
            ignored[f"{suffix(name)} without images"] += 1
            refused.append(error)
    if refused and not shards:
        raise refused[0]
    selection.check_found()
    return Listing(source, shards, ignored, selection.left_out, output_name, most_shards)


def _limited(shards: list[Shard], limit: int) -> list[Shard]:
    """The shards that hold the first `limit` images, the last of them cut; its id says so."""
    kept: list[Shard] = []
    for shard in shards:
        images = shard.images if shard.images is not None else sum(1 for _ in checked(shard, shard.stored(), None))
        if images > limit:
            kept.append(replace(shard, id=shard_id(shard.id, limit), limit=limit, images=shard.images and limit))
            break
        kept.append(shard)
        limit -= images
        if limit == 0:
            break
    return kept
