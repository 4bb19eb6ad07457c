"""What a file of an input is: an image, a container, or neither; and as what it is counted then. Knows no Ray.

Its name tells for most. Whose name does not is looked into: phones, browsers and backups leave pictures without a
suffix, or with one of their own (x.jpg_large, x.jpg?w=640). A picture of a kind that is not read is an image here, too,
so that it has a row which says so.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from driftrec.errors import BadImage, Reason
from driftrec.image.sniff import RAW_SUFFIXES, identify
from pipeline.inputs.names import IMAGE_SUFFIXES, suffix
from pipeline.storage.base import CLOSED_FOLDER, LINKED_FOLDER, NO_FILE, StorageError, Store, is_of_object

# Never looked into: what lies beside pictures in great numbers, and would cost a request each.
NO_IMAGES = frozenset(
    ".7z .aac .aae .avi .bz2 .c .cls .cpp .css .csv .db .doc .docx .exe .flac .gz .h .htm .html .ini .ipynb .jar .js "
    ".json .jsonl .lock .log .m4a .m4v .md .mkv .mov .mp3 .mp4 .mpg .npy .npz .odt .ogg .pdf .pickle .pkl .pt .pth .py "
    ".rar .rst .safetensors .sh .sha256 .sql .sqlite .srt .svg .tex .tgz .toml .ts .tsv .txt .wav .webm .xml .xmp .xz "
    ".yaml .yml .zip .zst".split()
)
# What network drives, file managers and macOS leave beside photographs: small copies, and no photographs.
BESIDE = ("@eaDir", ".thumbs", ".thumbnails", "__MACOSX")
IN_BESIDE = re.compile(rf"(?:^|/)({'|'.join(map(re.escape, BESIDE))})/")
PICTURES = IMAGE_SUFFIXES | RAW_SUFFIXES
WEB = ("http://", "https://")
HEAD = 1024  # bytes of a file that are looked at
RAW = Reason.unsupported, "camera raw is not read: develop it to TIFF, PNG or JPEG"
AT_ONCE = 1000  # files that are looked into together

Kind = Literal["image", "container", "folder"]  # a folder that is not read, and may hold images


class Found(NamedTuple):
    """A file of the input, and what it is."""

    name: str
    size: int
    kind: Kind | None
    counted_as: str = ""  # where it is none of these


def sorted_out(store: Store, entries: Iterable[tuple[str, int]], containers: Collection[str]) -> Iterator[Found]:
    """What each (name, bytes) of the entries is, in their order; `containers` are suffixes. Raises StorageError if
    storage as a whole fails.
    """
    waiting: list[tuple[str, int, Found | None]] = []  # a file that is to be looked into, and what comes after it
    unclear = 0
    for name, size in entries:
        found = by_name(name, size, containers) if size >= 0 else no_file(store, name, containers)
        if found is None:
            found = _not_looked_into(store, name, size)
            unclear += found is None
        if found and not waiting:
            yield found
            continue
        waiting.append((name, size, found))
        if unclear >= AT_ONCE or len(waiting) >= 10 * AT_ONCE:
            yield from _looked_into(store, waiting)
            waiting, unclear = [], 0
    yield from _looked_into(store, waiting)


def _looked_into(store: Store, waiting: Sequence[tuple[str, int, Found | None]]) -> Iterator[Found]:
    """What they are; those of which nothing is known yet are looked into together."""
    heads = iter(store.each(lambda name: head_of(store, name), [name for name, _, found in waiting if found is None]))
    for name, size, found in waiting:
        yield found or Found(name, size, *by_content(name, next(heads)))


def _not_looked_into(store: Store, name: str, size: int) -> Found | None:
    """As what a file is counted whose name does not tell, if it is not looked into all the same."""
    if store.leads_out(name):
        return Found(name, size, None, "links that lead out of the input")
    if "?" in name and store.url.startswith(WEB):
        return Found(name, size, None, "")  # its key would show what a signed URL's query holds
    return None


def by_name(name: str, size: int, containers: Collection[str] = ()) -> Found | None:
    """What a file's name and size tell; None if it is to be looked into."""
    kind = suffix(name)
    if any(part in name for part in BESIDE) and (beside := IN_BESIDE.search(name)):
        return Found(name, size, None, f"{beside.group(1)}/")
    if "._" in name and is_hidden_twin(name):
        return None if size else Found(name, size, None, "._*")
    if kind in PICTURES:
        return Found(name, size, "image")
    if kind in containers:
        return Found(name, size, "container")
    return None if size and kind not in NO_IMAGES else Found(name, size, None, kind)


def no_file(store: Store, name: str, containers: Collection[str]) -> Found:
    """What a name is that is no file."""
    what = store.no_file(name)
    if promises(name, containers):
        return Found(name, NO_FILE, "image")  # whose row says what is in its place
    if what == CLOSED_FOLDER or (what == LINKED_FOLDER and store.leads_out(name)):
        return Found(name, NO_FILE, "folder")
    if what == LINKED_FOLDER:
        return Found(name, NO_FILE, None, "links to folders that are read elsewhere")
    return Found(name, NO_FILE, None, "links that lead nowhere, pipes, sockets, devices")


def promises(name: str, containers: Collection[str]) -> bool:
    """Whether a name is that of an image or a container."""
    kind = suffix(name)
    return kind in PICTURES or kind in containers


def by_content(name: str, head: bytes | None) -> tuple[Kind | None, str]:
    """What the first bytes of a file tell, and as what it is counted; None: they could not be read."""
    if head is None:
        return None, "files without an image's name that may not be read"
    try:
        identify(head)
    except BadImage as error:
        if error.reason != Reason.unsupported:
            return None, "._*" if is_hidden_twin(name) else suffix(name)
    return "image", ""


def is_hidden_twin(name: str) -> bool:
    """Whether it is called as macOS calls a file's metadata on foreign disks, in AppleDouble's format."""
    return name.startswith("._", name.rfind("/") + 1)


def head_of(store: Store, name: str) -> bytes | None:
    """The first bytes of a file, None where it alone may not be read."""
    try:
        return store.read(name, 0, HEAD)
    except StorageError as error:
        if not is_of_object(store, name, error):
            raise
        return None
