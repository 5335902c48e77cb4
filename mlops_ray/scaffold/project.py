"""Project: the files of a use case that runs at once, from templates and a draft."""

import tempfile
from pathlib import Path

from mlops_ray.config import load_settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.exploration.leakage import suspected_in_files
from mlops_ray.ingestion.sources import find_all_files
from mlops_ray.scaffold.draft import Draft
from mlops_ray.scaffold.empty import EmptyUseCase
from mlops_ray.scaffold.record import RECORD, Record
from mlops_ray.scaffold.rendering import Answers, answers_of
from mlops_ray.use_case import load_use_case


def write_project(folder: Path, draft: Draft, data: str) -> tuple[Draft, list[str]]:
    """Write the project into `folder`, which must be new or empty; the draft without what knows the outcome, and the
    files. data: absolute folder or URL of the raw files.

    Nothing is there if it raises: ConfigurationError if the folder has files, UseCaseError if what is declared cannot
    be, which is our fault.
    """
    expect_empty(folder)
    draft = _without_leaks(draft, data)
    return draft, _write_checked(folder, draft.name, answers_of(draft, data))


def write_empty_project(folder: Path, empty: EmptyUseCase) -> list[str]:
    """Write a project whose use case says what has to be filled in, as `write_project` does."""
    expect_empty(folder)
    return _write_checked(folder, empty.name, empty.answers())


def expect_empty(folder: Path) -> None:
    """Raise ConfigurationError if there is a file of this name, or a folder with something in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is not empty. Give a new folder with --folder, or move what is there.")


def _without_leaks(draft: Draft, data: str) -> Draft:
    """Without the features that alone tell the outcome, or are there only where it is."""
    with tempfile.TemporaryDirectory() as place:
        _write(Path(place), answers_of(draft, data))
        case = load_use_case(str(Path(place) / f"use_cases/{draft.name}.py"))
        settings = load_settings(state=str(Path(place) / "state"), data=data)
        found = suspected_in_files(case, find_all_files(settings, case.sources)[case.main_source])
    return draft.without({one.column: one.reason for one in found})


def _write_checked(folder: Path, name: str, answers: Answers) -> list[str]:
    """Write the project if its use case can be loaded from another place."""
    with tempfile.TemporaryDirectory() as place:
        _write(Path(place), answers)
        load_use_case(str(Path(place) / f"use_cases/{name}.py"))
    return _write(folder, answers)


def _write(folder: Path, answers: Answers) -> list[str]:
    record = Record.of(answers)
    for name, text in {**record.files, RECORD: record.text()}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return [*record.files, RECORD]
