"""`driftrec restore`: restore an archive, or what an earlier attempt has left of it; or a few files."""

import sys
from collections.abc import Sequence

from jobs.command import Parts, run_job

PARTS = Parts(
    settings="pipeline.restore.settings:RestoreSettings",
    plan="pipeline.restore.estimate:estimate_restore",
    run="pipeline.restore.job:run_restore",
    example="driftrec restore s3://archive/photos s3://archive/restored --format same --max-failed 1%, or "
    "driftrec restore photo.jpg restored.png",
    files="pipeline.restore.without_ray:restore_files",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, restore, print the result; gives the exit code."""
    return run_job("restore", __doc__, argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
