"""A job handed to the Ray cluster at a URL (`--submit`), followed to its end. There it is `python -m jobs.<name>`."""

import json
import logging
import os
import shlex
import time
from collections.abc import Sequence

from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from driftrec.errors import DriftRecError, InvalidInput
from driftrec.urls import redact
from pipeline.cluster import connection
from pipeline.runs.ends import Answer
from pipeline.runs.run import RESULT
from pipeline.storage import open_store
from pipeline.storage.base import StorageError

log = logging.getLogger(__name__)

POLL_S = 1.0
# Handed on to the job, so that it reaches the same storage. Ray writes them into its logs and shows them on its
# dashboard, so no key is among them: one without its secret would only hide the cluster's own.
STORAGE_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
SHOWN = "what a job is given stands in Ray's logs and on its dashboard"
EXCLUDES = [".git", ".venv", "out", "tests", "docs", "examples"]


def submit_job(url: str, job: str, arguments: Sequence[str], output: str) -> Answer:
    """Run `python -m jobs.<job> <arguments>` on the cluster at `url` and wait. Gives its _RESULT.json.

    Raises InvalidInput if the cluster cannot be reached or an argument is a secret, DriftRecError if the job ended
    without a result.
    """
    _keep_secrets(job, arguments)
    entrypoint = shlex.join(["python", "-m", f"jobs.{job}", *_without_submit(arguments)])
    checkout = connection.checkout()  # None: the cluster has the package installed
    code = {"working_dir": str(checkout), "excludes": EXCLUDES} if checkout else {}
    runtime = {"env_vars": {name: os.environ[name] for name in STORAGE_VARIABLES if name in os.environ}, **code}
    logging.getLogger("ray").setLevel(logging.WARNING)  # it tells of every file that it does not take along
    try:
        client = JobSubmissionClient(url)
        submitted = client.submit_job(entrypoint=entrypoint, runtime_env=runtime)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        told = redact(" ".join(str(error).split()))[:300]
        raise InvalidInput(f"--submit {redact(url)}: {told}; give the dashboard's URL") from None
    log.info("submitted as %s; follow it with: ray job logs --address %s --follow %s", submitted, url, submitted)
    status = client.get_job_status(submitted)
    while not status.is_terminal():
        time.sleep(POLL_S)
        status = client.get_job_status(submitted)
    return _result(client, submitted, status, output)


def _keep_secrets(job: str, arguments: Sequence[str]) -> None:
    """Refuse what the job could not do without and nobody may see; tell what stays here."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        settings_of_a_model = job == "evaluate" and (before == "--model" or argument.startswith("--model="))
        if redact(argument) != argument and not settings_of_a_model:
            raise InvalidInput(
                f"--submit with {redact(argument)}: {SHOWN}, a signed URL too; put the file where the cluster may read"
            )
    if kept := [name for name in KEYS if os.environ.get(name)]:
        remedy = "the cluster needs access of its own: a role of its machines, or a secret as in deploy/rayjob.yaml"
        log.warning("%s stay here, for %s; %s", ", ".join(kept), SHOWN, remedy)


def _without_submit(arguments: Sequence[str]) -> list[str]:
    """The arguments less --submit and its value."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument != "--submit" and not argument.startswith("--submit="):
            kept.append(argument)
        skip = argument == "--submit"
    return kept


def _result(client: JobSubmissionClient, submitted: str, status: JobStatus, output: str) -> Answer:
    """What the job left in OUTPUT. Ray tells success from failure only; the exit code stands in the result."""
    try:
        result: Answer = json.loads(open_store(output).read(RESULT))
    except (StorageError, ValueError):
        result = {}
    if status == JobStatus.SUCCEEDED or result.get("exit_code"):
        return result
    words = client.get_job_logs(submitted).strip().splitlines()[-5:]
    raise DriftRecError(f"job {submitted} ended as {status}: {' | '.join(words)}")
