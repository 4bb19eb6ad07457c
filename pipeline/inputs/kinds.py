"""What a file of an input is: an image, a container, or neither; and as what it is counted then. Knows no Ray.

Its name tells for most. Whose name does not is looked into: phones, browsers and backups leave pictures without a
suffix, or with one of their own (x.jpg_large, x.jpg?w=640). A picture of a kind that is not read is an image here, too,
so that it has a row which says so.
"""

import re
from collections.abc import Collection, Iterable, Iterator
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
BESIDE = re.compile(r"(?:^|/)(@eaDir|\.thumbs|\.thumbnails|__MACOSX)/")
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
    entries = iter(entries)
    while some := _some(store, entries, containers):
        unclear = [name for name, _, found in some if found is None]
        heads = iter(store.each(lambda name: head_of(store, name), unclear))
        for name, size, found in some:
            yield found or Found(name, size, *by_content(name, next(heads)))


def _some(
    store: Store, entries: Iterator[tuple[str, int]], containers: Collection[str]
) -> list[tuple[str, int, Found | None]]:
    """The next entries, with what their names tell: some of them wait while others are looked into."""
    some: list[tuple[str, int, Found | None]] = []
    unclear = 0
    while unclear < AT_ONCE and len(some) < 10 * AT_ONCE and (entry := next(entries, None)):
        found = no_file(store, entry[0], containers) if entry[1] == NO_FILE else by_name(*entry, containers)
        if found is None and store.leads_out(entry[0]):
            found = Found(*entry, None, "links that lead out of the input")
        if found is None and "?" in entry[0] and store.url.startswith(WEB):
            found = Found(*entry, None, "")  # its key would show what a signed URL's query holds
        unclear += found is None
        some.append((*entry, found))
    return some


def by_name(name: str, size: int, containers: Collection[str] = ()) -> Found | None:
    """What a file's name and size tell; None if it is to be looked into."""
    kind = suffix(name)
    if beside := BESIDE.search(name):
        return Found(name, size, None, f"{beside.group(1)}/")
    if is_hidden_twin(name):
        return None if size else Found(name, size, None, "._*")
    if promises(name, containers):
        return Found(name, size, "container" if kind in containers else "image")
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
    return kind in IMAGE_SUFFIXES or kind in RAW_SUFFIXES or kind in containers


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
