"""Models out of the door: exported files with what is needed to run them, and the runtimes that run them here."""
