"""Makes `state.tar.xz`: a backup of a small installation as the release before left it.

Its control store is filled by that release's own code (`work.py`), the rest by the package of the checkout this runs
in: run it where that release is the newest one. `PYTHONPATH=. python tests/previous_release/make_state.py`
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from mlops_ray.config import load_settings
from mlops_ray.governance.events import SYSTEM
from mlops_ray.operations.backup.create import create
from mlops_ray.operations.backup.place import Place
from tests.backup_state import artifacts_and_databases, predictions

HERE = Path(__file__).parent


def make(folder: Path) -> None:
    with tarfile.open(HERE / "governance.tar.xz") as archive:
        archive.extractall(folder / "package", filter="data")
    (folder / "package" / "mlops_ray" / "__init__.py").touch()
    (folder / "state").mkdir()
    settings = load_settings(state=f"{folder}/state", data=str(folder))
    command = [sys.executable, str(HERE / "work.py"), settings.model_dump_json(exclude_defaults=True)]
    environment = os.environ | {"PYTHONPATH": f"{folder}/package"}
    subprocess.run(command, input="work departures\n", text=True, env=environment, check=True)
    artifacts_and_databases(settings)
    predictions(settings, 3)
    create(settings, SYSTEM, Place(f"{folder}/backups"))
    with tarfile.open(HERE / "state.tar.xz", "w:xz") as archive:
        archive.add(folder / "backups", "backups")


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        make(Path(made))
