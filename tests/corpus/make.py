"""The corpus of odd files: modes, depths, metadata, orientations, animations, lies, damage. The same bytes each time.

python -m tests.corpus.make FOLDER writes them, with outcomes.json, for a run by hand.
"""

import json
import sys
from pathlib import Path

from tests.corpus import beside, kinds, mended, trouble
from tests.corpus.made import Odd

PARTS = (
    *(kinds.jpegs, kinds.cmyks, kinds.pngs, kinds.palettes, kinds.deep, kinds.tiffs, kinds.refused_tiffs),
    *(
        kinds.animations,
        kinds.others,
        kinds.jpeg_2000,
        kinds.jpeg_xl,
        beside.turned,
        beside.metadata,
        beside.lies,
        beside.sizes,
    ),
    *(mended.mended, mended.behind, mended.misfits, mended.codecs, trouble.no_images, trouble.damaged),
)


def odd_files() -> list[Odd]:
    """All of them, by name."""
    return sorted((odd for part in PARTS for odd in part()), key=lambda odd: odd.name)


def main(folder: Path) -> None:
    """Write the files, and outcomes.json: of each the table's row, and the reason of its refusal or the note."""
    folder.mkdir(parents=True)
    files = odd_files()
    for odd in files:
        (folder / odd.name).write_bytes(odd.data)
    outcomes = {odd.name: {"row": odd.row, "reason": odd.reason, "words": odd.words} for odd in files}
    (folder / "outcomes.json").write_text(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
