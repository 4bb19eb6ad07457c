"""Keys of object stores that no file could have: each is a row."""

from typing import Any

import pytest
import s3fs

from pipeline.inputs.listing import list_input
from pipeline.inputs.shards import read_shard
from tests import made
from tests.s3 import KEY, SECRET

pytestmark = [pytest.mark.s3, pytest.mark.timeout(300)]

ODD = ("a?b=c.jpg", "x#y.jpg", "p%20q.jpg", "noext", "b/é +.jpg")
UNSAFE = ("x?versionId=3.jpg", "c/y?versionId=null.png")


def test_every_key_is_a_row(bucket: str, s3_server: Any) -> None:
    fs = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=s3_server.endpoint, skip_instance_cache=True)
    name = bucket.removeprefix("s3://")
    for number, key in enumerate(("plain.jpg", *ODD, *UNSAFE)):
        fs.call_s3("put_object", Bucket=name, Key=f"in/{key}", Body=made.jpeg(number))
    shards = list_input(f"{bucket}/in").shards
    rows = {row["key"]: row for shard in shards for row in read_shard(shard).to_pylist()}
    assert rows.keys() == {"plain.jpg", *ODD, *UNSAFE}
    assert {rows[key]["reason"] for key in UNSAFE} == {"unsafe_name"}
    for number, key in enumerate(("plain.jpg", *ODD)):
        row = rows[key]
        assert (row["reason"], bytes(row["data"] or b"") == made.jpeg(number)) == ("", True), (key, row["detail"])
