"""Charts: SVG texts that stand in a page without any library; `document` has their colours."""

from collections.abc import Sequence
from html import escape
from math import isfinite

_WIDTH, _HEIGHT, _FOOT = 640, 120, 18
_BAR, _NAME = 18, 200
_CHARACTER = 7  # as wide as one of a text gets
_NOT_IN_XML = dict.fromkeys((*range(9), 11, 12, *range(14, 32)), "\ufffd")


def histogram(edges: Sequence[float], counts: Sequence[float]) -> str:
    """Counts between edges, as bars."""
    most = max(counts, default=0) or 1
    width = _WIDTH / max(1, len(counts))
    drawn = "".join(
        f'<rect x="{at * width:.1f}" y="{_top(count / most):.1f}" width="{max(0.5, width - 1):.1f}" '
        f'height="{max(0.0, _HEIGHT - _FOOT - _top(count / most)):.1f}" class="bar">'
        f"<title>{edges[at]:.6g} to {edges[at + 1]:.6g}: about {count:,.0f}</title></rect>"
        for at, count in enumerate(counts)
    )
    return svg(drawn + _ends(f"{edges[0]:.6g}", f"{edges[-1]:.6g}"), _WIDTH, _HEIGHT, "histogram")


def volume(rows_by_start: Sequence[tuple[str, int]], unit: str) -> str:
    """Rows over time, by the start of each unit."""
    most = max((rows for _, rows in rows_by_start), default=0) or 1
    width = _WIDTH / max(1, len(rows_by_start))
    drawn = "".join(
        f'<rect x="{at * width:.1f}" y="{_top(rows / most):.1f}" width="{max(0.6, width - 0.3):.1f}" '
        f'height="{max(0.0, _HEIGHT - _FOOT - _top(rows / most)):.1f}" class="bar">'
        f"<title>{escape(start)}: {rows:,} rows</title></rect>"
        for at, (start, rows) in enumerate(rows_by_start)
    )
    ends = _ends(rows_by_start[0][0], rows_by_start[-1][0]) if rows_by_start else ""
    return svg(drawn + ends, _WIDTH, _HEIGHT, f"rows by {unit}")


def bars(named: Sequence[tuple[str, float, str]], most: float) -> str:
    """A bar for each name, as long as its value is beside `most`, with a text behind it."""
    room = _WIDTH - _NAME - 12 - _CHARACTER * max((len(text) for _, _, text in named), default=0)
    drawn = []
    for at, (name, value, text) in enumerate(named):
        y = at * (_BAR + 2)
        shown = name if len(name) <= 28 else f"{name[:27]}…"
        length = max(1.0, room * min(1.0, value / most)) if most > 0 else 1.0
        drawn.append(
            f'<text x="{_NAME - 6}" y="{y + 13}" text-anchor="end">{escape(shown)}<title>{escape(name)}</title></text>'
            f'<rect x="{_NAME}" y="{y + 2}" width="{length:.1f}" height="{_BAR - 4}" class="bar"/>'
            f'<text x="{_NAME + length + 6:.1f}" y="{y + 13}">{escape(text)}</text>'
        )
    return svg("".join(drawn), _WIDTH, len(named) * (_BAR + 2), "bars")


def sparkline(values: Sequence[float], label: str) -> str:
    """A line as high as a text, through the values that are finite; empty below two of them."""
    known = [(at, value) for at, value in enumerate(values) if isfinite(value)]
    if len(known) < 2:
        return ""
    low, high = min(value for _, value in known), max(value for _, value in known)
    room, step = (high - low) or 1.0, 76 / (len(values) - 1)
    points = "L".join(f"{2 + at * step:.1f} {16 - 13 * (value - low) / room:.1f}" for at, value in known)
    return svg(f'<path class="spark" d="M{points}"/>', 80, 18, f"{label}: from {known[0][1]:.4g} to {known[-1][1]:.4g}")


def _top(share: float) -> float:
    return (_HEIGHT - _FOOT) * (1 - share)


def _ends(first: str, last: str) -> str:
    y = _HEIGHT - 4
    return (
        f'<path d="M0 {_HEIGHT - _FOOT}H{_WIDTH}" class="axis"/><text x="0" y="{y}">{escape(first)}</text>'
        f'<text x="{_WIDTH}" y="{y}" text-anchor="end">{escape(last)}</text>'
    )


def svg(body: str, width: float, height: float, label: str) -> str:
    """A chart of this size that is told to those who do not see it by `label`. No text has what XML may not have."""
    body, label = body.translate(_NOT_IN_XML), label.translate(_NOT_IN_XML)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{escape(label)}" font-family="system-ui,sans-serif" font-size="12">{body}</svg>'
    )
