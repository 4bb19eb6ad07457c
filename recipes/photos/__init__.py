"""Free photographs that packages carry, cut into training tiles: `python -m recipes.photos`."""
