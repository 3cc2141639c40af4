"""`python -m tokenbench.cli`."""

from tokenbench.cli import main

main(prog_name="tokenbench")
