"""The time line: which version served what, as bars over time. The table of the same spans stands below it."""

from collections.abc import Sequence
from datetime import datetime

from markupsafe import Markup, escape

from mlops_ray.governance.history import Deployment
from mlops_ray.show.charts import svg

_WIDTH, _ROW, _NAME, _FOOT = 960, 22, 90, 20
# Told apart by their form, too: champions fill the row, canaries half of it, shadows are outlines.
_HEIGHTS = {"champion": 16, "canary": 10, "shadow": 10, "loading": 4}


def time_line(spans: Sequence[Deployment], now: datetime) -> Markup:
    """A row for each version, the newest first; empty without spans."""
    if not spans:
        return Markup("")
    versions = sorted({one.version for one in spans}, reverse=True)
    start = min(one.since for one in spans)
    length_s = (now - start).total_seconds() or 1.0

    def x(moment: datetime) -> float:
        return _NAME + (_WIDTH - _NAME) * min(1.0, max(0.0, (moment - start).total_seconds() / length_s))

    parts = [f'<text x="0" y="{row * _ROW + 15}">version {version}</text>' for row, version in enumerate(versions)]
    for one in reversed(spans):  # so that what began last lies on top
        height, left, right = _HEIGHTS[one.part], x(one.since), x(one.until or now)
        middle = versions.index(one.version) * _ROW + 11
        says = f"version {one.version}, {one.part} {one.share:.0%}, {one.since:%Y-%m-%d %H:%M} UTC to " + (
            f"{one.until:%Y-%m-%d %H:%M} UTC" if one.until else "now"
        )
        parts.append(
            f'<rect class="{one.part}" x="{left:.1f}" y="{middle - height / 2:.1f}" height="{height}" '
            f'width="{max(2.0, right - left):.1f}"><title>{escape(says)}</title></rect>'
        )
    foot = len(versions) * _ROW + 14
    parts.append(f'<text x="{_NAME}" y="{foot}">{start:%Y-%m-%d} UTC</text>')
    parts.append(f'<text x="{_WIDTH}" y="{foot}" text-anchor="end">now</text>')
    label = f"What {len(versions)} versions served since {start:%Y-%m-%d}; the table below says the same"
    return Markup(svg("".join(parts), _WIDTH, len(versions) * _ROW + _FOOT, label))
