"""Pages of the site that are written from the code, so that they cannot say what it does not do."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]


def settings() -> str:
    from mlops_ray.config import Settings

    rows = [
        f"| `{name}` | `{_type(field.annotation)}` | {_default(field)} |"
        for name, field in Settings.model_fields.items()
    ]
    said = inspect.cleandoc(Settings.__doc__ or "")
    return (
        "# Settings\n\nA YAML file of `name: value` lines (`--config`, or `MLOPS_RAY_SETTINGS`). A name that is none "
        f"is refused.\n\n{_paragraphs(said)}\n\n| setting | type | default |\n| --- | --- | --- |\n" + "\n".join(rows)
    )


def _type(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _default(field: Any) -> str:
    from mlops_ray.config import Settings

    if field.is_required():
        return "must be given"
    shown = Settings(state="/STATE", data="/DATA").model_dump()
    (name,) = [name for name, one in Settings.model_fields.items() if one is field]
    value = shown[name]
    return f"`{value}`".replace("/STATE", "STATE") if value not in ("", (), {}) else "none"


def _paragraphs(docstring: str) -> str:
    """Each `name: what it is` of a docstring as a point of a list."""
    joined = " ".join(line.strip() for line in docstring.splitlines()[1:])
    parts = re.split(r"(?:^|(?<=[.:;]) )(?=[a-z_]+(?:, [a-z_]+| and [a-z_]+)*: )", joined)
    named = (re.sub(r"^([a-z_, ]+?):", r"**\1**:", part.strip(" ;")) for part in parts if part.strip())
    return "\n".join(f"- {one}" for one in named)


def events() -> str:
    from mlops_ray.governance.events import EVENT_TYPES

    rows = [f"| `{name}` | {one.severity} | {one.description} |" for name, one in EVENT_TYPES.items()]
    return (
        "# Events\n\nWhat the audit log records, and who subscribes is told ([notifications](../notifications.md), "
        "[audit](../audit.md)).\n\n| type | severity | what it says |\n| --- | --- | --- |\n" + "\n".join(rows)
    )


def errors() -> str:
    from mlops_ray import errors as module

    found = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, module.MlopsRayError)]
    rows = [f"| `{one.__name__}` | `{one.__bases__[0].__name__}` | {_line(one.__doc__)} |" for one in found]
    return (
        "# Errors\n\nSorted by who must act, in `mlops_ray.errors`. A command prints the sentence and ends with 1; "
        "with 70 and a file for a report where it is our fault; with 2 where it was called wrongly; "
        "with 130 on Ctrl-C.\n\n"
        "| class | is a | who must do what |\n| --- | --- | --- |\n" + "\n".join(rows)
    )


def commands() -> str:
    import typer

    from mlops_ray.cli.main import app

    parts = [_command(path, one) for path, one in walk(typer.main.get_command(app), "mlops-ray")]
    return (
        "# Commands\n\nAs `--help` says it. `mlops-ray --install-completion` completes names in a shell.\n\n"
        + "\n\n".join(parts)
    )


def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with what is typed for it."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, one in command.commands.items():
        if not one.hidden:
            yield from walk(one, f"{path} {name}")


def _command(path: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    typed = " ".join(f"{one.name.upper()}" if one.required else f"[{one.name.upper()}]" for one in arguments)
    text = (
        f"## {path}\n\n{_line(command.help)}\n\n```text\n{path}{' [OPTIONS]' if options else ''} {typed}".rstrip()
        + "\n```"
    )
    rows = [f"| `{', '.join(one.opts)}` | {_line(one.help)} |" for one in options]
    rows = [f"| `{one.name.upper()}` | {_line(one.help)} |" for one in arguments if one.help] + rows
    return text + ("\n\n| option | |\n| --- | --- |\n" + "\n".join(rows) if rows else "")


def _line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def imports() -> str:
    from tests.unit.test_import_rules import HOMES, TABLE

    rows = [
        f"| `{part}` | {', '.join(f'`{one}`' for one in sorted(may)) or 'nothing'} |" for part, may in TABLE.items()
    ]
    homes = [f"| `{name}` | {', '.join(f'`{one}`' for one in places)} |" for name, places in HOMES.items()]
    return (
        "# What may import what\n\nThe graph has no circle, and `tests/unit/test_import_rules.py` holds the code to "
        "this table. Where a stage needs what a later one computes, it is handed in as a value.\n\n"
        "| part of `mlops_ray` | may import |\n| --- | --- |\n"
        + "\n".join(rows)
        + "\n\n## Third parties that have one home\n\n| library | where |\n| --- | --- |\n"
        + "\n".join(homes)
    )


def decisions() -> str:
    rows = []
    for file in sorted((ROOT / "docs" / "decisions").glob("0*.md")):
        title, _, said, *_ = file.read_text().splitlines()
        date, status = said.strip("*").split(". ", 1)
        rows.append(f"| {file.name[:4]} | [{title.removeprefix('# ')}]({file.name}) | {date} | {status.rstrip('.')} |")
    return (
        "# Decisions\n\nWhat took a day to find out, so that nobody has to again.\n\n"
        "| | decision | date | status |\n| --- | --- | --- | --- |\n" + "\n".join(rows)
    )


PAGES: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings,
    "reference/events.md": events,
    "reference/errors.md": errors,
    "reference/commands.md": commands,
    "imports.md": imports,
    "decisions/index.md": decisions,
}
