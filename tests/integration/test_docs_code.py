"""What README and docs tell a reader to type is there: commands with their options, files, make targets, Python names.

A block says what it is. `bash`: each command is parsed by the command line's own parser. `console`: lines with `$` are
commands and the others output. `python`: compiled, its imports carried out, and every call of a name of ours held
against its signature. `json` and `yaml` are read. `text` and `sql` are output, or for another program.
"""

import ast
import importlib
import inspect
import json
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

import mlops_ray
import mlops_ray.client
import mlops_ray.training.candidates
import mlops_ray.use_case
from mlops_ray.cli.main import app

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^( *)```(\S*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_OURS = (mlops_ray, mlops_ray.use_case, mlops_ray.client, mlops_ray.training.candidates)
_COMMAND = typer.main.get_command(app)


class Block(NamedTuple):
    """line: where it stands in the file."""

    file: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for file in FILES:
        text = file.read_text()
        for one in _BLOCK.finditer(text):
            block = Block(file, text[: one.start()].count("\n") + 1, one[2], textwrap.dedent(one[3]))
            found += [block] if not languages or block.language in languages else []
    return found


def of(*languages: str) -> Any:
    return pytest.mark.parametrize("block", blocks(*languages), ids=str)


def test_every_block_says_what_it_is() -> None:
    known = {"bash", "console", "text", "python", "json", "yaml", "sql"}
    assert {str(one): one.language for one in blocks() if one.language not in known} == {}


def lines_of_commands() -> Iterator[tuple[str, str, bool]]:
    """Every command of ours, with where it stands, and whether that is in a sentence, in which what goes without saying
    may be left out."""
    for file in FILES:
        for number, line in enumerate(file.read_text().replace("\\\n", " ").splitlines(), 1):
            place = f"{file.relative_to(ROOT)}, about line {number}"
            if typed := re.match(r"(?:    |\$ )?(?:\.venv/bin/)?(mlops-ray .*)", line):
                yield place, typed[1], False
            for span in re.findall(r"`(mlops-ray [^`]+)`", line):
                yield place, span, True


def words_of(typed: str) -> tuple[list[str], bool]:
    """The words behind `mlops-ray`, and whether the line leaves some out."""
    command = re.split(r"\s#|\s{3,}|\s[|>]|&&|;", typed)[0]
    words = shlex.split(re.sub(r"\[([^\]]*)\]", r"\1", command))[1:]
    kept = [word for word in words if word.strip(".,") != "…"]
    return kept, "…" in command


def refusal(words: list[str], leaves_out: bool) -> str | None:
    """Why the command line would not take them."""
    command, path = _COMMAND, ["mlops-ray"]
    while hasattr(command, "commands"):
        options = {option for one in command.params for option in one.opts} | {"--help"}
        if not words or words[0] in options:
            return None
        named = re.split(r"[|,]", words.pop(0))  # `alarms list|show` names two
        if missing := [one for one in named if one and one not in command.commands]:
            return f"there is no {' '.join([*path, missing[0]])}"
        if len(named) > 1:
            return None
        command = command.commands[named[0]]
        path.append(named[0])
    try:
        command.make_context(" ".join(path), words)
    except Exception as error:  # Typer has a copy of click of its own, so that its classes are told by their names
        kind = type(error).__name__
        of_this_machine = kind == "Exit" or (kind == "BadParameter" and "does not exist" in str(error))
        left_out = leaves_out and kind in ("MissingParameter", "BadOptionUsage")
        return None if of_this_machine or left_out else f"{kind}: {error}"
    return None


def test_every_command_that_is_named_is_one() -> None:
    refused = []
    for place, typed, in_a_sentence in lines_of_commands():
        words, leaves_out = words_of(typed)
        if (why := refusal(words, leaves_out or in_a_sentence)) is not None:
            refused.append(f"{place}: {typed.strip()}: {why}")
    assert refused == [], "\n".join(refused)


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("mlops-ray rollout begin flights 2", "there is no mlops-ray rollout begin"),
        ("mlops-ray rollout start flights 2 --percent 5", "NoSuchOption: No such option: --percent"),
        ("mlops-ray rollout start flights", "Missing parameter: version"),
        ("mlops-ray rollout start flights 2 3", "unexpected extra argument"),
        ("mlops-ray rollout status|begin flights", "there is no mlops-ray rollout begin"),
    ],
)
def test_what_is_no_command_is_found(typed: str, why: str) -> None:
    assert why in str(refusal(*words_of(typed)))


@of("bash")
def test_a_shell_block_is_a_script(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in block.text.splitlines():
        if made := re.match(r"make ([a-z-]+)", line):
            assert made[1] in targets
        for file in re.findall(r"(?<![\w/.])((?:jobs|serve_configs|deploy)/[\w./-]+)", line):
            assert (ROOT / file).exists(), file


def value_of(node: ast.expr, known: dict[str, Any]) -> Any:
    """What a name stands for, or an attribute of a module or class of ours; None where that cannot be told."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = value_of(node.value, known)
        home = owner.__name__ if inspect.ismodule(owner) else owner.__module__ if inspect.isclass(owner) else ""
        return getattr(owner, node.attr) if home.startswith("mlops_ray") else None
    return None


@of("python")
def test_a_python_block_calls_what_there_is(block: Block) -> None:
    tree = ast.parse(block.text.replace("…", "..."))
    known = {name: getattr(module, name) for module in _OURS for name in module.__all__} | {"mlops_ray": mlops_ray}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            module = importlib.import_module(node.module)
            known |= {one.asname or one.name: getattr(module, one.name) for one in node.names}
    for node in ast.walk(tree):
        function = value_of(node.func, known) if isinstance(node, ast.Call) else None
        if function is None or not str(getattr(function, "__module__", "")).startswith("mlops_ray"):
            continue
        taken = inspect.signature(function).parameters
        if not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
            wrong = [one.arg for one in node.keywords if one.arg is not None and one.arg not in taken]  # type: ignore[attr-defined]
            assert wrong == [], f"{function.__name__} has no {wrong}; it has {list(taken)}"


@of("json", "yaml")
def test_a_block_of_data_can_be_read(block: Block) -> None:
    (json.loads if block.language == "json" else yaml.safe_load)(block.text.replace("…", "0"))
