"""Settings of a notebook: those that a command would have in the same folder, or in the use case's project."""

import os
from pathlib import Path

from mlops_ray.config import SETTINGS_FILE, Settings, load_settings, settings_of
from mlops_ray.use_case import UseCase, load_use_case

AnyPath = str | os.PathLike[str]


def settings_here(state: AnyPath | None = None, data: AnyPath | None = None) -> Settings:
    """What is given counts most, then MLOPS_RAY_STATE, MLOPS_RAY_DATA and MLOPS_RAY_SETTINGS, then `settings.yaml` of
    this folder, then `./state` and `./data`. Raises ConfigurationError naming the setting that is wrong."""
    return settings_of(
        _text(state) or os.environ.get("MLOPS_RAY_STATE"), os.environ.get("MLOPS_RAY_SETTINGS"), _text(data)
    )


def settings_for(use_case: UseCase | AnyPath, state: AnyPath | None = None, data: AnyPath | None = None) -> Settings:
    """As `settings_here`; but of a file in another folder's project those of that project, as if one stood there."""
    project = None if isinstance(use_case, UseCase) else _project(Path(use_case))
    if project is None or "MLOPS_RAY_SETTINGS" in os.environ:
        return settings_here(state, data)
    defaults = {name: str(project / name) for name in ("state", "data")}
    given = {"state": state or os.environ.get("MLOPS_RAY_STATE"), "data": data or os.environ.get("MLOPS_RAY_DATA")}
    absolute = {name: path if "://" in path else str(Path(path).absolute()) for name, path in _texts(given).items()}
    return load_settings(str(project / SETTINGS_FILE), defaults, **absolute)


def use_case_of(given: UseCase | AnyPath) -> UseCase:
    """A use case itself, or by the path of its file or its name in `use_cases/`."""
    return given if isinstance(given, UseCase) else load_use_case(os.fspath(given))


def _project(file: Path) -> Path | None:
    folder = file.absolute().parent.parent
    return folder if file.suffix == ".py" and (folder / SETTINGS_FILE).is_file() else None


def _texts(paths: dict[str, AnyPath | None]) -> dict[str, str]:
    return {name: os.fspath(path) for name, path in paths.items() if path is not None}


def _text(path: AnyPath | None) -> str | None:
    return None if path is None else os.fspath(path)
