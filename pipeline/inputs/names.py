"""Names: which are images, which are safe, and what an output is called. Pure functions; no storage, no Ray."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftrec.errors import CONTROL, InvalidInput, escaped
from driftrec.errors import visible as visible
from driftrec.image.encoding import ENCODERS, OURS, SAME, format_of_suffix
from driftrec.image.sniff import EXTENSIONS

# What the decoder may be asked to read. Other files of a folder or tar are counted, never opened.
IMAGE_SUFFIXES = frozenset(EXTENSIONS)
MAX_COMPONENT_BYTES = 255  # of Linux file systems
MAX_NAME_BYTES = 1000  # S3 allows 1,024 for a whole key; images/ and a prefix take their share
RUN_DIGITS = 8  # of a fingerprint, by which people know a run
PLAIN = re.compile(r'[^\s"=]+')  # needs no quotes in a log line
TOO_LONG = f"is longer than {MAX_COMPONENT_BYTES} bytes in a part or {MAX_NAME_BYTES} bytes as a whole"

VERSION = "?versionId="
_UNSAFE = re.compile(f"[{CONTROL}\\\\]")


def suffix(name: str) -> str:
    """Lower-case suffix with its dot, "" if there is none: "a/B.JPG" -> ".jpg"."""
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    return f".{last.lower()}" if dot and stem else ""


def is_image(name: str) -> bool:
    """Whether the name promises an image. Its content is looked at later and decides."""
    return suffix(name) in IMAGE_SUFFIXES


def strip_suffix(name: str) -> str:
    """The name without its suffix: "a/b.tar" -> "a/b"."""
    return name[: len(name) - len(suffix(name))]


def stem(key: str) -> str:
    """The key without an image suffix: what it shares with the name of its output, or of its partner elsewhere."""
    return strip_suffix(key) if is_image(key) else key


def sample_of(name: str) -> str:
    """The sample of a WebDataset that a member belongs to: "a/1.seg.png" -> "a/1"."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


class Renamed(NamedTuple):
    """How keys change from one input to another: what they begin with here, and there in its place."""

    here: str = ""
    there: str = ""

    def stem(self, key: str) -> str:
        """What the partner of a key is called there, without its suffix."""
        return stem(self.there + key.removeprefix(self.here) if key.startswith(self.here) else key)


SAME_NAMES = Renamed()


def folders_of(name: str) -> Iterator[str]:
    """The folders above a name: a and a/b of a/b/c."""
    return (name[:place] for place, sign in enumerate(name) if sign == "/")


def output_format(key: str, wanted: str) -> str:
    """The format of an output: `wanted`, or for "same" what the key's suffix promises (png if we do not write that)."""
    return wanted if wanted != SAME else format_of_suffix(suffix(key)) or "png"


def output_name(key: str, wanted: str, whole: bool = False) -> str:
    """Where the output of `key` lies below images/: an image suffix is replaced, or else one is appended. If the name
    is to stay `whole` one is appended always: a.jpg.png.

    "same" keeps the suffix of a format that we write; an .mpo, of several pictures, becomes a JPEG of one. Of a
    plugin's format it keeps that one suffix.
    """
    kind = output_format(key, wanted)
    fits = kind != "png" and suffix(key) != ".mpo" if kind in OURS else suffix(key) == ENCODERS[kind].suffix
    if wanted == SAME and fits:
        return key
    return (key if whole else stem(key)) + ENCODERS[kind].suffix


def copy_name(key: str, wanted: str, whole: bool = False) -> str:
    """Where a copy of the file `key` lies below images/: at its own name, or without an image suffix at its output's.
    No other key's output or copy has that name, unless both have one output's name.
    """
    return key if is_image(key) else output_name(key, wanted, whole)


def output_or_copy(key: str, wanted: str, whole: bool = False) -> tuple[str, str]:
    """Where the output of `key` or a copy of its file lies: one of the two."""
    return output_name(key, wanted, whole), copy_name(key, wanted, whole)


def unsafe(key: str) -> str:
    """Why no output may be named after this key, in words; "" if it is safe."""
    if match := _UNSAFE.search(key):
        return f"the name holds the character {printable(match.group())} (U+{ord(match.group()):04X})"
    if VERSION in key:
        return f"the name holds {VERSION}, which clients of S3 take for a version of another object"
    if key.startswith("/"):
        return "the name is absolute"
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "the name has an empty, . or .. part"
    return f"the name {TOO_LONG}" if is_too_long(key) else ""


def is_too_long(name: str) -> bool:
    """Whether some disk or store cannot hold a name that is otherwise safe."""
    lengths = [len(part.encode()) for part in name.split("/")]
    return max(lengths) > MAX_COMPONENT_BYTES or sum(lengths) + len(lengths) > MAX_NAME_BYTES


def printable(name: str) -> str:
    """The name with every unsafe character escaped, for the ledger and messages. Safe names are unchanged."""
    return _UNSAFE.sub(escaped, name)


def log_tags(**names: str | None) -> str:
    """For a log line, what it is about: `run=0a1b2c3d shard=... key="a b.jpg"`. What is not known is left out; of a
    run's fingerprint the first digits are enough.
    """
    known = {name: printable(value) for name, value in names.items() if value}
    known |= {"run": known["run"][:RUN_DIGITS]} if "run" in known else {}
    return " ".join(f"{name}={value if PLAIN.fullmatch(value) else quoted(value)}" for name, value in known.items())


def quoted(text: str) -> str:
    """In double quotes, as JSON has it."""
    return json.dumps(text, ensure_ascii=False)


def collision_id(name: str) -> int:
    """Equal for names that some file system holds for one (case, Unicode composition): 64 bits of a digest."""
    return name_digest(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()))


def name_digest(name: str) -> int:
    """64 bits that stand for a name, in memory that does not grow with its length."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def name_digests(names: Iterable[str]) -> NDArray[np.uint64]:
    """The `name_digest` of each."""
    return np.fromiter(map(name_digest, names), np.uint64)


def place_among(digests: NDArray[np.uint64], digest: int) -> int | None:
    """Where one stands among sorted digests; None if it is not there."""
    at = int(np.searchsorted(digests, np.uint64(digest)))
    return at if at < len(digests) and digests[at] == digest else None


def glob_regex(pattern: str) -> re.Pattern[str]:
    """* and ? stay within a part of the path, ** crosses parts, [abc] is a class. Raises InvalidInput naming it."""
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", pattern, re.DOTALL)
    try:
        return re.compile("".join(known.get(part) or _glob_class(part) for part in parts), re.DOTALL)
    except re.error as error:
        shown = re.sub(r"\?\S*=\S*", "?...", pattern)  # a signed URL's query
        raise InvalidInput(f"the pattern {shown!r} has a {error.msg}; write a class as [abc] or [a-c]") from None


def _glob_class(part: str) -> str:
    """One sign, or a class, as a regular expression has it: in a class only a first ! or ^, and -, mean something."""
    if len(part) == 1:
        return re.escape(part)
    signs = part[1:-1]
    negated = signs[0] in "!^" and len(signs) > 1
    inside = re.sub(r"[\\^\[&~|]", r"\\\g<0>", signs[negated:])
    return f"[{'^' if negated else ''}{inside}]"
