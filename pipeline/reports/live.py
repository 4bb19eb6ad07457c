"""The page of a run that is at work, or has ended without its report: status.json for people.

It stands where the report will, and loads itself anew.
"""

from driftrec import __version__
from driftrec.errors import MEANING
from pipeline.reports.page import Part, duration, figure, render, share, tile, whole
from pipeline.runs.reporter import RUNNING, Status


def live_page(status: Status) -> str:
    """The page of what status.json says."""
    return render("live.html", _contents(status))


def _contents(status: Status) -> Part:
    """All that the template names."""
    done, listed = status["shards"]["done"], status["shards"]["listed"]
    rows = sum(status["reasons"].values())
    return {
        "version": __version__,
        "headline": f"{status['job']}: {status['state']}, {whole(done)} of {whole(listed)} shards",
        "refresh_s": max(5, round(status["status_s"])) if status["state"] == RUNNING else None,
        "status": status,
        "tiles": _tiles(status),
        "done": done,
        "left": status["shards"]["left"],
        "statuses": [(name, images) for name, images in status["status"].items() if images],
        "reasons": [
            {"reason": reason, "rows": count, "share": share(count / rows), "meaning": MEANING.get(reason, "")}
            for reason, count in sorted(status["reasons"].items(), key=lambda item: -item[1])
        ],
    }


def _tiles(status: Status) -> list[dict[str, str]]:
    """The headline numbers."""
    listed, failed, recent = status["images_listed"], status["status"]["failed"], status["last_interval"]
    tiles = [
        tile("Images done", whole(status["images"]), "" if listed is None else f"of {whole(listed)}"),
        tile("Failed", whole(failed), tone="bad" if failed else ""),
        tile("Time of this attempt", duration(status["seconds"])),
    ]
    if status["seconds_left"] is not None:
        tiles.append(tile("Time left, about", duration(status["seconds_left"])))
    for name, unit in (("images_per_second", "Images per second"), ("megapixels_per_second", "Megapixels per second")):
        if (rate := recent[name]) is not None and status["state"] == RUNNING:
            tiles.append(tile(f"{unit}, last {duration(recent['seconds'])}", figure(rate)))
    if status["idle_share"] is not None:
        tiles.append(tile("Workers waited for data", share(status["idle_share"])))
    if status["cost"] is not None:
        limit = "" if status["max_cost"] is None else f"of {figure(status['max_cost'])}"
        tiles.append(tile("Cost so far", figure(status["cost"] + status["cost_before"]), limit))
    return tiles
