"""What is to run first where there is a GPU, in its CPU form: nobody has a minute to mend it then."""

import pytest
import torch

from benchmarks import gpu


def test_every_line_is_measured_on_a_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "SECONDS", 0.0)
    assert gpu.main(["--device", "cpu", "--small"]) == 0
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    told = {what.strip(): value.strip() for what, value in rows}
    assert told["mean, largest difference from the CPU's"] == "0 levels of 255"
    assert len(told) == 11
    assert told["noise on the device, values that differ from a CPU's"] == "0"
    assert all(float(value.split()[0]) > 0 for value in list(told.values())[2:])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--device", "cuda"])
    assert "finds no CUDA device" in capsys.readouterr().err
