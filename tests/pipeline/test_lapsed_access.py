"""An access that lapses is the run's matter, not the images': it stops, blames none of them, and goes on later."""

import io
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from driftrec.errors import DriftRecError
from pipeline.store import Store
from tests import made
from tests.faults import Fault, Proxy
from tests.pipeline.offline import ledger, restore
from tests.pipeline.test_faults import proxy  # noqa: F401

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
    store, images = Store.open(bucket), {f"{number:02}.jpg": made.jpeg(number) for number in range(COUNT)}
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


def test_a_session_token_does_not_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    assert b"a-secret" in pickle.dumps(Store.open("s3://b/x"))  # lives long, and workers may have nothing else
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")
    packed = pickle.dumps(Store.open("s3://b/x"))
    assert not any(text in packed for text in (b"a-key", b"a-secret", b"a-token"))
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
    assert pickle.loads(packed)._options["token"] == "another"
