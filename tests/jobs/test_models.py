"""`driftrec models`: one JSON object on stdout, exit code 2 for what cannot be read."""

import json
from pathlib import Path

import pytest
import torch

from driftrec.models.checkpoint import embedded
from driftrec.models.tensors import file_sha256
from driftrec.networks.qgac import QGAC, QGACConfig
from jobs import cli
from jobs.models import main
from tests import made


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    code = main(arguments)
    return code, json.loads(capsys.readouterr().out)


def test_list_tells_the_embedded_models(capsys: pytest.CaptureFixture[str]) -> None:
    code, told = answer(capsys, "list")
    assert code == 0
    assert [model["model"] for model in told["models"]] == embedded()
    assert "tiny" in embedded()


def test_show_tells_what_a_file_holds(small_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = answer(capsys, "show", str(small_model))
    assert code == 0
    assert told["sha256"] == file_sha256(small_model)
    assert told["bytes"] == small_model.stat().st_size
    assert told["network"]["width"] == 8
    assert (told["process"]["name"], told["form"], told["sampling"]["steps"]) == ("ouve", "x0", 2)


def test_refusals_name_the_file(small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = answer(capsys, "show", "nothing")
    assert code == 2
    assert "'nothing'" in told["error"]
    torch.save({"a": 1}, tmp_path / "a.ckpt")
    for source in (small_model, tmp_path / "a.ckpt"):
        code, told = answer(capsys, "import", str(source), str(tmp_path / "out.safetensors"))
        assert code == 2
        assert source.name in told["error"]
        assert not (tmp_path / "out.safetensors").exists()


def test_an_import_of_qgac_tells_what_it_matched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = QGAC(QGACConfig(4, 8, 4, 2, 4)).state_dict()
    torch.save({f"w{i}": value for i, value in enumerate(weights.values())}, tmp_path / "a.pth")
    call = ("import", "--kind", "qgac", str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors"))
    code, told = answer(capsys, *call)
    assert code == 2
    assert "a.pth: weight 1, 'w1', is (4, 1, 8, 8), where QGAC has" in told["error"]
    monkeypatch.setattr("driftrec.models.qgac.QGACConfig", lambda: QGACConfig(4, 8, 4, 2, 4))
    code, told = answer(capsys, *call)
    assert (code, told["model"]) == (0, f"qgac:{tmp_path / 'b.safetensors'}")
    assert list(told["matched"].items())[:2] == [(f"w{i}", name) for i, name in enumerate([*weights][:2])]
    assert (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("wrong", ["[]", '{"width": 1' + "0" * 30 + "}", "[" * 5000 + "]" * 5000])
def test_a_malformed_file_is_one_line(
    small_model: Path, tmp_path: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = small_model.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["driftrec"] = json.dumps({"format": 1, "network": "@"}).replace('"@"', wrong)
    head = json.dumps(header).encode()
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + length :])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(made.jpeg(0))
    for command in (["models", "show"], ["restore", str(tmp_path / "in"), str(tmp_path / "out"), "--model"]):
        assert cli.main([*command, str(bad)]) == 2
        told = json.loads(capsys.readouterr().out)["error"]
        assert "bad.safetensors" in told
        assert "\n" not in told
