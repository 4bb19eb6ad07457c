"""A job handed to the Ray cluster at a URL (`--submit`), followed to its end. There it is `python -m jobs.<name>`.

What is handed on stands in Ray's logs and on its dashboard, so no secret is: the cluster has access of its own. The
result is the one that the job prints; OUTPUT is not asked, which this machine may not reach.
"""

import asyncio
import json
import logging
import math
import os
import secrets
import shlex
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from driftrec import plugins
from driftrec.errors import DriftRecError, InvalidInput, one_line
from driftrec.urls import redact
from pipeline.cluster import connection
from pipeline.cluster.package import CONFIG, SHOWN, Package
from pipeline.runs.ends import Answer, Exit, Interrupted
from pipeline.settings import MIB, Settings

log = logging.getLogger(__name__)

POLL_S = 1.0
PATIENCE_S = 60.0  # for a head that does not answer while the job runs
STOP_S = 60  # for a stopped job to say how far it is; Ray's own 3 s end it before
LOG_S = 10.0  # for the last lines of a job that has ended
# Handed on to the job, so that it reaches the same storage.
STORAGE_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
# Not handed on: in Ray's logs anybody could read them, and one without its secret would only hide the cluster's own.
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
ACCESS = (
    "the cluster needs access of its own: a role of its machines (deploy/iam), variables in the environment in which "
    "its nodes start Ray, or a Kubernetes secret (deploy/rayjob.yaml)"
)
TROUBLE = (OSError, RuntimeError, ValueError, RayError)  # what a client raises; those of requests are OSError


class Job(NamedTuple):
    """A job of a cluster."""

    client: JobSubmissionClient
    url: str
    id: str


def submit_job(url: str, job: str, settings: Settings, detach: bool = False) -> Answer:
    """Run `python -m jobs.<job>` with these settings on the cluster at `url` and wait. Gives what it prints.

    SIGINT and SIGTERM stop the job, whose last word is waited for. With `detach` nothing is waited for.
    Raises InvalidInput if the cluster cannot be reached, for a secret, or for more files than the cluster takes;
    DriftRecError if the job ended without a result.
    """
    package = Package.of(settings, connection.checkout())  # without a checkout the cluster has the package installed
    environment = _environment()
    logging.getLogger("ray").setLevel(logging.WARNING)
    submitted = Job(_reached(url), redact(url), f"driftrec-{job}-{secrets.token_hex(4)}")
    teller = Teller(submitted)
    try:
        places = [str(package.settings[name]) for name in settings.required()]
        _send(submitted, package, ["python", "-m", f"jobs.{job}", *places, "--config", CONFIG], environment)
        log.info("submitted as %s; %s", submitted.id, _follow(submitted))
        if detach:
            return {"state": "submitted", "exit_code": Exit.DONE, "job": submitted.id, "cluster": submitted.url}
        teller.start()
        details = _ended(submitted)
    except Interrupted:
        details = _stopped(submitted)
    teller.finish()
    return _result(submitted, details)


def _environment() -> dict[str, str]:
    """The variables that the job is given. Raises InvalidInput for a secret in one, and tells which keys stay here."""
    given = {name: os.environ[name] for name in STORAGE_VARIABLES if name in os.environ}
    for name, value in given.items():
        if redact(value) != value:
            raise InvalidInput(f"--submit with {name}={redact(value)}: {SHOWN}; {ACCESS}")
    if kept := [name for name in KEYS if os.environ.get(name)]:
        log.warning("%s: not sent, because %s; %s", ", ".join(kept), SHOWN, ACCESS)
    return {**given, **plugins.sent()[0], "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}


def _reached(url: str) -> JobSubmissionClient:
    """A client of the cluster. Raises InvalidInput if there is none, or if it wants another token."""
    try:
        return JobSubmissionClient(url)
    except AuthenticationError as error:
        wrong = "refuses the token of this machine" if "failed" in str(error) else "wants a token, and here is none"
        raise InvalidInput(
            f"--submit {redact(url)}: the cluster {wrong}; put its own (on its head: ray get-auth-token) into the file "
            "~/.ray/auth_token or into RAY_AUTH_TOKEN"
        ) from None
    except TROUBLE as error:
        raise InvalidInput(f"--submit {redact(url)}: {_words(error)}; give the dashboard's URL") from None


def _send(job: Job, package: Package, command: list[str], environment: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        size = package.write(path := Path(folder) / "package.zip")
        code = ["the code of this checkout"] if len(package.files) > len(package.own()) else []
        log.info("sending %.1f MiB: %s", size / MIB, ", ".join(["the settings", *code, *package.own()]))
        runtime = {"env_vars": environment, "working_dir": str(path)}
        try:
            job.client.submit_job(entrypoint=shlex.join(command), runtime_env=runtime, submission_id=job.id)
        except TROUBLE as error:
            raise InvalidInput(f"--submit {job.url}: {_words(error)}") from None


def _words(error: BaseException) -> str:
    return redact(one_line(error, 300))


def _follow(job: Job) -> str:
    return f"follow it with: ray job logs --address {job.url} --follow {job.id}"


def _ended(job: Job, limit_s: float = math.inf) -> JobDetails:
    """Wait for the job's end. Raises DriftRecError if it does not come, or if the cluster is silent for too long."""
    begun = heard = time.monotonic()
    while time.monotonic() < begun + limit_s:
        try:
            details, heard = job.client.get_job_info(job.id), time.monotonic()
        except TROUBLE as error:
            if time.monotonic() > heard + PATIENCE_S:
                told = f"{job.url} does not answer any more ({_words(error)})"
                raise DriftRecError(f"{told}; job {job.id} may go on there; {_follow(job)}") from None
        else:
            if details.status.is_terminal():
                return details
        time.sleep(POLL_S)
    raise DriftRecError(f"job {job.id} was told to stop and has not; {_follow(job)}")


def _stopped(job: Job) -> JobDetails:
    """Stop the job and wait for its end. Raises Interrupted if it was never there, DriftRecError if it may go on."""
    log.warning("stopping %s and waiting for its last word; a second signal does not wait", job.id)
    try:
        job.client.stop_job(job.id)
    except TROUBLE as error:
        if "does not exist" in str(error):
            raise Interrupted from None
        raise DriftRecError(f"job {job.id} may go on, it could not be told to stop: {_words(error)}") from None
    return _ended(job, STOP_S + PATIENCE_S)


def _result(job: Job, details: JobDetails) -> Answer:
    """What the job has printed. Ray itself tells success from failure only."""
    try:
        lines = job.client.get_job_logs(job.id).strip().splitlines()
    except TROUBLE:
        lines = []
    if results := [result for line in lines if (result := _as_result(line))]:
        return results[-1]
    if details.status == JobStatus.STOPPED:
        told = f"job {job.id} was stopped before it could say how far it is; the same command goes on"
        return {"state": "interrupted", "exit_code": Exit.INTERRUPTED, "error": told}
    words = redact(" | ".join(lines[-5:]) or str(details.message))
    raise DriftRecError(f"job {job.id} ended as {details.status} without a result: {words}")


def _as_result(line: str) -> dict[str, Any]:
    """The result that a line of a job's log is; {} for other lines."""
    try:
        found = json.loads(line) if line.startswith("{") else {}
    except ValueError:
        return {}
    return found if "state" in found else {}


class Teller(threading.Thread):
    """Says the lines of a job's log as they come, all but the result. A lost connection is taken up where it was."""

    def __init__(self, job: Job) -> None:
        super().__init__(name="job log", daemon=True)
        self.job, self.over = job, threading.Event()
        self.said, self.rest = 0, ""  # characters; the beginning of a line whose end has not come

    def run(self) -> None:
        while not self.over.is_set():
            try:
                asyncio.run(self._tell())
            except Exception as error:  # a log that cannot be followed ends no run
                log.debug("log of %s: %s", self.job.id, error)
            self.over.wait(POLL_S)

    async def _tell(self) -> None:
        skip = self.said
        async for text in self.job.client.tail_job_logs(self.job.id):
            fresh, skip = text[skip:], max(0, skip - len(text))
            self.said += len(fresh)
            *lines, self.rest = (self.rest + fresh).split("\n")
            for line in lines:
                if not _as_result(line):
                    log.info("%s", line)

    def finish(self) -> None:
        """The job has ended: wait for the last lines of its log."""
        self.over.set()
        if self.is_alive():
            self.join(LOG_S)
