"""Whether all nodes of a cluster see the same storage: asked before a run starts, not found out at its end.

A path means one machine's disk. On a cluster that has, or may get, several nodes it is refused unless the user says
that all of them see the same folder there; and then, as for URLs, a node that works is asked to try.
"""

import secrets
from collections.abc import Mapping
from contextlib import suppress

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from driftrec.errors import DriftRecError, InvalidInput
from pipeline import cluster
from pipeline.ledger import FOLDER
from pipeline.shards import Listing, files_of
from pipeline.store import PART_PREFIX, PART_SUFFIX, LocalStore, Store

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
    if not cluster.spans():
        return
    stores = {"INPUT": listing.source.store, "OUTPUT": output} | dict(others or {})
    for name, store in stores.items():
        if isinstance(store, LocalStore) and not allow_local:
            raise InvalidInput(
                f"{name} {store.url} is a path on this machine, and the cluster has, or may get, other nodes; give a "
                "URL that all nodes reach, or --allow-local if all of them see the same folder there"
            )
    if listing.shards:
        _ask(listing, output)


def _ask(listing: Listing, output: Store) -> None:
    """Let every node that is up write, read and remove a probe in OUTPUT, and open the first file of INPUT."""
    shard = listing.shards[0]
    first = files_of(shard)[0][0] if shard.kind == "files" else shard.name
    nodes = {node["NodeID"]: node["NodeName"] for node in ray.nodes() if node["Alive"]}
    answers = {
        ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))(_try)
        .options(max_retries=0)
        .remote(shard.store, first, output): name
        for node, name in nodes.items()
    }
    done, _ = ray.wait(list(answers), num_returns=len(answers), timeout=PATIENCE_S)
    for answer in done:  # a node that does not answer may have gone
        why = ""
        with suppress(ray.exceptions.RayError):
            why = ray.get(answer)
        if why:
            raise InvalidInput(f"node {answers[answer]} does not see what this machine sees: {why}")


def _try(source: Store, first: str, output: Store) -> str:
    """Why this node cannot work for the run; "" if it can."""
    probe = f"{FOLDER}/{PART_PREFIX}{secrets.token_hex(8)}{PART_SUFFIX}"
    try:
        if isinstance(output, LocalStore) and not output.root.is_dir():
            return f"OUTPUT {output.url} does not exist there; mount it on all nodes"
        source.read(first, 0, 1)
        output.put(probe, PROBE)
        same = output.read(probe) == PROBE
        output.remove(probe)
    except DriftRecError as error:
        return str(error)
    return "" if same else f"OUTPUT {output.where(probe)} holds other bytes than were written"
