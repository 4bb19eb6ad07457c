"""The notebook of the examples: its cells run one after the other, and show what the text says."""

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path("examples/tour.ipynb").absolute()


@pytest.mark.timeout(300)
def test_its_cells_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    monkeypatch.chdir(NOTEBOOK.parent)
    known: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)  # nothing of a machine is committed
            exec(compile("".join(cell["source"]), cell["id"], "exec"), known)
    assert known["table"]["mean"]["psnr"] > known["table"]["JPEG"]["psnr"] + 0.5
    assert known["table"]["mean"]["psnr"] > known["table"]["sample"]["psnr"]
    assert all(after > before for _, _, before, after in known["rows"])
    assert len(known["rows"]) == 4
    assert sum(known["losses"][-10:]) < sum(known["losses"][:10])
    assert "quality 30" in capsys.readouterr().out
