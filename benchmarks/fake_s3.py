"""S3 without a network, for benchmarks: objects in memory, or names made by a function; every request is counted.

It stands below s3fs, which decides what is asked: `fake://bucket/...` is what `s3://bucket/...` would be, in this
process alone.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import fsspec
from botocore.exceptions import ClientError
from fsspec.asyn import sync
from s3fs import S3FileSystem
from s3fs.errors import translate_boto_error

PAGE = 1000  # names that an answer holds, as S3's
KINDS = {
    "list_objects_v2": "LIST",
    "head_object": "HEAD",
    "get_object": "GET",
    "put_object": "PUT",
    "delete_object": "DELETE",
}
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Made:
    """Objects below a prefix that can only be listed: the names in order, and the bytes of each."""

    prefix: str
    count: int
    named: Callable[[int], str]
    size: Callable[[int], int]


@dataclass
class Bucket:
    """What one bucket holds."""

    objects: dict[str, bytes] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)

    def page(self, prefix: str, start: int, most: int) -> tuple[list[dict[str, Any]], bool]:
        """A page of what lies below the prefix, from a place in it; and whether there is more."""
        for made in self.made:
            if made.prefix == prefix:
                last = min(start + most, made.count)
                named = ((f"{prefix}{made.named(at)}", made.size(at)) for at in range(start, last))
                return [_told(*one) for one in named], last < made.count
        names = sorted(name for name in self.objects if name.startswith(prefix))
        shown = names[start : start + most]
        return [_told(name, len(self.objects[name])) for name in shown], start + most < len(names)


def _told(name: str, size: int) -> dict[str, Any]:
    return {"Key": name, "Size": size, "LastModified": WHEN, "ETag": '"0"', "StorageClass": "STANDARD"}


BUCKETS: dict[str, Bucket] = {}
REQUESTS: Counter[str] = Counter()  # by kind


class _Body:
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self) -> bytes:
        """All of it."""
        return self._data

    def close(self) -> None:
        """Nothing is open."""


class FakeS3(S3FileSystem):
    """s3fs over `BUCKETS`."""

    protocol = "fake"

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"use_listings_cache": False, "max_concurrency": 1, **options})  # as our stores have it

    def call_s3(self, *given: Any, **options: Any) -> Any:
        """One request."""
        return sync(self.loop, self._call_s3, *given, **options)

    async def _call_s3(self, method: str, *given: Any, **options: Any) -> Any:
        for more in given:
            options = {**more, **options}
        REQUESTS[KINDS[method]] += 1
        bucket, key = BUCKETS[options["Bucket"]], options.get("Key", "")
        if method == "list_objects_v2":
            start, most = int(options.get("ContinuationToken") or 0), min(PAGE, options.get("MaxKeys", PAGE))
            found, more = bucket.page(options["Prefix"], start, most)
            end = {"NextContinuationToken": str(start + most)} if more else {}
            return {"Contents": found, "KeyCount": len(found), "IsTruncated": more, **end}
        if method == "put_object":
            if options.get("IfNoneMatch") and key in bucket.objects:
                raise _refused("PreconditionFailed", 412, method)
            body = options["Body"]
            bucket.objects[key] = body if isinstance(body, bytes) else body.read()
            return {}
        if method == "delete_object":
            bucket.objects.pop(key, None)
            return {}
        if key not in bucket.objects:
            raise _refused("404" if method == "head_object" else "NoSuchKey", 404, method)
        data = bucket.objects[key]
        if method == "head_object":
            return {"ContentLength": len(data), "LastModified": WHEN, "ETag": '"0"'}
        if said := options.get("Range"):
            start, _, stop = said.removeprefix("bytes=").partition("-")
            data = data[int(start) : int(stop) + 1] if stop else data[int(start) :]
        return {"Body": _Body(data), "ContentLength": len(data)}


def _refused(code: str, status: int, method: str) -> Exception:
    answer: Any = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(answer, method))


fsspec.register_implementation("fake", FakeS3, clobber=True)
