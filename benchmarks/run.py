"""Run the benchmarks: all, or those whose area is named (`python benchmarks/run.py pipeline`).

A benchmark is a file `benchmarks/<area>.py` with a function `figures()` that yields (name, value, unit). Each figure is
printed as `figure <name> <value> <unit>` and goes to `benchmarks/results.json` with what the machine is.

Where `figures` takes names of parts, `python benchmarks/run.py features:skew,online` runs these alone, keeping nothing.
"""

import importlib
import json
import os
import platform
import sys
from datetime import UTC, datetime
from inspect import signature
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"


def machine() -> dict[str, object]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "processor": platform.processor() or platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def main(areas: list[str]) -> None:
    known = sorted(path.stem for path in HERE.glob("*.py") if path.stem != "run")
    wanted = [(area, parts.split(",") if parts else []) for area, _, parts in (one.partition(":") for one in areas)]
    if unknown := {area for area, _ in wanted} - set(known):
        raise SystemExit(f"There is no benchmark {', '.join(sorted(unknown))}. Known: {', '.join(known)}.")
    sys.path.insert(0, str(HERE))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for area, parts in wanted or [(area, []) for area in known]:
        found, figures = {}, importlib.import_module(area).figures
        if parts and not signature(figures).parameters:
            raise SystemExit(f"{area} has no parts.")
        for name, value, unit in figures(*parts):
            print(f"figure {area}.{name} {value:.4g} {unit}", flush=True)
            found[f"{area}.{name}"] = {"value": value, "unit": unit}
        if parts:
            continue
        results[area] = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "figures": found,
        }
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
