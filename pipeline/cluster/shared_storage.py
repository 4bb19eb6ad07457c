"""Whether all nodes of a cluster see the same storage: asked before a run starts, not found out at its end.

A path means one machine's disk. On a cluster that has, or may get, several nodes it is refused unless the user says
that all of them see the same folder there; and then, as for URLs, every node is asked to try. That a folder is there
on each node does not make it the same: each must read what this machine has written, and this machine what each has.
"""

import secrets
from collections.abc import Mapping
from contextlib import suppress

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from driftrec.errors import DriftRecError, InvalidInput
from pipeline.cluster import connection
from pipeline.inputs.listing import Listing
from pipeline.runs.ledger import FOLDER
from pipeline.storage.base import PART_PREFIX, PART_SUFFIX, NotFound, Store

PATIENCE_S = 60.0  # for the answers of all nodes
PROBE = b"written to see whether all nodes reach this place\n"


def check_shared(listing: Listing, output: Store, allow_local: bool, others: Mapping[str, Store] | None = None) -> None:
    """Raises InvalidInput if a node does not, or would not, see INPUT or OUTPUT.

    Args:
        listing: of INPUT.
        output: the store of OUTPUT.
        allow_local: whether paths are the same folder on all nodes.
        others: that workers read, by what the user calls them.
    """
    if not connection.spans():
        return
    stores = {"INPUT": listing.source.store, "OUTPUT": output} | dict(others or {})
    for name, store in stores.items():
        if store.local and not allow_local:
            raise InvalidInput(
                f"{name} {store.url} is a path on this machine, and the cluster has, or may get, other nodes; give a "
                "URL that all nodes reach, or --allow-local if all of them see the same folder there"
            )
    if listing.shards:
        _ask(listing, output)


def _ask(listing: Listing, output: Store) -> None:
    """Let every node that is up open the first file of INPUT, and exchange probes with it in OUTPUT."""
    ours, theirs = _probe(), {node["NodeID"]: _probe() for node in ray.nodes() if node["Alive"]}
    output.put(ours, PROBE)
    try:
        _exchange(listing, output, ours, theirs)
    finally:
        for probe in (ours, *theirs.values()):
            output.remove(probe)


def _probe() -> str:
    """A new name for one, that a sweep removes."""
    return f"{FOLDER}/{PART_PREFIX}{secrets.token_hex(8)}{PART_SUFFIX}"


def _exchange(listing: Listing, output: Store, ours: str, theirs: Mapping[str, str]) -> None:
    """Raise InvalidInput for a node that does not see `ours`, or whose probe is not seen here."""
    shard = listing.shards[0]
    first = shard.pieces()[0][0]
    names = {node["NodeID"]: node["NodeName"] for node in ray.nodes()}
    answers = {
        ray.remote(attempt)
        .options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote(shard.store, first, output, ours, probe): node
        for node, probe in theirs.items()
    }
    done, _ = ray.wait(list(answers), num_returns=len(answers), timeout=PATIENCE_S)
    for answer in done:  # a node that does not answer may have gone
        node, why = answers[answer], ""
        with suppress(ray.exceptions.RayError):
            why = ray.get(answer) or lacking(output, theirs[node])
        if why:
            raise InvalidInput(f"node {names[node]} does not see what this machine sees: {why}")


def attempt(source: Store, first: str, output: Store, theirs: str, ours: str) -> str:
    """Why this node cannot work for the run; "" if it can, and then its probe is left to be seen."""
    try:
        if output.local and not output.is_folder():
            return f"OUTPUT {output.url} does not exist there; mount it on all nodes"
        source.read(first, 0, 1)
        if not (why := lacking(output, theirs)):
            output.put(ours, PROBE)
            why = lacking(output, ours)
    except DriftRecError as error:
        return str(error)
    return why


def lacking(output: Store, probe: str) -> str:
    """Why OUTPUT is not the place where the probe was written; "" if it is. Raises StorageError."""
    try:
        same = output.read(probe) == PROBE
    except NotFound:
        return f"OUTPUT {output.url} is another place there, of the same name; mount one on all nodes"
    return "" if same else f"OUTPUT {output.where(probe)} holds other bytes than were written"
