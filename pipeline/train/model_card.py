"""The model card: what the model is, what it was trained on, how, and how good it is. Knows no Ray and no storage.

The card is a dict of JSON types in the header of model.safetensors; MODEL_CARD.md says the same to people.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from pipeline.reports.page import GREY_LEVELS
from pipeline.runs.documents import RunDocument
from pipeline.settings import Values
from pipeline.train.metrics_log import Line, training_seconds
from pipeline.train.settings import flat


class Data(TypedDict):
    """What a model was trained on."""

    url: str  # without credentials
    shards: int
    images: int | None  # None: in tars
    sha256_of_listing: str
    licence: str | None
    corrupted: NotRequired[str]  # URL of the damaged partners
    sha256_of_corrupted_listing: NotRequired[str]
    skipped: NotRequired[dict[str, int]]  # images that gave no patches, by reason


class Card(TypedDict):
    """The card of a training."""

    parameters: int
    steps: int
    batch: int  # patches a step
    patches: int
    seconds: int
    device: str
    data: Data
    scores: Values | None  # step, set, damage, and {metric: mean} by candidate
    limits: list[str]
    settings: Values
    versions: dict[str, str | None]  # of packages

GUESS = (
    "A sample is a guess: faces, letters and small print may come out sharp and wrong. Do not use restored images as "
    "evidence of what was there."
)


def make_card(
    document: RunDocument,
    settings: Values,
    lines: Sequence[Line],
    step: int,
    batch: int,
    skipped: Mapping[str, int],
    device: str,
    parameters: int,
) -> Card:
    """The card of a training at `step`.

    Args:
        document: of run.json.
        settings: of this attempt, without secrets.
        lines: of metrics.jsonl.
        batch: patches a step, over all workers.
        skipped: images that gave no patches, by reason, in the last attempt.
        device: what it was trained on.
        parameters: of the network.
    """
    identity, licence = document["identity"], settings["data_licence"]
    data: Data = {**document["input"], "sha256_of_listing": identity["input"], "licence": licence}
    if settings["corrupted"]:
        data["corrupted"], data["sha256_of_corrupted_listing"] = settings["corrupted"], identity["corrupted"]
    scored = next((line for line in reversed(lines) if "validation" in line), None)
    return {
        "parameters": parameters,
        "steps": step,
        "batch": batch,
        "patches": step * batch,
        "seconds": round(training_seconds(lines)),
        "device": device,
        "data": {**data, "skipped": dict(skipped)},
        "scores": {"step": scored["step"], **_conditions(settings), **scored["validation"]} if scored else None,
        "limits": limits(settings),
        "settings": dict(settings),
        "versions": dict(document["versions"]),
    }


def _conditions(settings: Values) -> dict[str, str]:
    """On what the scores were made."""
    if settings["validation_corrupted"]:
        return {"set": settings["validation"], "damage": settings["validation_corrupted"]}
    return {"set": settings["validation"], "damage": f"JPEG of quality {settings['validation_quality']}, 4:2:0"}


def limits(settings: Values) -> list[str]:
    """What the model must not be trusted with, as far as its settings say."""
    patches: Values = settings["patches"]
    if settings["corrupted"]:
        seen = "It was trained on the damage of its pairs alone; of any other, JPEG among them, it knows nothing."
    else:
        low, high = patches["quality_min"], patches["quality_max"]
        twice = f"{100 * patches['share_double']:g} % of them compressed twice"
        seen = f"It was trained on JPEGs of quality {low} to {high}, {twice}; of other damage it knows nothing."
    if patches["crop"] == "resized":
        scale = "Its patches were photographs shrunk before the JPEG: at native scale it was never trained."
    elif patches["share_reduced"]:
        share, most = 100 * patches["share_reduced"], patches["largest_reduction"]
        scale = f"{share:g} % of its patches were area-reduced by 2 to {most}, the rest taken at native scale."
    else:
        scale = "Its patches were taken at the native scale of the data."
    return [seen, scale, GUESS]


def render(card: Card, name: str, sampling: Values | None) -> str:
    """MODEL_CARD.md."""
    data, scores = card["data"], card["scores"]
    parts = [
        f"# {name}",
        f"{card['parameters'] / 1e6:.2f} M parameters. Written by `driftrec train`; the weights' header says the same.",
        "## Trained on",
        _table(["", ""], [[label, value] for label, value in _data_rows(data)]),
        "## Trained for",
        _duration(card),
        "## How good",
        _score_table(scores) if scores else "Not measured: the run had no `validation` set.",
        "## What it recommends",
        ", ".join(f"{key} {value}" for key, value in sampling.items()) if sampling else "Nothing: the defaults hold.",
        "## Limits",
        "\n".join(f"- {limit}" for limit in card["limits"]),
        "## Settings",
        _table(["setting", "value"], [[key, value] for key, value in flat(card["settings"]).items()]),
        "## Versions",
        _table(["package", "version"], [[key, value] for key, value in card["versions"].items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _duration(card: Card) -> str:
    length = f"{card['steps']:,} steps of {card['batch']} patches ({card['patches']:,} in all)"
    text = f"{length}, {card['seconds']:,} seconds on {card['device']}."
    begun = card["settings"]["init_from"]
    return f"{text} It went on from {begun}, whose steps are counted and whose seconds are not." if begun else text


def _data_rows(data: Data) -> list[tuple[str, Any]]:
    images = data["images"] if data["images"] is not None else "not counted: the shards are tars"
    rows = [("data", data["url"]), ("shards", data["shards"]), ("images", images)]
    rows += [("sha256 of the listing (names, sizes)", data["sha256_of_listing"])]
    if "corrupted" in data:
        rows += [("damaged partners", data["corrupted"])]
        rows += [("sha256 of their listing", data.get("sha256_of_corrupted_listing"))]
    skipped = ", ".join(f"{count} {reason}" for reason, count in data.get("skipped", {}).items())
    return [*rows, ("images that gave no patches", skipped or "none"), ("licence", data["licence"] or "not stated")]


def _score_table(scores: Values) -> str:
    where = f"the validation set {scores['set']}, {scores['damage']}, at step {scores['step']:,}"
    text = f"Means over {where}; BEF in squared levels of 255."
    names = [name for name, value in scores.items() if isinstance(value, Mapping)]
    rows = [
        [name, f"{v['psnr']:.2f}", f"{v['ssim']:.4f}", f"{v['bef'] * GREY_LEVELS:.1f}"]
        for name in names
        for v in [scores[name]]
    ]
    return text + "\n\n" + _table(["", "PSNR (dB)", "SSIM", "BEF"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
