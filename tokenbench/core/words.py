"""Counts in sentences."""


def counted(number: int, one: str, many: str = "") -> str:
    """ "1 image", "2 images"; `many` where the plural is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"
