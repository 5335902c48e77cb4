"""An environment with less than this one has, made in a second: links to what is installed here, and nothing copied."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

from benchmarks.installation import needed

ROOT = Path(__file__).parents[1]


def environment_with(folder: Path, extra: str) -> Path:
    """The Python of a new environment in `folder`, which has this package with one of its extras ("" for none)."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for one in needed(extra).values():
        for name in top_names(one):
            if not (site / name).exists():
                (site / name).symlink_to(Path(str(one.locate_file(name))).resolve())
    metadata = site / "mlops_ray-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("\n".join(declared()))
    (site / "mlops_ray.pth").write_text(f"{ROOT}\n")
    return folder / "bin" / "python"


def declared() -> Iterator[str]:
    """What an installer writes of this tree's `pyproject.toml`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    yield from ("Metadata-Version: 2.1", f"Name: {project['name']}", "Version: 0")
    yield from (f"Requires-Dist: {one}" for one in project["dependencies"])
    for extra, what in project["optional-dependencies"].items():
        yield f"Provides-Extra: {extra}"
        yield from (f'Requires-Dist: {one} ; extra == "{extra}"' for one in what)


def remove(python: Path, one: Distribution) -> None:
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    for name in top_names(one):
        (site / name).unlink(missing_ok=True)


def top_names(one: Distribution) -> set[str]:
    """Files and folders of a distribution directly in the folder of packages."""
    return {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}
