"""Whatever a file of PyTorch's kind holds, reading it ends soon, in little memory, and in one kind of error."""

import io
import json
import pickle
import random
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import torch

from driftrec.errors import InvalidInput
from driftrec.models import fbcnn, lightning

MANY = 10**6
HANG_S = 8.0  # far above what a case takes on a busy machine
HARMLESS = {"state_dict": {"backbone.a": torch.rand(9)}, "hyper_parameters": {"nf": 16, "sde_name": "ouve"}}
PICKLED = {
    "deep tuple": b")" + b"\x85" * MANY,
    "deep tuple as a key": b"})" + b"\x85" * MANY + b"K\x01s",
    "wide tuple as a key": b"})" + b"2\x86" * 60 + b"K\x01s",
    "deep list": b"]" * MANY + b"a" * (MANY - 1),
    "deep mapping": b"}" + b"K\x01}" * MANY + b"s" * MANY,
    "deep list as hyper_parameters": b"}X\x10\x00\x00\x00hyper_parameters" + b"]" * MANY + b"a" * (MANY - 1) + b"s",
    "length": b"c__builtin__\nbytearray\n" + b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x85R",
    "length by memo": b"X\x09\0\0\0bytearrayq\x000X\x08\0\0\0builtinsh\0\x93\x8a\x05\xff\xff\xff\xff\x20\x85R",
    "long number": b"\x8b" + (2**31 - 1).to_bytes(4, "little") + b"1",
    "long text": b"\x8d" + (2**40).to_bytes(8, "little") + b"x",
    "many marks": b"(" * MANY,
    "endless memo": b"K\x01" + b"".join(b"r" + number.to_bytes(4, "little") for number in range(10**5)),
}  # opcodes of protocol 2, without its first and last


SIZES = (0, 2**31, 2**32 - 1)
DIRECTORY = ((24, 22, "<I", SIZES), (20, 18, "<I", SIZES), (10, 8, "<H", (8, 12)))  # of a zip: sizes, and the method


def in_zip(pickled: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}.items():
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()


def in_old_file(pickled: bytes) -> bytes:
    first = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    return b"".join(pickle.dumps(value, 2) for value in first) + pickled + pickle.dumps([], 2)


def saved(content: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def lies(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Other sizes and methods in the directory of a zip, and in both places where they stand."""
    for number, at in enumerate(i for i in range(len(whole)) if whole.startswith(b"PK\x01\x02", i)):
        (local,) = struct.unpack_from("<I", whole, at + 42)
        for field, inner, form, values in DIRECTORY:
            for value in values:
                data = bytearray(whole)
                struct.pack_into(form, data, at + field, value)
                yield f"member {number}: {field} is {value}", bytes(data)
                struct.pack_into(form, data, local + inner, value)
                yield f"member {number}: {field} is {value} twice", bytes(data)


def cases(rounds: int) -> Iterator[tuple[str, bytes]]:
    """(what it is, the file's bytes)."""
    for name, opcodes in PICKLED.items():
        pickled = b"\x80\x02" + opcodes + b"."
        yield f"{name}, zip", in_zip(pickled)
        yield f"{name}, deflated", in_zip(pickled, zipfile.ZIP_DEFLATED)
        yield f"{name}, old", in_old_file(pickled)
    yield "a bomb", in_zip(bytes(2**28), zipfile.ZIP_DEFLATED)
    endless = torch.zeros(1, dtype=torch.float64).expand(10**5, 10**6)
    sparse = torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (10**6, 10**6))
    for tensor in (endless, sparse, torch.empty(10**6, 10**6, device="meta"), torch.zeros(3, dtype=torch.int64)):
        for place in ({"m_head.weight": tensor}, {**HARMLESS, "state_dict": {"backbone.a": tensor}}):
            yield f"a {tensor.layout} {tensor.device} {tensor.dtype}", saved(place)
    for value in (1e308, float("inf"), float("nan"), 10**5000, -1, "x", [1], None, [[]] * 5, {1: 2}):
        for name in ("nf", "ch_mult", "num_res_blocks", "sde_name", "gamma", "t_eps", "backbone_name"):
            known = HARMLESS["hyper_parameters"] | {"gamma": 1, "sigma_min": 0.1, "sigma_max": 1, "t_eps": 0.1}
            yield f"{name} = {type(value)}", saved({**HARMLESS, "hyper_parameters": known | {name: value}})
    draw = random.Random(0)
    for zipped in (True, False):
        whole = saved(HARMLESS, zipped)
        yield from lies(whole)
        for number in range(rounds):
            flipped = bytearray(whole)
            flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            yield f"flip {number} {zipped}", bytes(flipped)
            yield f"cut {number} {zipped}", whole[: draw.randrange(len(whole))]


def findings(folder: Path, rounds: int) -> dict[str, list[str]]:
    """The cases that ended in another way than InvalidInput, by kind of finding. Limits this process."""
    torch.set_num_threads(1)
    used = next(int(row.split()[1]) for row in Path("/proc/self/status").read_text().splitlines() if "VmSize" in row)
    everything = list(cases(rounds))
    resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + 2**30, used * 1024 + 2**30))
    found: dict[str, list[str]] = {}
    for what, data in everything:
        (folder / "case.ckpt").write_bytes(data)
        for read in (lightning.read, fbcnn.load):
            start = perf_counter()
            try:
                read(folder / "case.ckpt")
                found.setdefault("read", []).append(what)
            except InvalidInput as error:
                if "case.ckpt" not in str(error) or "\n" in str(error) or len(str(error)) > 1000:
                    found.setdefault("message", []).append(f"{what}: {str(error)[:300]}")
            except BaseException as error:
                found.setdefault(type(error).__name__, []).append(f"{what}: {read.__module__}")
            if perf_counter() - start > HANG_S:
                found.setdefault("hang", []).append(f"{what}: {read.__module__}")
    return found | {"cases": [str(len(everything))]}


@pytest.mark.parametrize("rounds", [60, pytest.param(2_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_every_file_is_refused(tmp_path: Path, rounds: int) -> None:
    run = [sys.executable, __file__, str(tmp_path), str(rounds)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=100 if rounds == 60 else 800, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert int(found.pop("cases")[0]) > 300
    assert not found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(findings(Path(sys.argv[1]), int(sys.argv[2]))))
