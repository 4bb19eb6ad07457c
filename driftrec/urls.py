"""What a URL may hold of secrets: told apart, and left out of what people see. Knows no store and opens nothing."""

from __future__ import annotations

import re

WEB = ("http", "https")  # here all that follows a ? is a query; in a bucket it may belong to a name
URL = re.compile(r"\w+://\S*")
NO_CREDENTIALS_HERE = (
    "credentials do not belong into a URL; leave them out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the "
    "variables of your store) in the environment; an @ of a path behind a port is written %40"
)


def redact(text: str) -> str:
    """A URL, or a message that holds URLs, without user names, passwords and signed queries."""
    return URL.sub(lambda found: _redacted(found[0]), text)


def _redacted(url: str) -> str:
    protocol, _, rest = url.partition("://")
    if holds_credentials(url):
        rest = rest.rpartition("@")[2]
    query = r"[?#]\S+" if protocol in WEB else r"\?\S*=\S*"
    return f"{protocol}://{re.sub(query, '?...', rest, count=1)}"


def holds_credentials(url: str) -> bool:
    """Whether a URL has a user name and password before its host, even with a "/", "?", "#" or "@" in the password.

    One such sign ends what a parser takes for the host: a ":" before it and an "@" after it tell. Only a port has a ":"
    there too, and the "@" may then be in the query.
    """
    protocol, _, rest = url.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    after, port = rest.removeprefix(host), host.partition(":")[2]
    if protocol in WEB and port.isdecimal():
        after = re.split(r"[?#]", after, maxsplit=1)[0]
    return "@" in host or (":" in host and "@" in after)


def split(url: str) -> tuple[str, str]:
    """(folder, name) of a path or URL; the query of a signed URL stays with the name, whether it holds a "/" or not."""
    path = re.split(r"[?#]", url, maxsplit=1)[0] if url.startswith(tuple(f"{name}://" for name in WEB)) else url
    folder, _, _ = path.rpartition("/")
    name = url.removeprefix(folder).removeprefix("/")
    return folder or ("/" if path.startswith("/") else "."), name
