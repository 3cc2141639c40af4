"""STViT: a few semantic tokens take the place of all patches."""
