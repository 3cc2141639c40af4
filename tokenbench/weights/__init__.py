"""Weights in and out: files, the hub, what ships, and published layouts."""
