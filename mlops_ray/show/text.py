"""Text: what is shown in a terminal, where other people's texts must not be able to command it."""

from collections.abc import Sequence


def printable(text: str) -> str:
    """Without what would command the terminal."""
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in lines, as wide as its cells."""
    lines = [list(heads), *(list(map(printable, row)) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
