"""`python -m tokenbench`, which is also how `torchrun -m tokenbench train …` starts it."""

from tokenbench.cli import main

main(prog_name="tokenbench")
