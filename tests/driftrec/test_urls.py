"""A secret of any signs in a URL is not in what is shown of the URL, alone or in a sentence."""

from hypothesis import given
from hypothesis import strategies as st

from driftrec.urls import holds_credentials, redact, split
from tests.made import SECRETS

HOSTS = st.sampled_from(["s3://{}bucket/x", "https://{}host/x.tar", "http://{}127.0.0.1:80", "gs://{}b/a@b?c"])


@given(SECRETS, HOSTS)
def test_a_password_is_told_and_not_shown(secret: str, host: str) -> None:
    url = host.format(f"key:{secret}@")
    assert holds_credentials(url)
    assert not holds_credentials(host.format(""))
    for text in (url, f"name={url}", f"fbcnn:{url}", f"'{url}' (see {url}); and more"):
        assert secret not in redact(text)
    assert redact(url) in (redact(host.format("")), "gs://b?c")


@given(SECRETS, st.sampled_from(["https://host/x.tar", "http://h:80/a/b", "http://h"]))
def test_a_signature_is_not_shown(secret: str, url: str) -> None:
    for query in (f"?token={secret}", f"?a=1&token={secret}", f"?{secret}", f"#{secret}"):
        assert not holds_credentials(url + query)
        assert redact(f"no {url}{query} there") == f"no {url}?... there"


@given(SECRETS)
def test_a_signature_stays_with_the_name(secret: str) -> None:
    query = f"?token={secret}"
    assert split(f"https://h/a/b.tar{query}") == ("https://h/a", f"b.tar{query}")


def test_paths_and_buckets_are_split_as_they_are() -> None:
    told = {"a/b": ("a", "b"), "b": (".", "b"), "/b": ("/", "b"), "s3://x/a?/b": ("s3://x/a?", "b")}
    assert {path: split(path) for path in told} == told


def test_what_is_no_secret_is_shown() -> None:
    for text in ("s3://b/what?.tar", "/plain/a@b", "s3://b/a@b.jpg", "https://h/a@b", "https://h:80/a"):
        assert redact(text) == text
