"""Settings of sampling that belong together, by a name for them. Needs nothing, so that any command line tells them."""

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    # What the authors' enhance_folder.py does with its defaults, and their color_correct.py after it; of the settings
    # that their default sampler does not have, those that their others have.
    "driftrec-paper": {
        "sampler": "euler-maruyama",
        "steps": 100,
        "spacing": "authors",
        "start": 1.0,
        "fidelity": 0.0,
        "color_8bit": True,
        "projection": False,
        "adaptive": False,
        "tile": None,
        "float32": True,
        "corrector_ratio": 0.15,
        "last_step": 0.01,
    },
}

# How a restored image is to look, in a word. What else belongs to it is the model's to say.
LOOKS: dict[str, dict[str, Any]] = {
    "faithful": {"fidelity": 1.0},  # the posterior mean: nearest to the original in PSNR, and smooth
    "natural": {"fidelity": 0.0},  # a sample: with the texture of a photograph, which may not be the original's
}


def settings_of(recipe: object) -> dict[str, Any]:
    """The settings that a recipe stands for. Raises ValueError with the known ones."""
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
    return dict(RECIPES[recipe])
