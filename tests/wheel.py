"""The wheel of this tree, built from a copy of what git has or would add, so that nothing lies beside it afterwards.

As a script it builds into the folder that it is given, and prints where the wheel lies.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BESIDE = ("pyproject.toml", "README.md", "LICENSE")


def packaged_files() -> set[str]:
    """The files of the package, from the root of the repository."""
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "mlops_ray")
    found = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return {name for name in found if (ROOT / name).is_file()}


def build_wheel(folder: Path) -> Path:
    """Build it into `folder` with this environment's setuptools: no network."""
    source = folder / "source"
    for name in (*BESIDE, *packaged_files()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    build = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder))
    done = subprocess.run([*build, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


if __name__ == "__main__":
    print(build_wheel(Path(sys.argv[1])))
