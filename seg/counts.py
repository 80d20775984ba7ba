"""A number of things in words: "1 image", "2 images"."""


def counted(number: int, noun: str) -> str:
    """The number with its noun, which is given for one thing."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{number} {noun}{ending}"
