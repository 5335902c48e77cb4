"""Project: the files of a use case that runs at once, from templates and a draft."""

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from mlops_ray.config import load_settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.exploration.leakage import suspected_in_files
from mlops_ray.exploration.propose import quoted, source_lines
from mlops_ray.ingestion.sources import find_all_files
from mlops_ray.scaffold.draft import Draft
from mlops_ray.use_case import load_use_case

_FILES = {
    "use_case.py.jinja": "use_cases/{name}.py",
    "test_use_case.py.jinja": "tests/test_{name}.py",
    "settings.yaml.jinja": "settings.yaml",
    "feature_store.yaml.jinja": "feature_repo/feature_store.yaml",
    "serve.yaml.jinja": "serve_configs/local.yaml",
    "checks.yml.jinja": ".github/workflows/checks.yml",
    "gitlab-ci.yml.jinja": ".gitlab-ci.yml",
    "standards.yaml.jinja": "standards.yaml",
    "pre-commit-config.yaml.jinja": ".pre-commit-config.yaml",
    "gitignore.jinja": ".gitignore",
    "README.md.jinja": "README.md",
}


def write_project(folder: Path, draft: Draft, data: str) -> tuple[Draft, list[str]]:
    """Write the project into `folder`, which must be new or empty; the draft without what knows the outcome, and the
    files. data: absolute folder or URL of the raw files.

    Nothing is there if it raises: ConfigurationError if the folder has files, UseCaseError if what is declared cannot
    be, which is our fault.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty. Give a new folder with --folder, or move what is there.")
    with tempfile.TemporaryDirectory() as place:
        draft = _without_leaks(Path(place), draft, data)
        written = _write(Path(place), draft, data)
        load_use_case(str(Path(place) / f"use_cases/{draft.name}.py"))
        shutil.copytree(place, folder, dirs_exist_ok=True)
    return draft, written


def _without_leaks(place: Path, draft: Draft, data: str) -> Draft:
    """Without the features that alone tell the outcome, or are there only where it is."""
    _write(place, draft, data)
    case = load_use_case(str(place / f"use_cases/{draft.name}.py"))
    settings = load_settings(state=str(place / "state"), data=data)
    found = suspected_in_files(case, find_all_files(settings, case.sources)[case.main_source])
    return draft.without({one.column: one.reason for one in found})


def _write(folder: Path, draft: Draft, data: str) -> list[str]:
    environment = Environment(
        loader=PackageLoader("mlops_ray.scaffold"), undefined=StrictUndefined, keep_trailing_newline=True,
        trim_blocks=True, lstrip_blocks=True, autoescape=False,
    )  # fmt: skip
    environment.filters |= {"code": quoted, "span": _span, "comment": _comment}
    asked = draft.asked
    values = {
        "draft": draft,
        "data": data,
        "source": "\n".join(source_lines(draft.proposal, {"known_at": f"pl.col({quoted(asked.time)})"})),
        "purpose": f"Predicts {asked.label} by what is known at {asked.time}.",
    }
    written = []
    for template, name in _FILES.items():
        file = folder / name.format(name=draft.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(environment.get_template(template).render(values))
        written.append(str(file.relative_to(folder)))
    return written


def _span(time: timedelta) -> str:
    """The code of a length of time."""
    if not time % timedelta(days=1):
        return f"timedelta(days={time // timedelta(days=1)})"
    minutes = time // timedelta(minutes=1)
    return f"timedelta(hours={minutes // 60})" if not minutes % 60 else f"timedelta(minutes={minutes})"


def _comment(text: str) -> str:
    """For one line of Python: nothing in it ends the line."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text).rstrip(".")
