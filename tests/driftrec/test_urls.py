"""A secret of any signs in a URL is not in what is shown of the URL, alone or in a sentence."""

from hypothesis import given
from hypothesis import strategies as st

from driftrec.urls import NO_CREDENTIALS_HERE, holds_credentials, redact, split
from tests.made import PASSWORDS, SECRETS, shows

HOSTS = st.sampled_from(
    ["s3://{}bucket/x", "https://{}host/x.tar", "http://{}127.0.0.1:80", "gs://{}b/a@b?c", "https:/{}h", "HTTP://{}h"]
)


@given(PASSWORDS, HOSTS)
def test_a_password_is_told_and_not_shown(secret: str, host: str) -> None:
    url = host.format(f"key:{secret}@")
    assert holds_credentials(url)
    assert not holds_credentials(host.format(""))
    for text in (url, f"name={url}", f"fbcnn:{url}", f"'{url}' (see {url}); and more"):
        assert holds_credentials(text)
        assert not shows(redact(text), secret)
    assert redact(url) in (redact(host.format("")), "gs://b?c")


@given(PASSWORDS.filter(lambda password: not password.startswith(("80", "443"))), HOSTS)
def test_a_password_in_a_sentence_is_not_shown(secret: str, host: str) -> None:
    """But for one that looks like a port: there a space ends the URL."""
    text = f"no {host.format(f'key:{secret}@')} there"
    assert holds_credentials(text)
    assert not shows(redact(text), secret)


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
        assert not holds_credentials(text)
        assert redact(text) == text


def test_sentences_stay_as_they_are() -> None:
    told = (NO_CREDENTIALS_HERE, "CC0, see https://x.org, or ask me@x.org", "see http://h:9000/a/b: refused; ask a@b",
            "C:/a:b@c", "fbcnn:/a/b@c", "http://[::1]:80/x", "it took 3:20, mail a@b")  # fmt: skip
    for text in told:
        assert not holds_credentials(text)
        assert redact(text) == text
