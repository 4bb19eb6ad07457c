"""Whatever a model file's header says, reading the file ends soon, in little memory, and in one kind of error."""

import json
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import torch

from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE
from driftrec.errors import InvalidInput
from driftrec.models.checkpoint import load, save
from driftrec.networks.config import NetworkConfig

LONG = "x" * 10_000
DEEP = "[" * 5000 + "]" * 5000
VALUES = [
    *("null", "true", '"3"', "3.7", "-1", "0", "1000000000", "1" + "0" * 30, "1e308", "1e999", "NaN", "-Infinity"),
    *("[]", "{}", "[[]]", "[1000000000]", "[null, 1]", DEEP, json.dumps(LONG), '"\\u2603\\ud800"', "1" * 5000),
    *("[" + ", ".join(["1"] * count) + "]" for count in (11, 100_000)),
]  # as JSON
ODD_NAMES = ("\x1b[2Jx", "a\nb", "\u202egpj.exe", "\x7f", "\u2028")  # that play with a terminal
HANG_S = 5.0  # far above what a case takes on a busy machine


def fields(header: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path to every value below a JSON object."""
    found = []
    for name, value in header.items():
        found += [(*path, name), *(fields(value, (*path, name)) if isinstance(value, dict) else [])]
    return found


def with_value(header: Any, path: tuple[str, ...], value: str | None) -> str:
    """The header as JSON, with another value, itself JSON, or none, at a path."""
    copy = json.loads(json.dumps(header))
    place = copy
    for name in path[:-1]:
        place = place[name]
    place.pop(path[-1])
    if value is not None:
        place[path[-1]] = "@@"
    return json.dumps(copy).replace('"@@"', value or "")


def file_of(table: dict[str, Any], text: str, body: bytes) -> bytes:
    """A safetensors file whose description is this text."""
    head = json.dumps({"__metadata__": {"driftrec": text}} | table).encode()
    return len(head).to_bytes(8, "little") + head + body


def cases(whole: bytes, rounds: int) -> Iterator[tuple[str, bytes]]:
    """(what was done, the file's bytes)."""
    length = int.from_bytes(whole[:8], "little")
    table, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    text = table.pop("__metadata__")["driftrec"]
    header = json.loads(text)
    found = [
        (f"{'.'.join(path)} = {str(value)[:40]}", file_of(table, with_value(header, path, value), body))
        for path in fields(header)
        for value in (None, *VALUES)
    ]
    found += [(f"all = {value[:40]}", file_of(table, value, body)) for value in VALUES]
    found.append(("key twice", file_of(table, text[:-1] + ', "form": "x0"}', body)))
    found += [(f"length {n}", n.to_bytes(8, "little") + whole[8:]) for n in (0, 1, length - 1, 10**8, 2**63, 2**64 - 1)]
    for name in list(table)[:6]:
        for change in ({"shape": [10**9]}, {"shape": []}, {"dtype": "I64"}, {"data_offsets": [0, 4]}, {"dtype": 3}):
            found.append((f"{name}: {change}", file_of(table | {name: table[name] | change}, text, body)))
        for other in ("other", *ODD_NAMES):
            renamed = {(other if key == name else key): value for key, value in table.items()}
            found.append((f"{name} renamed {other!r}", file_of(renamed, text, body)))
            added = {other: {"dtype": "F32", "shape": [0], "data_offsets": [len(body), len(body)]}}
            found.append((f"{other!r} added", file_of(table | added, text, body)))
            no_type = {other: {"dtype": other, "shape": [0], "data_offsets": [len(body), len(body)]}}
            found.append((f"{other!r} of no type", file_of(table | no_type, text, body)))
    yield from found
    draw = random.Random(0)
    for number in range(rounds):
        flipped = bytearray(whole)
        flipped[draw.randrange(8 + length)] ^= 1 << draw.randrange(8)
        yield f"flip {number}", bytes(flipped)
        yield f"cut {number}", whole[: draw.randrange(8 + length)]


def findings(folder: Path, rounds: int) -> dict[str, list[str]]:
    """The cases that ended in another way than a model or InvalidInput, by kind of finding. Limits this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = replace(NetworkConfig.tiny(), width=8)
    save(folder / "good.safetensors", Denoiser.create(config, OUVE()), sampling={"steps": 4}, card={"data": "none"})
    load(folder / "good.safetensors")
    used = next(int(row.split()[1]) for row in Path("/proc/self/status").read_text().splitlines() if "VmSize" in row)
    resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + 2**30, used * 1024 + 2**30))
    found: dict[str, list[str]] = {}
    count = 0
    for what, data in cases((folder / "good.safetensors").read_bytes(), rounds):
        count += 1
        (folder / "case.safetensors").write_bytes(data)
        start = perf_counter()
        try:
            load(folder / "case.safetensors")
        except InvalidInput as error:
            if "case.safetensors" not in str(error) or not str(error).isprintable() or len(str(error)) > 1000:
                found.setdefault("message", []).append(what)
        except BaseException as error:
            found.setdefault(type(error).__name__, []).append(what)
        if perf_counter() - start > HANG_S:
            found.setdefault("hang", []).append(what)
    return found | {"cases": [str(count)]}


@pytest.mark.parametrize("rounds", [500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_every_header_is_read_or_refused(tmp_path: Path, rounds: int) -> None:
    run = [sys.executable, __file__, str(tmp_path), str(rounds)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=100 if rounds == 500 else 800, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert int(found.pop("cases")[0]) > 1500
    assert not found


@pytest.mark.parametrize("value", [True, 1.0, "1", [1], None, 0, 2])
def test_only_the_format_that_is_known_is_read(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(path, Denoiser.create(replace(NetworkConfig.tiny(), width=8), OUVE()))
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    header = json.loads(table.pop("__metadata__")["driftrec"]) | {"format": value}
    path.write_bytes(file_of(table, json.dumps(header), data[8 + length :]))
    with pytest.raises(InvalidInput, match="this version reads 1"):
        load(path)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(findings(Path(sys.argv[1]), int(sys.argv[2]))))
