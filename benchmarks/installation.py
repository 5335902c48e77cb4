"""What a node that serves has to install, import and wait for, beside a node that has everything.

Sizes are of the files that the distributions list (without what Python compiles of them): `mlops_ray[serve]` and
`mlops_ray[all]` with whatever they need, as installed here. The serving environment is a new one with the built wheel,
and `requirements.lock` as its constraints; it and this environment then take turns at serving the same model.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ENDPOINT = Path(__file__).parent / "installations" / "endpoint.py"
TURNS, PORT = 2, 18_913
_IMPORT = "import time, mlops_ray.retraining.governed_endpoint; print(time.process_time())"


def serving_environment() -> Iterator[tuple[str, float, str]]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        serve = new_environment(folder)
        pythons = {"serve": serve, "full": Path(sys.executable)}
        yield from ((f"size_{name}_mb", size_mb(extra), "MB") for name, extra in (("serve", "serve"), ("full", "all")))
        imports: dict[str, list[float]] = {name: [] for name in pythons}
        served: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
        for turn in range(TURNS):
            for name, python in pythons.items():
                imports[name].append(float(run(python, "-c", _IMPORT)))
                state = folder / f"{name}_{turn}"
                served[name].append(json.loads(run(python, str(ENDPOINT), str(state), str(PORT)).splitlines()[-1]))
                assert served[name][-1]["right"], f"{name} answers something else"
        for name in pythons:
            yield f"import_{name}_s", min(imports[name]), "s"
            yield f"replica_start_{name}_s", min(one["replica_start_s"] for one in served[name]), "s"
            yield f"replica_{name}_mb", statistics.median(one["replica_mb"] for one in served[name]), "MB"


PARTS = {"serving_environment": serving_environment}


def new_environment(folder: Path) -> Path:
    """An environment below `folder` with the wheel of this tree and what serving needs; its Python."""
    pip = ("-m", "pip", "--disable-pip-version-check")
    wheel = run(Path(sys.executable), str(ROOT / "tests" / "wheel.py"), str(folder)).strip()
    run(Path(sys.executable), "-m", "venv", str(folder / "environment"))
    python = folder / "environment" / "bin" / "python"
    run(python, *pip, "install", "-q", "-c", str(ROOT / "requirements.lock"), f"{wheel}[serve]")
    return python


def size_mb(extra: str) -> float:
    return sum(map(files_mb, needed(extra).values()))


def needed(extra: str) -> dict[str, Distribution]:
    """All that the package with an extra needs, from one distribution to the next, by name. As installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own: dict[str, list[str]] = {"": project["dependencies"], **project["optional-dependencies"]}
    todo = [Requirement(one) for one in (*own[""], *own[extra])]
    found: dict[str, Distribution] = {}
    seen: set[str] = set()
    while todo:
        if str(wanted := todo.pop()) in seen:
            continue
        seen.add(str(wanted))
        if wanted.name == project["name"]:  # an extra that is made of others
            todo += [Requirement(one) for name in wanted.extras for one in own[name]]
            continue
        found[canonicalize_name(wanted.name)] = there = distribution(wanted.name)
        todo += [one for one in map(Requirement, there.requires or ()) if is_needed(one, wanted.extras)]
    return found


def is_needed(one: Requirement, extras: set[str]) -> bool:
    return one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def files_mb(one: Distribution) -> float:
    paths = (Path(str(one.locate_file(file))) for file in one.files or ())
    return sum(path.stat().st_size for path in paths if path.suffix != ".pyc" and path.is_file()) / 1e6


def run(python: Path, *arguments: str) -> str:
    """What it prints. Outside the tree, so that what is installed is what is imported."""
    own = {} if python == Path(sys.executable) else {"PYTHONPATH": ""}
    done = subprocess.run(
        [str(python), *arguments], cwd=tempfile.gettempdir(), capture_output=True, text=True, env=os.environ | own
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
