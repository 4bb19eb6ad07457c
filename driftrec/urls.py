"""What a URL may hold of secrets: told apart, and left out of what people see. Knows no store and opens nothing."""

from __future__ import annotations

import re

WEB = ("http", "https")  # here all that follows a ? is a query; in a bucket it may belong to a name
# What a URL begins with. With one slash it is none, but was meant to be.
SCHEME = re.compile(r"(\w+)://+|\b(https?|s3a?|gs|gcs|abfss?|az|s?ftp):/", re.IGNORECASE)
URL = re.compile(rf"({SCHEME.pattern})(\S*)", re.IGNORECASE)
NO_CREDENTIALS_HERE = (
    "credentials do not belong into a URL; leave them out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the "
    "variables of your store) in the environment; an at sign in a path behind a port is written %40"
)


def redact(text: str) -> str:
    """A URL, or a message that holds URLs, without user names, passwords and signed queries. Where there is a password,
    all up to the last "@" may be of it, and is left out.
    """
    if found := _before_credentials(text):
        text = text[: found.end()] + text.rpartition("@")[2]
    return URL.sub(_without_query, text)


def _without_query(url: re.Match[str]) -> str:
    query = r"[?#]\S+" if (url[2] or url[3]).lower() in WEB else r"\?\S*=\S*"
    return url[1] + re.sub(query, "?...", url[4], count=1)


def holds_credentials(text: str) -> bool:
    """Whether a URL, or a text with URLs in it, has a user name and password before a host, whatever signs are in the
    password.

    Some signs end what a parser takes for the host: a ":" before them and an "@" after them tell. Only a port has a ":"
    there too, and the "@" may then be in the query.
    """
    return _before_credentials(text) is not None


def _before_credentials(text: str) -> re.Match[str] | None:
    """The beginning of the first URL with credentials. Of a text that begins with a URL, all is taken for it; elsewhere
    a URL ends at a space, unless a password must have begun before that.
    """
    behind = 0
    for found in SCHEME.finditer(text):
        if found.start() < behind:
            continue  # within the URL before
        rest, in_sentence = text[found.end() :], re.search(r"\s", text[: found.start()].lstrip()) is not None
        if _has_password((found[1] or found[2]).lower(), rest, in_sentence):
            return found
        behind = found.end() + len(re.split(r"\s", rest, maxsplit=1)[0])
    return None


def _has_password(protocol: str, rest: str, in_sentence: bool) -> bool:
    """`rest`: what follows the slashes."""
    host = re.split(r"[/?#\s]" if in_sentence else r"[/?#]", rest, maxsplit=1)[0]
    after, port = rest.removeprefix(host), host.partition(":")[2]
    if protocol in WEB and port.isdecimal() and not after.startswith(("?", "#")):
        url, *behind = re.split(r"\s", after, maxsplit=1)
        after = "".join([re.split(r"[?#]", url, maxsplit=1)[0], *([] if in_sentence else behind)])
    return "@" in host or (":" in host and "@" in after)


def split(url: str) -> tuple[str, str]:
    """(folder, name) of a path or URL; the query of a signed URL stays with the name, whether it holds a "/" or not."""
    path = re.split(r"[?#]", url, maxsplit=1)[0] if url.startswith(tuple(f"{name}://" for name in WEB)) else url
    folder, _, _ = path.rpartition("/")
    name = url.removeprefix(folder).removeprefix("/")
    return folder or ("/" if path.startswith("/") else "."), name
