"""History: rows of usage as runs and their steps."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlops_ray.cost.usage import Usage
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.usage import Used, read_usage


@dataclass(frozen=True)
class PastRun:
    """steps: those that ended, with what they used, in whichever months."""

    run: str
    steps: Mapping[str, Usage]


def past_runs(rows: Iterable[Used]) -> list[PastRun]:
    """By run, the oldest first. A step that failed, or whose run was killed in it, is no example of what it takes: what
    it used belongs to the run in which the same step ended, as that goes on from there."""
    found: dict[str, dict[str, list[Used]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.kind == "step":
            found[row.run][row.name].append(row)
    before: dict[str, list[Used]] = defaultdict(list)  # by the key of a step that has not ended yet
    runs = list[PastRun]()
    for run, steps in found.items():
        ended = dict[str, Usage]()
        for name, parts in steps.items():
            key = parts[0].key
            if all(part.state == "ended" for part in parts):
                ended[name] = _together([*before.pop(key, []), *parts])
            elif key:
                before[key] += parts
        runs.append(PastRun(run, ended))
    return runs


def attempt_at(order: str, id: str) -> str:
    """The id of a run by which what was ordered finds it again; without an order the run's own."""
    return f"{order}/{id}" if order else id


def used_by(store: ControlStore, use_case: str, order: str) -> Usage:
    """By all attempts at what was ordered, those that died among them; trials are part of their steps."""
    return _together(ordered(store, use_case, order))


def ordered(store: ControlStore, use_case: str, order: str) -> list[Used]:
    """The rows of which `used_by` is the sum."""
    return read_usage(store, use_case, kinds=("step",), runs_begin=attempt_at(order, ""))


def _together(parts: Sequence[Used]) -> Usage:
    return Usage.sum_of(part.quantities for part in parts)
