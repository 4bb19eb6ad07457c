"""PyTorch's own files (zip, or older): looked through before PyTorch reads them, for what they would unpack to, how
deep they are nested and what they call. Knows no model; nothing of a file is executed.

PyTorch's restricted unpickler runs no foreign code, but it does what it is told with lengths, and a tuple of tuples of
tuples as the key of a mapping ends the process.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from driftrec.bounds import MOST_BYTES
from driftrec.errors import InvalidInput, one_line

ZIP = b"PK\x03\x04"
MAGIC = (ZIP, b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # of all that torch.save and pickle write
MOST_MEMBERS = 100_000  # of a zip: one a tensor
MOST_PICKLED = 2**26  # bytes of one pickle, tensors apart
MOST_OPCODES = 300_000  # of one pickle; about 35 a tensor
DEEPEST = 100  # tuples in tuples
WIDEST = 10**6  # what the tuples in a tuple hold together, counted as often as it stands there
PICKLES = 5  # of an older file: a number, a version, the system, the content, the order of what follows
TAKE_LENGTHS = ("bytearray",)  # what fills as much memory as it is told
Nesting = tuple[int, int]  # (depth, count) of a tuple, (0, 1) of all else


def is_pickle(path: Path) -> bool:
    """By its first bytes, whatever its name."""
    with path.open("rb") as file:
        return file.read(len(ZIP)).startswith(MAGIC)


def unpickle(path: Path, stand_in: Callable[[str], type | None] | None = None) -> Any:
    """What a file holds; tensors and containers alone.

    Args:
        path: of the file.
        stand_in: for files with more in them than is wanted, whose tensors then stay on disk until they are used:
            what takes the place of the class of this name; None to refuse it.

    Raises InvalidInput naming the file and what is wrong with it.
    """
    try:
        _check_file(path)
        unknown = sorted(get_unsafe_globals_in_checkpoint(path)) if stand_in else []
    except Exception as error:  # a file that is none, cut or hostile raises anything
        raise unreadable(path, error) from error
    stand_ins = [(made, name) for name in unknown if stand_in and (made := stand_in(name))]
    if refused := sorted({*unknown} - {name for _, name in stand_ins}):
        raise InvalidInput(
            f"{path}: refused, because its pickle names {', '.join(refused[:3])}, which could run code; nothing of it "
            "was run. Take a file from a source that you trust, with weights and plain settings alone"
        )
    try:
        with safe_globals([*stand_ins]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=stand_in is not None)
    except Exception as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> InvalidInput:
    """Of a file of weights in any format."""
    return InvalidInput(f"{path}: not a whole file of weights ({one_line(error)}); fetch it again")


def _check_file(path: Path) -> None:
    """Raise ValueError, or what a broken file raises, unless PyTorch's restricted unpickler may be let loose on it."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    with path.open("rb") as file:
        if file.read(len(ZIP)) == ZIP:  # which is how PyTorch tells, whatever may stand at the end
            _check_zip(path)
            return
        file.seek(0)
        for _ in range(PICKLES):
            _check_pickle(file)


def _check_zip(path: Path) -> None:
    """What PyTorch writes is not compressed, so that no member is larger than the file, nor all of them together."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if archive.comment or len(members) > MOST_MEMBERS:
            raise ValueError(f"a comment, or more than {MOST_MEMBERS} members")
        if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
            raise ValueError("its members are compressed, which PyTorch's are not")
        if sum(member.file_size for member in members) > size:
            raise ValueError("its members are larger together than the file")
        for member in members:
            if member.filename.lower().endswith(".pkl"):  # PyTorch asks for names in any case
                _check_size(member.file_size)
                with archive.open(member) as file:
                    _check_pickle(file)


def _check_size(size: int) -> None:
    if size > MOST_PICKLED:
        raise ValueError(f"a pickle of more than {MOST_PICKLED} bytes")


def _check_pickle(file: IO[bytes]) -> None:
    """Follow what the opcodes do to the stack, as nestings. A tuple's is known when it is made: it never changes."""
    stack: list[Nesting | None] = []  # None: a mark
    memo: dict[int, Nesting | None] = {}
    start = file.tell()
    for number, (op, argument, position) in enumerate(pickletools.genops(file)):
        _check_size((position or start) - start)
        if number > MOST_OPCODES:
            raise ValueError(f"a pickle of more than {MOST_OPCODES} steps")
        if str(argument).rpartition(" ")[2] in TAKE_LENGTHS:  # named in one opcode, or by a text for another
            raise ValueError(f"it asks for a {TAKE_LENGTHS[0]}, which would fill memory")
        if op.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else int(argument)] = stack[-1]
        elif op.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument or 0])
        elif op.name == "DUP":
            stack.append(stack[-1])
        elif op.name == "MARK":
            stack.append(None)
        else:
            _step(op, stack)


def _step(op: pickletools.OpcodeInfo, stack: list[Nesting | None]) -> None:
    """Take from the stack what the opcode takes, and put there what it makes of it."""
    taken: list[Nesting] = []
    count = len(op.stack_before)
    if pickletools.markobject in op.stack_before:
        while (item := stack.pop()) is not None:
            taken.append(item)
        count = op.stack_before.index(pickletools.markobject)
    for _ in range(count):
        taken.append(stack.pop() or (0, 1))
    is_tuple = "TUPLE" in op.name or op.name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "FROZENSET", "BINPERSID")
    made = (1 + max((d for d, _ in taken), default=0), 1 + sum(n for _, n in taken)) if is_tuple else (0, 1)
    if made[0] > DEEPEST or made[1] > WIDEST:
        raise ValueError(f"tuples nested deeper than {DEEPEST}, or that hold more than {WIDEST} together")
    stack.extend([made] * len(op.stack_after))
