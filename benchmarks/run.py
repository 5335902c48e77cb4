"""Run the benchmarks: all, or those whose area is named (`python benchmarks/run.py pipeline`).

A benchmark is a file `benchmarks/<area>.py` with a function `figures()` that yields (name, value, unit). Each figure is
printed as `figure <name> <value> <unit>` and goes to `benchmarks/results.json` with what the machine is.

A long one has `PARTS` instead, such functions by name. A part's figures are written once it is whole, with when and
where, so whoever stops it loses one part; `python benchmarks/run.py monitoring:iid,faults` runs these two alone. Parts
that are `NIGHTLY` run where they are named.
"""

import importlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
Figures = Iterator[tuple[str, float, str]]
Part = Callable[[], Figures]


def machine() -> dict[str, object]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "processor": platform.processor() or platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def main(asked: list[str]) -> None:
    areas = sorted(path.stem for path in HERE.glob("*.py") if path.stem != "run")
    wanted = [(area, parts.split(",") if parts else []) for area, _, parts in (one.partition(":") for one in asked)]
    if unknown := {area for area, _ in wanted} - set(areas):
        raise SystemExit(f"There is no benchmark {', '.join(sorted(unknown))}. Known: {', '.join(areas)}.")
    sys.path.insert(0, str(HERE))
    for area, parts in wanted or [(area, []) for area in areas]:
        module = importlib.import_module(area)
        known: Mapping[str, Part] = getattr(module, "PARTS", {})
        if unknown := set(parts) - set(known):
            there = ", ".join(known) or "none; run it whole"
            raise SystemExit(f"{area} has no part {', '.join(sorted(unknown))}. Known: {there}.")
        if not known:
            _keep(area, _measured(area, module.figures()))
            continue
        for part in parts or [name for name in known if name not in getattr(module, "NIGHTLY", ())]:
            _keep_part(area, part, list(known), _measured(area, known[part]()))


def _measured(area: str, figures: Figures) -> dict[str, dict[str, Any]]:
    found = {}
    for name, value, unit in figures:
        print(f"figure {area}.{name} {value:.4g} {unit}", flush=True)
        found[f"{area}.{name}"] = {"value": value, "unit": unit}
    return found


def _keep_part(area: str, part: str, order: list[str], found: dict[str, dict[str, Any]]) -> None:
    """Write a part's figures among those of the others, in the order of parts. Figures of no part are nobody's."""
    before = _kept().get(area, {})
    own = {name: {**figure, "part": part} for name, figure in found.items()}
    others = {n: f for n, f in before.get("figures", {}).items() if f.get("part") in order and f["part"] != part}
    ordered = dict(sorted((others | own).items(), key=lambda one: order.index(one[1]["part"])))
    measured = {**before.get("parts", {}), part: _when_and_where()}
    _keep(area, ordered, parts={name: measured[name] for name in order if name in measured})


def _keep(area: str, figures: Mapping[str, Any], **more: Any) -> None:
    results = {**_kept(), area: {**_when_and_where(), **more, "figures": figures}}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def _kept() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def _when_and_where() -> dict[str, object]:
    return {"when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}


if __name__ == "__main__":
    main(sys.argv[1:])
