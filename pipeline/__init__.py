"""All that touches Ray or storage: shards in, stages, ledger out, training loop, reports. Imports `driftrec` only."""

import os
import sys

if "ray" not in sys.modules and not os.environ.get("RAY_ADDRESS"):
    # Ray reads these once, when it is first imported. Without the first a local cluster listens on every address of
    # the machine, whatever address ray.init is given; without the second its token check depends on what ran before.
    # The last keeps Ray Data's use of restartable actors from raising a false alarm on stderr.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
