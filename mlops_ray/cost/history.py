"""History: rows of usage as runs and their steps."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlops_ray.cost.usage import Usage
from mlops_ray.governance.usage import Used


@dataclass(frozen=True)
class PastRun:
    """steps: those that ended, with what they used, in whichever months."""

    run: str
    steps: Mapping[str, Usage]


def past_runs(rows: Iterable[Used]) -> list[PastRun]:
    """By run, the oldest first. A step that failed, or whose run was killed in it, is no example of what it takes."""
    found: dict[str, dict[str, list[Used]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.kind == "step":
            found[row.run][row.name].append(row)
    return [
        PastRun(
            run, {name: _together(parts) for name, parts in steps.items() if all(p.state == "ended" for p in parts)}
        )
        for run, steps in found.items()
    ]


def _together(parts: Sequence[Used]) -> Usage:
    return sum((Usage.from_json(part.quantities) for part in parts), Usage())
