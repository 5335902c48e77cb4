"""A graph of what was made from what, as an SVG text: boxes in columns, from left to right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mlops_ray.show.charts import svg

_WIDTH, _HEIGHT, _ACROSS, _DOWN = 176, 46, 46, 14
_LETTERS = 25

STYLE = """
.explored svg .node{fill:var(--paper);stroke:var(--main);stroke-width:1.4}
.explored svg .edge{fill:none;stroke:var(--other)}.explored svg .name{fill:var(--ink);font-weight:600}
.explored .scrolls{overflow-x:auto}.explored .scrolls svg{max-width:none}
"""


@dataclass(frozen=True)
class Node:
    """name, about: two lines of the box; longer ones are cut, and whole when they are pointed at. rank: its column."""

    name: str
    about: str
    rank: int


def graph(nodes: Mapping[str, Node], edges: Sequence[tuple[str, str]], label: str) -> str:
    """nodes: by a key that `edges` go from and to."""
    columns: dict[int, list[str]] = {}
    for key, node in nodes.items():
        columns.setdefault(node.rank, []).append(key)
    tallest = max(map(len, columns.values()), default=1)
    height = tallest * (_HEIGHT + _DOWN)
    places = {
        key: (rank * (_WIDTH + _ACROSS) + 1, (height - len(keys) * (_HEIGHT + _DOWN)) / 2 + at * (_HEIGHT + _DOWN) + 2)
        for rank, keys in columns.items()
        for at, key in enumerate(keys)
    }
    drawn = [_edge(places[start], places[end]) for start, end in edges]
    drawn += [_box(node, *places[key]) for key, node in nodes.items()]
    width = (max(columns, default=0) + 1) * (_WIDTH + _ACROSS) - _ACROSS + 2
    chart = svg("".join(drawn), width, height, label)
    return f'<div class="scrolls" tabindex="0" role="group" aria-label="Graph">{chart}</div>'


def _edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    left, right = start[0] + _WIDTH, end[0]
    top, bottom, middle = start[1] + _HEIGHT / 2, end[1] + _HEIGHT / 2, (left + right) / 2
    return (
        f'<path class="edge" d="M{left:.0f} {top:.1f}C{middle:.0f} {top:.1f} {middle:.0f} {bottom:.1f} '
        f'{right:.0f} {bottom:.1f}m-5 -3l5 3l-5 3"/>'
    )


def _box(node: Node, x: float, y: float) -> str:
    name, about = (one if len(one) <= _LETTERS else f"{one[: _LETTERS - 1]}…" for one in (node.name, node.about))
    return (
        f"<g><title>{escape(node.name)}: {escape(node.about)}</title>"
        f'<rect class="node" x="{x:.0f}" y="{y:.1f}" rx="5" width="{_WIDTH}" height="{_HEIGHT}"/>'
        f'<text class="name" x="{x + 9:.0f}" y="{y + 19:.1f}">{escape(name)}</text>'
        f'<text x="{x + 9:.0f}" y="{y + 36:.1f}">{escape(about)}</text></g>'
    )
