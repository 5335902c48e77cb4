"""The entry of the command. Its list of commands is read from the sources, as importing them all takes a second."""

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import Typer

_FOLDER = Path(__file__).parent
_COMPLETES = "_MLOPS_RAY_COMPLETE"  # a shell sets it, and asks without arguments


def main() -> None:
    """As `cli.main.main`; the list of commands, for a reader or for a shell that completes one, comes without importing
    them."""
    if _COMPLETES in os.environ:
        if _words_to_complete() < 2:
            _listed()()
    elif sys.argv[1:] in ([], ["--help"]):
        _listed()(["--help"])
    from mlops_ray.cli.main import main as command

    command()


def _words_to_complete() -> int:
    """How many words stand behind `mlops-ray`, with the one that is being written, as bash, zsh and fish tell it."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    return len(line.split()) - 1 + line[-1:].isspace()


def _listed() -> "Typer":
    import typer

    source = ast.parse((_FOLDER / "main.py").read_text())
    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=ast.get_docstring(source))
    homes = {
        name.asname or name.name: (str(one.module), name.name)
        for one in source.body
        if isinstance(one, ast.ImportFrom)
        for name in one.names
    }
    for function, panel in _commands(source):
        app.command(function.replace("_", "-"), help=_help(*homes[function]), rich_help_panel=panel)(_nothing)
    for group, name, panel in _groups(source):
        inner = typer.Typer(help=_help(*homes[group]), callback=_nothing)
        app.add_typer(inner, name=name, rich_help_panel=panel)
    return app


def _nothing() -> None: ...


def _commands(source: ast.Module) -> Iterator[tuple[str, str]]:
    """Names and panel in `for command in (…): app.command(rich_help_panel="…")(command)`."""
    for one in source.body:
        match one:
            case ast.For(
                iter=ast.Tuple(names),
                body=[ast.Expr(ast.Call(ast.Call(keywords=[ast.keyword(_, ast.Constant(panel))])))],
            ):
                yield from ((name.id, str(panel)) for name in names if isinstance(name, ast.Name))


def _groups(source: ast.Module) -> Iterator[tuple[str, str, str]]:
    """What `app.add_typer(group, name="…", rich_help_panel="…")` adds."""
    for one in source.body:
        match one:
            case ast.Expr(
                ast.Call(
                    ast.Attribute(ast.Name("app"), "add_typer"),
                    [ast.Name(group)],
                    [ast.keyword("name", ast.Constant(name)), ast.keyword("rich_help_panel", ast.Constant(panel))],
                )
            ):
                yield group, str(name), str(panel)


def _help(module: str, name: str) -> str | None:
    """The docstring of a function, or the help that a group is made with, there or where it is imported from."""
    source = ast.parse((_FOLDER.parent.parent / f"{module.replace('.', '/')}.py").read_text())
    for one in source.body:
        match one:
            case ast.FunctionDef(name=found) if found == name:
                return ast.get_docstring(one)
            case ast.Assign([ast.Name(found)], ast.Call(keywords=keywords)) if found == name:
                return next((str(ast.literal_eval(key.value)) for key in keywords if key.arg == "help"), None)
    again = (
        one for one in source.body if isinstance(one, ast.ImportFrom) and name in {each.name for each in one.names}
    )
    return next((_help(str(one.module), name) for one in again if one.module != module), None)
