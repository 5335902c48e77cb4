"""Run the benchmarks: all, or those whose area is named (`python benchmarks/run.py pipeline`).

A benchmark is a file `benchmarks/<area>.py` with a function `figures()` that yields (name, value, unit). Each figure is
printed as `figure <name> <value> <unit>` and goes to `benchmarks/results.json` with what the machine is.

A long one has `PARTS` instead, such functions by name. A part's figures are written once it is whole, with when and
where, so whoever stops it loses one part; `python benchmarks/run.py monitoring.iid` runs that one alone.
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
Part = Callable[[], Iterator[tuple[str, float, str]]]


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
    wanted = [name.partition(".") for name in asked or areas]
    if unknown := {area for area, _, _ in wanted} - set(areas):
        raise SystemExit(f"There is no benchmark {', '.join(sorted(unknown))}. Known: {', '.join(areas)}.")
    sys.path.insert(0, str(HERE))
    for area, _, part in wanted:
        module = importlib.import_module(area)
        parts: Mapping[str, Part] = getattr(module, "PARTS", None) or {"": module.figures}
        if part and part not in parts:
            raise SystemExit(f"{area} has no part {part}. Known: {', '.join(filter(None, parts)) or 'none'}.")
        for name in [part] if part else parts:
            _keep(area, name, list(parts), _measured(area, parts[name]))


def _measured(area: str, part: Part) -> dict[str, dict[str, Any]]:
    found = {}
    for name, value, unit in part():
        print(f"figure {area}.{name} {value:.4g} {unit}", flush=True)
        found[f"{area}.{name}"] = {"value": value, "unit": unit}
    return found


def _keep(area: str, part: str, order: list[str], found: dict[str, dict[str, Any]]) -> None:
    """Write a part's figures among those of the others, in the order of parts. Figures of no part are nobody's."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    now = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    if part:
        before = results.get(area, {})
        own = {name: {**figure, "part": part} for name, figure in found.items()}
        others = {n: f for n, f in before.get("figures", {}).items() if f.get("part") in order and f["part"] != part}
        ordered = sorted((others | own).items(), key=lambda one: order.index(one[1]["part"]))
        measured = {name: one for name, one in before.get("parts", {}).items() if name in order} | {part: now}
        results[area] = {**now, "parts": {name: measured[name] for name in order if name in measured}}
        results[area]["figures"] = dict(ordered)
    else:
        results[area] = {**now, "figures": found}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
