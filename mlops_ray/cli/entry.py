"""The entry of the command. Its list of commands is read from the sources, as importing them all takes a second."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

_FOLDER = Path(__file__).parent


def main() -> None:
    """As `cli.main.main`; `mlops-ray --help` alone, and `mlops-ray`, are answered without importing the commands."""
    if sys.argv[1:] in ([], ["--help"]):
        _list()
        return
    from mlops_ray.cli.main import main as command

    command()


def _list() -> None:
    import typer

    source = ast.parse((_FOLDER / "main.py").read_text())
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=ast.get_docstring(source)
    )
    homes = {
        name.asname or name.name: (str(one.module), name.name)
        for one in source.body
        if isinstance(one, ast.ImportFrom)
        for name in one.names
    }
    for function in _commands(source):
        app.command(function.replace("_", "-"), help=_help(*homes[function]))(_nothing)
    for group, name in _groups(source):
        app.add_typer(typer.Typer(help=_help(*homes[group]), callback=_nothing), name=name)
    app(["--help"])


def _nothing() -> None: ...


def _commands(source: ast.Module) -> Iterator[str]:
    """The names in `for command in (…): app.command()(command)`."""
    for one in source.body:
        if isinstance(one, ast.For) and isinstance(one.iter, ast.Tuple):
            yield from (name.id for name in one.iter.elts if isinstance(name, ast.Name))


def _groups(source: ast.Module) -> Iterator[tuple[str, str]]:
    """What `app.add_typer(group, name="…")` adds."""
    for one in source.body:
        match one:
            case ast.Expr(
                ast.Call(
                    ast.Attribute(ast.Name("app"), "add_typer"),
                    [ast.Name(group)],
                    [ast.keyword("name", ast.Constant(str(name)))],
                )
            ):
                yield group, name


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
