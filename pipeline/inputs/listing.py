"""What is to be done: an input as a deterministic list of shards. Knows no Ray.

Loose files are grouped in the order of their names; a tar is one shard, or cut into several, and not opened before its
turn; a row group of a Parquet file is one shard.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

import pyarrow as pa

from driftrec.errors import BadImage, InvalidInput
from pipeline.inputs.collisions import OutputName, Taken
from pipeline.inputs.location import CONTAINERS, Input, nothing_found, open_input
from pipeline.inputs.names import is_image, strip_suffix, suffix
from pipeline.inputs.parquet import parquet_columns, parquet_keys
from pipeline.inputs.selection import EVERYTHING, Choice, Selection
from pipeline.inputs.shards import (
    Shard,
    checked,
    files_of,
    files_shard,
    keys_of,
    open_parquet,
    shard_id,
    stored_rows,
)
from pipeline.storage.base import NO_FILE, StorageError, Store

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
    ignored: Counter[str]  # files that are no images, by suffix
    left_out: int = 0  # loose files and rows of Parquet files that the choice leaves out
    output_name: OutputName | None = None  # by which outputs are named, where there are any

    def bounded(self, max_bytes: int) -> "Listing":
        """The same listing, of whose files none larger than this is read."""
        return replace(self, shards=[replace(shard, max_bytes=max_bytes) for shard in self.shards])

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
) -> Listing:
    """List an input: deterministic, and linear in memory with about 20 bytes per image.

    Args:
        url: folder, tar, Parquet, or a glob; local or any fsspec URL.
        target_bytes: compressed bytes of loose files at which a shard is closed.
        max_images: loose files in a shard, at most; small inputs are cut finer.
        limit: only the first so many images; tars are opened then, to count.
        output_name: of a key; given, two loose files on one output are refused, and rows of Parquet know it.
        choice: of the images; with a list of keys, tars that may hold some of them are opened.
        cut_tars: whether a tar is cut into shards of `target_bytes`, or is one shard and read whole.

    What a tar holds on the output name of another shard's image only their ledger parts show (`runs.settling`).
    Raises InvalidInput for an input that does not exist, is empty, or has two loose files on one output name; for a
    choice that leaves nothing, or names keys that are not there.
    """
    source = open_input(url)
    try:
        listing = _list(source, target_bytes, max_images, output_name, choice, cut_tars)
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
) -> Listing:
    ignored: Counter[str] = Counter()
    containers: list[tuple[str, int]] = []
    selection = Selection(choice)

    def loose() -> Iterator[tuple[str, int]]:
        for name, size in source.entries():
            if is_image(name) or (size == NO_FILE and suffix(name) in CONTAINERS):
                if selection.takes(name):
                    yield name, max(0, size)
            elif suffix(name) in CONTAINERS:
                containers.append((name, size))
            else:
                ignored[suffix(name)] += 1

    shards = list(_group(source.store, loose(), target_bytes, max_images))
    taken = Taken(output_name) if output_name else None
    if taken:
        taken.add_files(lambda: (name for shard in shards for name, _ in files_of(shard)))
        taken.check_trees([strip_suffix(name) for name, _ in containers if suffix(name) == ".tar"])
    tars = sum(size for name, size in containers if suffix(name) == ".tar")
    length = max(RECORD, tars // MAX_PIECES, min(target_bytes, max(MIN_PIECE, tars // MIN_SHARDS)))
    for name, size in containers:
        if suffix(name) == ".tar":
            shards += _pieces(source.store, name, size, length if cut_tars else None, selection)
        else:
            shards += _row_groups(source.store, name, size, taken, selection)
    selection.check_found()
    return Listing(source, shards, ignored, selection.left_out, output_name)


def _pieces(store: Store, name: str, size: int, length: int | None, selection: Selection) -> Iterator[Shard]:
    """A tar as shards of about `length` bytes. It is opened only if some of its keys may have been asked for."""
    if not selection.may_take_of(name):
        return
    starts = range(0, max(1, size), length or max(1, size))
    choice = selection.choice
    for start in starts:
        stop = None if start == starts[-1] else start + starts.step
        parts = ("tar", name, size) if len(starts) == 1 else ("tar", name, size, start, stop)
        digest = shard_id(*parts, choice.digest()) if choice else shard_id(*parts)
        length = min(size, stop or size) - start
        piece = Shard(digest, "tar", store, name, length, None, start=start, stop=stop, choice=choice.patterns)
        if choice.listed is not None:
            kept = selection.rows(keys_of(piece), name, start)
            if not kept:
                continue
            piece = replace(piece, kept=kept)
        yield piece


def _group(
    store: Store, files: Iterator[tuple[str, int]], target_bytes: int, max_images: int
) -> Iterator[Shard]:
    """Loose files, in their order, as shards. The first files are looked at together, to cut a small input finer."""
    head = list(islice(files, MIN_SHARDS * max_images))
    most = max(1, min(max_images, -(-len(head) // MIN_SHARDS)))
    group: list[tuple[str, int]] = []
    size = 0
    for item in chain(head, files):
        group.append(item)
        size += item[1]
        if size >= target_bytes or len(group) >= most:
            yield files_shard(store, group)
            group, size = [], 0
    if group:
        yield files_shard(store, group)


def _row_groups(store: Store, name: str, size: int, taken: Taken | None, selection: Selection) -> Iterator[Shard]:
    """One shard a row group; a file whose footer cannot be read is one shard that says so."""
    try:
        file = open_parquet(store, name)
        schema = file.schema_arrow
    except (pa.ArrowException, OSError):
        selection.takes_all(name)
        yield Shard(shard_id("parquet", name, size), "parquet", store, name, size, 1, group=-1)
        return
    _, key_column = parquet_columns(schema, store.where(name))
    first, looks = 0, bool(taken or selection.choice)
    for group in range(file.metadata.num_row_groups):
        info = file.metadata.row_group(group)
        digest = shard_id("parquet", name, size, group, info.num_rows)
        shard = Shard(digest, "parquet", store, name, info.total_byte_size, info.num_rows, b"", group, first)
        first += info.num_rows
        try:
            keys = parquet_keys(file, group, key_column, strip_suffix(name), shard.first_row) if looks else []
        except BadImage:  # it will tell of itself, whatever is meant
            selection.takes_all(name)
            yield shard
            continue
        if selection.choice:
            kept = selection.rows(keys, name, shard.first_row)
            shard = replace(shard, id=shard_id(digest, selection.choice.digest()), images=len(kept), kept=kept)
        if taken:
            rows = sorted(shard.kept) if shard.kept is not None else range(info.num_rows)
            repeated = taken.add([keys[row] for row in rows])
            shard = replace(shard, duplicates=frozenset(rows[place] for place in repeated))
        if shard.images or not selection.choice:
            yield shard


def _limited(shards: list[Shard], limit: int) -> list[Shard]:
    """The shards that hold the first `limit` images, the last of them cut; its id says so."""
    kept: list[Shard] = []
    for shard in shards:
        images = shard.images if shard.images is not None else sum(1 for _ in checked(shard, stored_rows(shard), None))
        if images > limit:
            kept.append(replace(shard, id=shard_id(shard.id, limit), limit=limit, images=shard.images and limit))
            break
        kept.append(shard)
        limit -= images
        if limit == 0:
            break
    return kept
