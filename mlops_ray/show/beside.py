"""Two distributions beside each other, as an SVG text: what was in grey, what is in colour."""

from collections.abc import Sequence
from html import escape

from mlops_ray.show.charts import svg
from mlops_ray.show.over_time import FOOT, SMALL, TOP, foot

_SIDE, _LEFT = 4, 74
MOST_NAMED = 5

STYLE = """
.explored svg .was{fill:var(--other)}.explored svg .is{fill:none;stroke:var(--main);stroke-width:1.8}
"""


def no_value(label: str) -> str:
    """A chart of which there is nothing to draw."""
    width, height = SMALL
    return svg(f'<text x="{_SIDE}" y="{height // 2}">no value</text>', width, height, label)


def outline(edges: Sequence[float], was: Sequence[float] | None, now: Sequence[float] | None, label: str) -> str:
    """Shares between `edges`: what was as bars, what is as an outline. One of both is given."""
    width, height = SMALL
    most = max(max(one) for one in (was, now) if one is not None) or 1.0
    step = (width - 2 * _SIDE) / (len(edges) - 1)

    def y(share: float) -> float:
        return TOP + (height - TOP - FOOT) * (1 - share / most)

    floor, parts = height - FOOT, []
    for at, share in enumerate(was or ()):
        said = f"reference: {share:.1%} from {edges[at]:.4g} to {edges[at + 1]:.4g}"
        parts.append(
            f'<rect class="was" x="{_SIDE + at * step:.1f}" y="{y(share):.1f}" width="{max(0.5, step - 1):.1f}" '
            f'height="{max(0.0, floor - y(share)):.1f}"><title>{escape(said)}</title></rect>'
        )
    if now is not None:
        steps = "".join(f"V{y(share):.1f}H{_SIDE + (at + 1) * step:.1f}" for at, share in enumerate(now))
        parts.append(f'<path class="is" d="M{_SIDE} {floor}{steps}V{floor}"/>')
    parts.append(foot(width, height, f"{edges[0]:.4g}", f"{edges[-1]:.4g}"))
    return svg("".join(parts), width, height, label)


def pairs(rows: Sequence[tuple[str, float, float]], label: str) -> str:
    """Of each name a share that was and one that is, as two bars."""
    if not rows:
        return no_value(label)
    width, height = SMALL
    most = max(max(one[1:]) for one in rows) or 1.0
    step = height / max(MOST_NAMED, len(rows))
    parts = []
    for at, (name, was, is_) in enumerate(rows):
        shown, top = name if len(name) <= 10 else f"{name[:9]}…", at * step
        said = f"{name}: reference {was:.1%}, now {is_:.1%}"
        bars = (("was", was, 2.0), ("bar", is_, step / 2))
        parts.append(f'<text x="{_LEFT - 5}" y="{top + step / 2 + 4:.1f}" text-anchor="end">{escape(shown)}</text>')
        parts += (
            f'<rect class="{kind}" x="{_LEFT}" y="{top + offset:.1f}" height="{step / 2 - 2:.1f}" '
            f'width="{max(0.5, (width - _LEFT - _SIDE) * share / most):.1f}"><title>{escape(said)}</title></rect>'
            for kind, share, offset in bars
        )
    return svg("".join(parts), width, height, label)
