"""Learning from clips: recipes, and clips as they are learned from."""
