"""Where bytes lie: a folder or an object-store prefix, to list, read, put and create.

`open_store` gives the store of a URL, `locate` that of one file and its name there: `local` a folder, `remote` any
fsspec URL; `base` says what both promise and how they fail, `file` makes one object a file. Must know nothing of
images, shards or Ray. Start with `base.Store`.
"""

from driftrec.errors import InvalidInput
from driftrec.urls import NO_CREDENTIALS_HERE, holds_credentials, redact, split
from pipeline.storage.base import Store
from pipeline.storage.local import LocalStore
from pipeline.storage.remote import RemoteStore


def open_store(url: str) -> Store:
    """The store for a path or URL. Raises InvalidInput for an unknown protocol or credentials in the URL."""
    if holds_credentials(url):
        raise InvalidInput(f"{redact(url)}: {NO_CREDENTIALS_HERE}")
    protocol, found, rest = url.partition("://")
    if not found:
        return LocalStore(url)
    if protocol in ("file", "local"):
        return LocalStore(rest)
    return RemoteStore(url)


def locate(url: str) -> tuple[Store, str]:
    """The store and the name of the one file behind a path or URL. Raises InvalidInput as `open_store`."""
    folder, name = split(url)
    return open_store(folder), name
