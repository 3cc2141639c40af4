"""STViT-R: semantic tokens from which the full map is recovered."""
