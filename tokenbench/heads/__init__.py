"""Heads for dense tasks, on the maps of any backbone that has `out_channels`, such as `tokenbench.Pyramid`."""
