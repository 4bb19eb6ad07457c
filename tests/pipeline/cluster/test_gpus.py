"""Every job on a Ray that claims a GPU. Nothing is there: Ray only counts it, and models stay on the CPU."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import made
from tests.pipeline.evaluations import clean

PROGRAM = """
import json, sys
import pipeline, ray
ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False,
         _node_ip_address="127.0.0.1")
from jobs.cli import main
for arguments in json.loads(sys.argv[1]):
    main(arguments)
"""


def run(*jobs: list[object]) -> list[dict[str, Any]]:
    """The results of jobs that share one Ray with two CPUs and a claimed GPU."""
    told = json.dumps([[str(word) for word in job] for job in jobs])
    done = subprocess.run([sys.executable, "-c", PROGRAM, told], capture_output=True, text=True)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(jobs), done.stderr[-3000:]
    for result in results:
        assert result["exit_code"] == 0, (result, done.stderr[-3000:])
    return results


@pytest.mark.timeout(300)
def test_restore_and_evaluate(tmp_path: Path, small_model: Path) -> None:
    damaged, source = made.folder(tmp_path / "in", 6), clean(tmp_path / "clean", 3)
    restore = ["restore", damaged]
    *restored, evaluated = run(
        [*restore, tmp_path / "one", "--model", small_model],
        [*restore, tmp_path / "half", "--model", small_model, "--gpus-per-actor", "0.5"],
        ["evaluate", source, tmp_path / "scores", "--model", f"m={small_model}", "--quality", "10,30"],
    )
    assert [result["status"]["ok"] for result in restored] == [6, 6]
    assert restored[0]["workers"] == 1 <= restored[1]["workers"] <= 2  # of two, one may have done all
    assert evaluated["status"]["ok"] == 3
    assert all(one["failed"] == 0 for each in evaluated["conditions"] for one in each["candidates"])
    files = [sorted((tmp_path / name / "images").rglob("*.png")) for name in ("one", "half")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_other_jobs(tmp_path: Path, small_model: Path) -> None:
    damaged, source = made.folder(tmp_path / "in", 6, 96, 96), clean(tmp_path / "clean", 3)
    small = "--steps 2 --set network.width=8 --set batch_size=1 --set patches.size=32 --set shuffle_buffer=4".split()
    model = ["--model", f"m={small_model}"]
    degraded, surveyed, trained, evaluated = run(
        ["degrade", source, tmp_path / "degraded", "--quality", "10"],
        ["survey", damaged, tmp_path / "survey", "--pixels", "all", "--model", small_model, "--calibration", "2"],
        ["train", damaged, tmp_path / "train", *small],
        ["evaluate", source, tmp_path / "half", *model, "--quality", "10", "--gpus-per-actor", "0.5"],
    )
    assert degraded["status"]["ok"] == evaluated["status"]["ok"] == 3
    assert surveyed["status"]["ok"] == 6
    assert trained["steps"] == 2
