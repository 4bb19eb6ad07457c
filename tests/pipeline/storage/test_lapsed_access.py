"""An access that lapses is the run's matter, not the images': it stops, blames none of them, and goes on later."""

import io
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from driftrec.errors import DriftRecError
from pipeline.storage import open_store
from tests import made
from tests.faults import Fault, Proxy
from tests.pipeline.offline import ledger, restore
from tests.pipeline.storage.test_faults import proxy  # noqa: F401
from tests.s3 import KEY, SECRET

pytestmark = [pytest.mark.s3, pytest.mark.timeout(300)]

COUNT = 12
LAPSES = {  # status and code of S3's answers
    "denied": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
    "revoked": (403, "InvalidAccessKeyId"),
    "signature": (403, "SignatureDoesNotMatch"),
    "clock": (403, "RequestTimeTooSkewed"),
    "unauthorized": (401, "Unauthorized"),
}


def put_input(bucket: str, kind: str) -> str:
    """COUNT images in a bucket: loose, in a tar, or in Parquet; what to restore."""
    store, images = open_store(bucket), {f"{number:02}.jpg": made.jpeg(number) for number in range(COUNT)}
    if kind == "files":
        for name, data in images.items():
            store.put(f"in/{name}", data)
        return f"{bucket}/in"
    if kind == "tar":
        store.put("in.tar", made.tar(images))
        return f"{bucket}/in.tar"
    file = io.BytesIO()
    table = pa.table({"key": list(images), "image": list(images.values())})
    pq.write_table(table, file, row_group_size=4)
    store.put("in.parquet", file.getvalue())
    return f"{bucket}/in.parquet"


@pytest.mark.parametrize("kind", ["files", "tar", "parquet"])
def test_a_lapse_stops_the_run_and_blames_no_image(
    proxy: Proxy, bucket: str, kind: str, tmp_path: Path  # noqa: F811
) -> None:
    """Whatever the store answers, at the first read of the run, in its middle, at its last."""
    source = put_input(bucket, kind)
    reads = len(_reads_of_a_run(proxy, source, tmp_path / "whole"))
    for number, (lapse, (status, code)) in enumerate(LAPSES.items()):
        output, after = tmp_path / lapse, (0, reads // 2, reads - 1)[number % 3]
        fault = Fault("error", method="GET|HEAD", status=status, code=code, after=after)

        def lapses(_: str, fault: Fault = fault) -> None:
            if fault not in proxy.faults:
                proxy.spoil(fault)

        with pytest.raises(DriftRecError, match=bucket.removeprefix("s3://")):
            restore(source, output, each=lapses)
        assert not [row for row in ledger(output).values() if row["status"] != "ok"]
        proxy.spoil()
        assert restore(source, output)["status"] == {"ok": COUNT, "failed": 0, "skipped": 0}


def _reads_of_a_run(proxy: Proxy, source: str, output: Path) -> list[str]:  # noqa: F811
    """The requests of an undisturbed run, from its first shard on."""
    first = [True]

    def begun(_: str) -> None:
        if first[0]:
            proxy.spoil()
        first[0] = False

    restore(source, output, each=begun)
    return [request for request in proxy.requests if request.startswith(("GET", "HEAD"))]


def test_one_object_that_alone_is_denied_is_a_row(proxy: Proxy, bucket: str, tmp_path: Path) -> None:  # noqa: F811
    source = put_input(bucket, "files")
    proxy.spoil(Fault("error", method="GET|HEAD", path=r"/in/03\.jpg$", status=403))
    result = restore(source, tmp_path / "out", max_failed="1")
    assert (result["status"]["ok"], result["reasons"]) == (COUNT - 1, {"unreadable": 1})


def write_credentials(file: Path, key: str) -> None:
    """What a tool that signs in writes there every now and then."""
    file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET}\n")


@pytest.mark.parametrize("call", ["read", "size", "list"])
def test_an_expired_token_is_fetched_anew_once(
    proxy: Proxy, bucket: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    """From a file that has changed meanwhile; the client that holds the old one is kept nowhere."""
    open_store(bucket).put("there", b"data")
    file = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    write_credentials(file, "old")
    store = open_store(bucket)
    calls = {"read": lambda: store.read("there"), "size": lambda: store.size("there"), "list": lambda: [*store.list()]}
    proxy.spoil(expired := Fault("error", key="old", status=400, code="ExpiredToken"))
    with pytest.raises(DriftRecError, match=bucket):
        calls[call]()
    assert expired.met <= 2 * 2  # s3fs asks of a name twice, as an object and as a folder
    write_credentials(file, KEY)
    assert calls[call]() == {"read": b"data", "size": 4, "list": [("folder/there", 200_000), ("there", 4)]}[call]
    assert open_store(bucket).read("there") == b"data"


def test_a_session_token_does_not_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    assert b"a-secret" in pickle.dumps(open_store("s3://b/x"))  # lives long, and workers may have nothing else
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")
    packed = pickle.dumps(open_store("s3://b/x"))
    assert not any(text in packed for text in (b"a-key", b"a-secret", b"a-token"))
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
    assert pickle.loads(packed)._options["token"] == "another"
