"""What stages and drivers say names the run, the shard and the image."""

import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs.names import log_tags
from pipeline.restore.job import run_restore
from pipeline.restore.settings import RestoreSettings
from tests import made
from tests.pipeline.offline import ledger, no_ray


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_log_line_stays_one_line_of_name_and_value(key: str, other: str) -> None:
    text = log_tags(run="0123456789", shard=None, key=key, condition=other)
    assert len(text.splitlines()) == 1
    value = r'(?:[^\s"=]+|"(?:[^"\\]|\\.)*")'
    assert re.fullmatch(rf"run=01234567 key={value} condition={value}", text)


def test_an_image_that_failed_by_our_fault_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def failing(*_: object, **__: object) -> bytes:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("pipeline.restore.job.encode", failing)
    source, output = made.folder(tmp_path / "in", 3), tmp_path / "out"
    with no_ray():
        settings = RestoreSettings(input=str(source), output=str(output), model="identity", max_failed="3")
        result = run_restore(settings)
    run = result["fingerprint"][:8]
    shards = {path.stem for path in output.glob("ledger/*.parquet")}
    lines = [record.message for record in caplog.records if "a defect" in record.message]
    told = {tuple(re.findall(r"(\w+)=(\S+)", line)) for line in lines}
    assert {dict(names)["key"] for names in told} == set(ledger(output))
    assert {dict(names)["shard"] for names in told} == shards
    assert {dict(names)["run"] for names in told} == {run}
    assert any(record.message.endswith(f"done by an earlier attempt run={run}") for record in caplog.records)
