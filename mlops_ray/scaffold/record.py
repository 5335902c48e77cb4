"""The record of a project: by which release it was written, of which answers, and how; an update begins from it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import msgspec

from mlops_ray.errors import ConfigurationError
from mlops_ray.scaffold.rendering import Answers, render

RECORD = ".mlops_ray.json"


@dataclass(frozen=True)
class Record:
    """release: of mlops_ray. answers: of which the templates were rendered. files: what was written, by name, which is
    what somebody's own changes are told by."""

    release: str
    answers: Mapping[str, Any]
    files: Mapping[str, str]

    @classmethod
    def of(cls, answers: Answers) -> Self:
        return cls(version("mlops_ray"), answers, render(answers))

    def text(self) -> str:
        """In the order of the answers, which is that of the features in what is written."""
        return json.dumps(asdict(self), indent=1) + "\n"


def read_record(folder: Path) -> Record:
    """Raises ConfigurationError if the folder has none, or one that cannot be read."""
    file = folder / RECORD
    try:
        return msgspec.json.decode(file.read_bytes(), type=Record)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{file} is not there: either `mlops-ray init` has not made this folder, or it did before there were "
            f"updates. Make a project of the same name elsewhere, and take over what you want of it."
        ) from None
    except (msgspec.DecodeError, OSError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}. Take it back from your repository.") from None
