"""Text: what is shown in a terminal, where other people's texts must not be able to command it."""

from collections.abc import Sequence
from decimal import Decimal
from math import isfinite


def printable(text: str) -> str:
    """Without what would command the terminal."""
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)


def figures(value: float, digits: int = 4) -> str:
    """A number as people read it: so many digits that count, all before the point, and no exponent.

    >>> figures(0.000012344), figures(2.5), figures(12_345.67), figures(float("nan"))
    ('0.00001234', '2.5', '12,346', 'nan')
    """
    if not isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else format(Decimal(f"{value:.{digits}g}"), ",f")


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in lines, as wide as its cells."""
    lines = [list(heads), *(list(map(printable, row)) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
