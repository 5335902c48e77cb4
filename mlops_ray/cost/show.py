"""What is shown of usage: lines by use case, step, trial, version or prediction, with what was used and its cost."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, get_args

from mlops_ray.cost.prices import Cost, priced
from mlops_ray.cost.usage import Usage
from mlops_ray.governance.usage import Used

By = Literal["use-case", "step", "trial", "version", "prediction", "run"]
BYS: tuple[By, ...] = get_args(By)
Tables = Mapping[str, Mapping[str, Any]]
_GB = 1e9


@dataclass(frozen=True)
class Line:
    """parts: of how many rows it is. per_thousand: the cost of a thousand predictions, None where none was answered.
    state, seen_at: of a run `running`, `ended` or `failed`, and when it was measured last; of others "" and None."""

    name: str
    usage: Usage
    cost: Cost
    parts: int
    per_thousand: Cost | None = None
    state: str = ""
    seen_at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        used = self.usage.to_json()
        used.pop("cpus", None)
        shown = {"name": self.name, "used": used, "cost": self.cost.to_json(), "parts": self.parts}
        shown |= {"state": self.state, "seen_at": self.seen_at.isoformat()} if self.seen_at else {}
        return shown | ({"per_thousand": self.per_thousand.to_json()} if self.per_thousand else {})

    def __str__(self) -> str:
        used, asked = self.usage, self.usage.asked_cpus
        found = [
            f"{self.name:24}",
            f"{used.cpu_s / 3600:9.4f} CPU h",
            f"{used.byte_s / _GB / 3600:9.4f} GB h",
            f"peak {used.peak_bytes / _GB:6.2f} GB",
            f"{used.wall_s:9.1f} s",
            f"asked {asked:4.1f} CPUs" if asked else f"{'':15}",
            f"read {used.read_bytes / _GB:.2f} GB, wrote {used.written_bytes / _GB:.2f} GB",
            str(self.cost),
        ]
        each = [f"{self.per_thousand} per thousand of {used.predictions:,} predictions"] if self.per_thousand else []
        return "  ".join([*found, *each, *([self.state] if self.state else [])])


def lines(rows: Sequence[Used], tables: Tables, by: By, versions: Mapping[str, Sequence[str]]) -> list[Line]:
    """versions: the keys of the steps that made each version, by its name; they are needed for `version` alone. A step
    that made several versions counts in the line of each."""
    if by == "use-case":
        return _grouped((row for row in rows if row.kind != "trial"), tables, lambda row: row.use_case)
    if by == "step":
        return _grouped((row for row in rows if row.kind != "trial"), tables, _step_name)
    if by == "run":
        steps = _by((row for row in rows if row.kind == "step"), lambda row: row.run)
        return [_of_run(name, parts, tables) for name, parts in steps.items()]
    if by == "trial":
        return _grouped((row for row in rows if row.kind == "trial"), tables, lambda row: row.name)
    if by == "prediction":
        served = (row for row in rows if row.kind == "replica")
        return [_per_thousand(line) for line in _grouped(served, tables, lambda row: f"{row.use_case}@{row.name}")]
    made = [(name, [row for row in rows if row.kind == "step" and row.key in keys]) for name, keys in versions.items()]
    return [_line(name, parts, tables) for name, parts in made if parts]


def _step_name(row: Used) -> str:
    return "serving" if row.kind == "replica" else row.name


def _grouped(rows: Iterable[Used], tables: Tables, name: Callable[[Used], str]) -> list[Line]:
    return [_line(one, parts, tables) for one, parts in _by(rows, name).items()]


def _by(rows: Iterable[Used], name: Callable[[Used], str]) -> dict[str, list[Used]]:
    found: dict[str, list[Used]] = defaultdict(list)
    for row in rows:
        found[name(row)].append(row)
    return found


def _line(name: str, parts: Sequence[Used], tables: Tables) -> Line:
    usage = Usage.sum_of(row.quantities for row in parts)
    return Line(name, usage, priced(parts, tables), len(parts))


def _of_run(name: str, parts: Sequence[Used], tables: Tables) -> Line:
    states = {row.state for row in parts}
    state = next((state for state in ("failed", "running") if state in states), "ended")
    return replace(_line(name, parts, tables), state=state, seen_at=max(row.seen_at for row in parts))


def _per_thousand(line: Line) -> Line:
    count = line.usage.predictions
    if not count:
        return line
    each = Cost({name: 1000 * value / count for name, value in line.cost.amounts.items()}, line.cost.unpriced)
    return Line(line.name, line.usage, line.cost, line.parts, each)
