"""A submitted job, followed: its log is told once, its result is found, and a cluster that is gone is told of."""

import json
import logging
from collections.abc import AsyncIterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from ray.job_submission import JobStatus

from driftrec.errors import DriftRecError
from pipeline.cluster import submit
from pipeline.cluster.submit import Job, Teller
from pipeline.runs.ends import Interrupted

RESULT = {"state": "done", "exit_code": 3, "images": 7}
NOT_THERE = RuntimeError("Request failed with status code 404: Job j does not exist")


class Cluster:
    """A job that ends as it is told, whose log comes in pieces, over connections that break after some of them."""

    def __init__(
        self, status: JobStatus = JobStatus.SUCCEEDED, log: str = "", pieces: tuple[list[str], ...] = (), **trouble: Any
    ) -> None:
        self.status, self.log, self.pieces, self.trouble = status, log, list(pieces), trouble

    def get_job_info(self, job: str) -> SimpleNamespace:
        if error := self.trouble.get("info"):
            raise error
        return SimpleNamespace(status=self.status, message="the message")

    def get_job_logs(self, job: str) -> str:
        return self.log

    def stop_job(self, job: str) -> None:
        if error := self.trouble.get("stop"):
            raise error
        self.status = JobStatus.STOPPED

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for piece in self.pieces.pop(0):
            yield piece
        if self.pieces:
            raise RuntimeError("WebSocket connection closed unexpectedly")
        self.ended()

    def ended(self) -> None:
        """Nothing, until a test says otherwise."""


def job_of(cluster: Cluster) -> Job:
    return Job(cluster, "http://head:1", "j")  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 40), max_size=4), st.data())
@trials(deadline=None, max_examples=30)
def test_a_line_is_told_once_whatever_connections_do(breaks: list[int], data: st.DataObject) -> None:
    """Each connection begins at the log's beginning, and brings it in pieces of any size up to where it breaks."""
    lines = ["Running entrypoint", "", 'a "{" in a line', '{"progress": {"shards": 3}}', json.dumps(RESULT)]
    log = "".join(f"{line}\n" for line in lines)
    connections = []
    for end in (*breaks, len(log)):
        cuts = sorted({0, end, *data.draw(st.lists(st.integers(0, end), max_size=4))})
        connections.append([log[a:b] for a, b in pairwise(cuts)])
    cluster, told = Cluster(pieces=tuple(connections)), []
    teller = Teller(job_of(cluster))
    cluster.ended = teller.over.set  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submit, "POLL_S", 0.0)
        patch.setattr(submit.log, "info", lambda form, *given: told.append(form % given))
        teller.run()
    assert told == lines[:-1]


def test_the_last_result_in_the_log_is_the_jobs() -> None:
    lines = [json.dumps({"state": "early"}), json.dumps({"progress": 1}), "{no json", json.dumps(RESULT), "bye"]
    cluster = Cluster(JobStatus.FAILED, "\n".join(lines))
    assert submit._result(job_of(cluster), cluster.get_job_info("j")) == RESULT


def test_a_job_without_a_result() -> None:
    cluster = Cluster(JobStatus.FAILED, "a\nTraceback\nValueError: x\n")
    with pytest.raises(DriftRecError, match=r"FAILED without a result: .*ValueError: x"):
        submit._result(job_of(cluster), cluster.get_job_info("j"))
    cluster = Cluster(JobStatus.FAILED)
    with pytest.raises(DriftRecError, match="the message"):
        submit._result(job_of(cluster), cluster.get_job_info("j"))
    cluster = Cluster(JobStatus.STOPPED)
    stopped = submit._result(job_of(cluster), cluster.get_job_info("j"))
    assert (stopped["state"], stopped["exit_code"]) == ("interrupted", 130)


def test_a_cluster_that_is_silent_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "POLL_S", 0.01)
    monkeypatch.setattr(submit, "PATIENCE_S", 0.1)
    with pytest.raises(DriftRecError, match="job j may go on there"):
        submit._ended(job_of(Cluster(info=ConnectionError("refused"))))
    with pytest.raises(DriftRecError, match="was told to stop and has not"):
        submit._ended(job_of(Cluster(JobStatus.RUNNING)), limit_s=0.1)


def test_stopping(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert submit._stopped(job_of(Cluster(JobStatus.RUNNING))).status == JobStatus.STOPPED
    with pytest.raises(Interrupted):  # it was not there yet
        submit._stopped(job_of(Cluster(stop=NOT_THERE)))
    with pytest.raises(DriftRecError, match="job j may go on"):
        submit._stopped(job_of(Cluster(stop=ConnectionError("refused"))))
