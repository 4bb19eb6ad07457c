"""What --submit hands to a cluster: the job and the files it names, and no secret, for Ray shows what it is given."""

import json
import pkgutil
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import settings as trials

from driftrec.errors import InvalidInput
from driftrec.models.source import ModelSource
from jobs import degrade, evaluate, restore, split, survey, train
from pipeline.cluster import package, submit
from pipeline.cluster.connection import checkout
from pipeline.cluster.package import CONFIG, SENT, Package
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.restore.settings import RestoreSettings
from pipeline.settings import Mark, Settings, load
from pipeline.train.settings import TrainSettings
from tests.made import SECRETS

URL = "http://head:1"
JOBS = {"restore": restore, "evaluate": evaluate, "survey": survey, "degrade": degrade, "split": split, "train": train}
DATA = {
    *("input", "reference", "output", "candidate", "damaged"),
    *("data", "corrupted", "validation", "validation_corrupted"),
}


class Client:
    """A cluster that keeps what it is sent."""

    sent: list[Any] = []  # noqa: RUF012

    def __init__(self, url: str) -> None:
        """There is nothing behind it."""

    def submit_job(self, *, runtime_env: dict[str, Any], **job: Any) -> str:
        with zipfile.ZipFile(runtime_env["working_dir"]) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        self.sent.append({**job, "variables": runtime_env["env_vars"], "files": files})
        return job["submission_id"]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(submit, "JobSubmissionClient", Client)
    monkeypatch.setattr(Client, "sent", [])
    return Client.sent


@trials(deadline=None)
@given(SECRETS)
def test_no_secret_is_sent(secret: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submit, "JobSubmissionClient", Client)
        patch.setattr(Client, "sent", [])
        patch.setattr(submit.connection, "checkout", lambda: None)
        for name in submit.KEYS:
            patch.setenv(name, secret)
        patch.setenv("AWS_REGION", "eu-1")
        signed = f"https://host/x?token={secret}"
        for signed_one in (
            RestoreSettings(input="a", output="b", model=signed),
            RestoreSettings(input="a", output="b", only_listed=signed),
            TrainSettings(data="a", output="b", init_from=signed),
            EvaluateSettings(reference="a", output=signed, model=("https://host/m?steps=3",)),
            EvaluateSettings(reference="a", output="b", model=(f"mine={signed}",)),
            EvaluateSettings(reference="a", output="b", model=(f"https://host/m?steps=3&sig={quote(secret)}",)),
        ):
            with pytest.raises(InvalidInput, match="where the cluster may read") as refused:
                submit.submit_job(URL, "restore", signed_one)
            assert secret not in str(refused.value)
        patch.setenv("AWS_ENDPOINT_URL", f"https://{signed.partition('//')[2]}")
        plain = EvaluateSettings(reference="a", output="b", model=("https://host/m?steps=3",))
        with pytest.raises(InvalidInput, match="access of its own") as refused:
            submit.submit_job(URL, "evaluate", plain)
        assert secret not in str(refused.value)
        assert Client.sent == []
        patch.setenv("AWS_ENDPOINT_URL", "https://host")
        answer = submit.submit_job(URL, "evaluate", plain, detach=True)
        (sent,) = Client.sent
        assert secret not in repr(sent)
        assert (sent["variables"]["AWS_REGION"], sent["submission_id"]) == ("eu-1", answer["job"])


def test_files_that_settings_name_go_along(tmp_path: Path, sent: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/mine/model.safetensors", "fbcnn.pth", "lpips.pth", "labels.csv", "config.yaml", "list.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    Path("config.yaml").write_text("model: runs/mine/model.safetensors\nonly_listed: list.txt\nseed: 3\n")
    settings = load(RestoreSettings, "config.yaml", flags={"input": "in", "output": "s3://b/o"})
    submit.submit_job(URL, "restore", settings, detach=True)
    models = ("tiny", "m=runs/mine/model.safetensors?steps=2", "fbcnn:fbcnn.pth", "s3://b/x.safetensors", "gone.pth")
    settings = EvaluateSettings(
        reference="in", output="out", model=models, weights=("lpips=lpips.pth",), labels="labels.csv"
    )
    submit.submit_job(URL, "evaluate", settings, detach=True)
    assert [job["entrypoint"].split()[:5] for job in sent] == [
        ["python", "-m", "jobs.restore", str(tmp_path / "in"), "s3://b/o"],
        ["python", "-m", "jobs.evaluate", str(tmp_path / "in"), str(tmp_path / "out")],
    ]
    restored, evaluated = (json.loads(job["files"][CONFIG]) for job in sent)
    assert (sent[0]["files"][restored["model"]], sent[0]["files"][restored["only_listed"]]) == (
        b"runs/mine/model.safetensors",
        b"list.txt",
    )
    assert restored["seed"] == 3
    mine, fbcnn = evaluated["model"][1], evaluated["model"][2]
    assert (mine[:2], mine[-8:], fbcnn[:6]) == ("m=", "?steps=2", "fbcnn:")
    assert mine.endswith("/model.safetensors?steps=2")
    assert [evaluated["model"][index] for index in (0, 3, 4)] == ["tiny", "s3://b/x.safetensors", "gone.pth"]
    files = sent[1]["files"]
    assert files[mine[2:-8]] == b"runs/mine/model.safetensors"
    assert files[fbcnn[6:]] == b"fbcnn.pth"
    assert files[evaluated["weights"][0].removeprefix("lpips=")] == b"lpips.pth"
    assert files[evaluated["labels"]] == b"labels.csv"


def test_both_files_of_an_interpolation_go_along(
    tmp_path: Path, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.pth", "b.pth"):
        Path(name).write_text(name)
    text = "interpolate:fbcnn:a.pth,fbcnn:b.pth?alpha=0.7&quality=10"
    submit.submit_job(URL, "restore", RestoreSettings(input="in", output="out", model=text), detach=True)
    named = EvaluateSettings(reference="in", output="out", model=(f"m={text}",))
    submit.submit_job(URL, "evaluate", named, detach=True)
    restored, evaluated = (json.loads(job["files"][CONFIG])["model"] for job in sent)
    for job, told in zip(sent, (restored, evaluated[0].removeprefix("m=")), strict=True):
        source = ModelSource.parse(told)
        assert [job["files"][place] for place in source.places] == [b"a.pth", b"b.pth"]
        assert source.at(("a.pth", "b.pth")) == ModelSource.parse(text)


def test_the_code_goes_along_and_nothing_beside_it(sent: list[Any]) -> None:
    submit.submit_job(URL, "restore", RestoreSettings(input="s3://b/a", output="s3://b/b"), detach=True)
    names = set(sent[0]["files"]) - {CONFIG}
    assert {name.partition("/")[0] for name in names} == {"driftrec", "pipeline", "jobs"}
    assert {"jobs/restore.py", "driftrec/models/tiny.safetensors", "pipeline/reports/templates/restore.html"} < names
    assert not [name for name in names if "__pycache__" in name]


def test_an_installed_package_is_not_sent(sent: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit.connection, "checkout", lambda: None)
    submit.submit_job(URL, "restore", RestoreSettings(input="s3://b/a", output="s3://b/b"), detach=True)
    assert set(sent[0]["files"]) == {CONFIG}


def test_the_same_contents_are_the_same_bytes(tmp_path: Path) -> None:
    """So Ray, which names a package by its bytes, is not sent it again."""
    settings = RestoreSettings(input="s3://b/a", output="s3://b/b")
    for name in ("a.zip", "b.zip"):
        Package.of(settings, checkout()).write(tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_too_much_is_refused_by_name(tmp_path: Path, sent: list[Any]) -> None:
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.truncate(package.LIMIT)
    settings = RestoreSettings(input="s3://b/a", output="s3://b/b", model=str(tmp_path / "large.safetensors"))
    with pytest.raises(InvalidInput, match=r"large\.safetensors \(99\.0 MiB\), .*tiny\.safetensors"):
        submit.submit_job(URL, "restore", settings)
    assert sent == []


def settings_of(job: str) -> type[Settings]:
    return pkgutil.resolve_name(JOBS[job].PARTS.settings)


@pytest.mark.parametrize("job", JOBS)
def test_every_place_goes_along_or_is_data(job: str) -> None:
    assert settings_of(job).marked(Mark.place) <= {*SENT, *DATA}


GIVEN = {  # what has a form of its own as a setting
    "restore": ["max_failed=5%", "retry_failed=crashed", "include=a*", "tile=null", "spacing=true", "fidelity=0.5"],
    "evaluate": ["preset=live1", "quality=30/10,5", "second_quality=10,20", "subsampling='4:4:4'", "metrics=psnr,fid"],
    "survey": ["pixels=10%", "steps=3"],
    "degrade": ["quality=none"],
    "split": ["limit=3"],
    "train": [
        "network={preset: tiny, width: 48}", "process={name: tsdve, gamma: 3}", "optimizer.steps=7",
        "track=[wandb]", "recommend={steps: 2}",
    ],
}  # fmt: skip


@pytest.mark.parametrize("job", JOBS)
def test_the_job_reads_the_settings_that_were_given(job: str, tmp_path: Path) -> None:
    model = settings_of(job)
    flags = {name: f"s3://bucket/{name}" for name in model.required()}
    given = load(model, assignments=GIVEN[job], flags=flags)
    assert given != load(model, flags=flags)
    (tmp_path / CONFIG).write_text(json.dumps(Package.of(given, None).settings))
    assert load(model, str(tmp_path / CONFIG)) == given
