"""How good a model is, as SVG texts: whether its answers are right on average, and what it takes for what."""

from collections.abc import Sequence
from html import escape
from math import isfinite

from mlops_ray.show.charts import svg
from mlops_ray.tasks.evaluation import ReliabilityBin

_SIZE, _LEFT, _FOOT, _TOP = 280, 52, 40, 10
_CELL, _NAMES, _LETTERS = 68, 96, 12

STYLE = """
.explored svg .ideal{stroke:var(--other);stroke-dasharray:4 3;fill:none}
.explored svg .line{fill:none;stroke:var(--main);stroke-width:1.6}.explored svg .dot{fill:var(--main)}
.explored svg .cell{fill:var(--main);stroke:var(--line)}.explored svg .inside{fill:var(--ink)}
.explored .charts{display:flex;flex-wrap:wrap;gap:.6em 2.4em;align-items:flex-start}
.explored figure{margin:.4em 0}.explored figcaption{font-size:12px;color:var(--soft);line-height:1.3;max-width:340px}
"""


def calibration(bins: Sequence[ReliabilityBin], axes: tuple[str, str]) -> str:
    """Mean answer and what was observed, bin by bin; on the dashed line both are equal. Larger dots have more rows."""
    points = [one for one in bins if one.rows and isfinite(one.probability) and isfinite(one.observed)]
    if not points:
        return ""
    values = [value for one in points for value in (one.probability, one.observed)]
    low, high = min(values), max(values)
    low, high = (0.0, high) if 0 <= low < 0.3 * high else (low, high)
    room = (high - low) or abs(high) or 1.0
    most = max(one.rows for one in points)

    def x(value: float) -> float:
        return _LEFT + (_SIZE - _LEFT - 10) * (value - low) / room

    def y(value: float) -> float:
        return _TOP + (_SIZE - _FOOT - _TOP) * (1 - (value - low) / room)

    line = "L".join(f"{x(one.probability):.1f} {y(one.observed):.1f}" for one in points)
    dots = "".join(
        f'<circle class="dot" cx="{x(one.probability):.1f}" cy="{y(one.observed):.1f}" '
        f'r="{2 + 2.5 * (one.rows / most) ** 0.5:.1f}"><title>{one.rows:,} rows: {one.probability:.4g} answered, '
        f"{one.observed:.4g} observed</title></circle>"
        for one in points
    )
    floor = _SIZE - _FOOT
    said = (
        f'<text x="{_LEFT}" y="{floor + 15}">{low:.3g}</text>'
        f'<text x="{_SIZE - 10}" y="{floor + 15}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{_LEFT - 5}" y="{_TOP + 10}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{(_LEFT + _SIZE) / 2}" y="{_SIZE - 6}" text-anchor="middle">{escape(axes[0])}</text>'
        f'<text transform="translate(12 {floor / 2}) rotate(-90)" text-anchor="middle">{escape(axes[1])}</text>'
    )
    body = (
        f'<path class="axis" d="M{_LEFT} {_TOP}V{floor}H{_SIZE - 10}"/>'
        f'<path class="ideal" d="M{x(low):.1f} {y(low):.1f}L{x(high):.1f} {y(high):.1f}"/>'
        f'<path class="line" d="M{line}"/>{dots}{said}'
    )
    return svg(body, _SIZE, _SIZE, f"calibration: {axes[1]} by {axes[0]}")


def confusion(names: Sequence[str], rows: Sequence[Sequence[int]]) -> str:
    """A cell for each label (down) and prediction (across): how many rows, and in shade their share of the label's."""
    width, height = _NAMES + _CELL * len(names) + 8, 44 + _CELL // 2 * len(names)
    parts = [f'<text x="{_NAMES + _CELL * len(names) / 2}" y="12" text-anchor="middle">predicted</text>']
    for at, name in enumerate(names):
        shown = name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
        told = f"{escape(shown)}<title>{escape(name)}</title>"
        parts.append(f'<text x="{_NAMES + _CELL * (at + 0.5):.0f}" y="30" text-anchor="middle">{told}</text>')
        y = 38 + _CELL // 2 * at
        parts.append(f'<text x="{_NAMES - 6}" y="{y + 21}" text-anchor="end">{told}</text>')
        total = sum(rows[at]) or 1
        for to, count in enumerate(rows[at]):
            said = f"{count:,} rows are {name} and predicted {names[to]}: {count / total:.1%} of {name}"
            x = _NAMES + _CELL * to
            parts.append(
                f'<rect class="cell" x="{x}" y="{y}" width="{_CELL - 2}" height="{_CELL // 2 - 2}" '
                f'fill-opacity="{0.06 + 0.6 * count / total:.2f}"><title>{escape(said)}</title></rect>'
                f'<text class="inside" x="{x + _CELL / 2 - 1:.0f}" y="{y + 21}" text-anchor="middle">{count:,}</text>'
            )
    return svg("".join(parts), width, height, "confusion: labels down, predictions across")
