"""What --submit hands to a cluster, whose logs and dashboard show it all: no secret of the environment or a URL."""

from typing import Any

import pytest
from hypothesis import given

from driftrec.errors import InvalidInput
from pipeline.cluster import submit
from tests.made import SECRETS


class Client:
    """A cluster that keeps what it is sent."""

    sent: list[Any] = []  # noqa: RUF012

    def __init__(self, url: str) -> None:
        """There is nothing behind it."""

    def submit_job(self, **job: Any) -> str:
        self.sent.append(job)
        raise RuntimeError("for a test")


@given(SECRETS)
def test_no_secret_is_sent(secret: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submit, "JobSubmissionClient", Client)
        patch.setattr(Client, "sent", [])
        for name in submit.KEYS:
            patch.setenv(name, secret)
        patch.setenv("AWS_REGION", "eu-1")
        for job, arguments in {
            "restore": ["a", "b", "--model", f"https://host/x?token={secret}"],
            "train": ["a", "b", f"--set=init_from=https://host/x?{secret}"],
            "evaluate": ["a", f"https://host/x?token={secret}", "--model", "https://host/m?steps=3"],
        }.items():
            with pytest.raises(InvalidInput, match="where the cluster may read") as refused:
                submit.submit_job("http://head:1", job, arguments, "b")
            assert secret not in str(refused.value)
        assert Client.sent == []
        with pytest.raises(InvalidInput, match="for a test"):
            submit.submit_job("http://head:1", "evaluate", ["a", "b", "--model", "https://host/m?steps=3"], "b")
        assert secret not in repr(Client.sent)
        assert Client.sent[0]["runtime_env"]["env_vars"]["AWS_REGION"] == "eu-1"
