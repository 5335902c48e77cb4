"""Rendering: the files of a project from its answers, which are plain JSON: a later release can write them again."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mlops_ray.exploration.propose import quoted, source_lines
from mlops_ray.scaffold.draft import Draft

Answers = Mapping[str, Any]
FULL, EMPTY = "use_case.py.jinja", "empty_use_case.py.jinja"
_FILES = {
    "test_use_case.py.jinja": "tests/test_{name}.py",
    "settings.yaml.jinja": "settings.yaml",
    "feature_store.yaml.jinja": "feature_repo/feature_store.yaml",
    "serve.yaml.jinja": "serve_configs/local.yaml",
    "checks.yml.jinja": ".github/workflows/checks.yml",
    "gitlab-ci.yml.jinja": ".gitlab-ci.yml",
    "standards.yaml.jinja": "standards.yaml",
    "pre-commit-config.yaml.jinja": ".pre-commit-config.yaml",
    "gitignore.jinja": ".gitignore",
}
_ABOUT = {FULL: "README.md.jinja", EMPTY: "empty_README.md.jinja"}


def answers_of(draft: Draft, data: str) -> Answers:
    """All that the templates ask of a draft. data: absolute folder or URL of the raw files."""
    asked = draft.asked
    known_after = span(asked.known_after) if asked.known_after else ""
    label = {name: getattr(draft.label, name) for name in ("value", "task", "metric", "gate")}
    told = {
        "name": draft.name,
        "asked": {"label": asked.label, "time": asked.time, "owner": asked.owner, "known_after": known_after},
        "label": label | {"candidates": list(draft.label.candidates)},
        "entities": quoted(draft.entities),
        "features": {name: {"code": feature.code} for name, feature in draft.features.items()},
        "left_out": dict(draft.left_out),
        "span": list(draft.span),
        "split": {name: span(draft.split[name]) for name in ("test", "gap", "validation")},
        "notes": list(draft.notes),
        "proposal": {
            "notes": list(draft.proposal.notes),
            "source": {"path": draft.proposal.source.path},
            "profile": {"rows": draft.proposal.profile.rows},
        },
    }
    return {
        "template": FULL,
        "draft": told,
        "data": data,
        "source": "\n".join(source_lines(draft.proposal, {"known_at": f"pl.col({quoted(asked.time)})"})),
        "purpose": f"Predicts {asked.label} by what is known at {asked.time}.",
    }


def render(answers: Answers) -> dict[str, str]:
    """The text of each file of the project, by its name below the folder."""
    environment = Environment(
        loader=PackageLoader("mlops_ray.scaffold"), undefined=StrictUndefined, keep_trailing_newline=True,
        trim_blocks=True, lstrip_blocks=True, autoescape=False,
    )  # fmt: skip
    environment.filters |= {"code": quoted, "comment": comment}
    template = answers["template"]
    files = {template: "use_cases/{name}.py", **_FILES, _ABOUT[template]: "README.md"}
    name = answers["draft"]["name"]
    return {file.format(name=name): environment.get_template(one).render(answers) for one, file in files.items()}


def span(time: timedelta) -> str:
    """The code of a length of time."""
    if not time % timedelta(days=1):
        return f"timedelta(days={time // timedelta(days=1)})"
    minutes = time // timedelta(minutes=1)
    return f"timedelta(hours={minutes // 60})" if not minutes % 60 else f"timedelta(minutes={minutes})"


def comment(text: str) -> str:
    """For one line of Python: nothing in it ends the line."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text).rstrip(".")
