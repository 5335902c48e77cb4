"""The list of commands, read from their sources, is the list that importing them all gives, and comes at once."""

import os
import re
import subprocess
import sys

import pytest

START = "import sys; sys.argv = ['mlops-ray', *sys.argv[1:]]; from mlops_ray.cli.{} import main; main()"


def test_the_list_of_commands_is_the_same_without_importing_them() -> None:
    def said(module: str, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", START.format(module), *arguments], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    code, listed = said("entry", "--help")
    assert (code, listed) == said("main", "--help")
    assert "doctor" in listed
    assert said("entry")[1] == listed
    assert said("entry", "drift", "--help") == said("main", "drift", "--help")


def test_the_list_of_commands_has_them_in_panels() -> None:
    done = subprocess.run([sys.executable, "-c", START.format("entry"), "--help"], capture_output=True, text=True)
    panels = re.findall(r"^╭─ ([\w ]+?) ─", done.stdout, re.MULTILINE)
    assert panels[1:] == [
        "Begin", "From data to a model", "Serve and ask", "Govern", "Watch and retrain", "Operate"
    ]  # fmt: skip


@pytest.mark.parametrize(("words", "offered"), [("mlops-ray ver", "versions"), ("mlops-ray versions exp", "export")])
def test_a_shell_completes_commands(words: str, offered: str) -> None:
    asks = {"_MLOPS_RAY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = START.format("entry")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | asks)
    assert done.stdout.split() == [offered], done.stderr
    named = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # there may be no shell above a test
    command = [sys.executable, "-c", code, "--show-completion", "bash"]
    shows = subprocess.run(command, capture_output=True, text=True, env=named)
    assert "_MLOPS_RAY_COMPLETE=complete_bash" in shows.stdout


@pytest.mark.parametrize("asks", [{}, {"_MLOPS_RAY_COMPLETE": "complete_bash", "COMP_WORDS": "mlops-ray ve"}])
def test_the_list_of_commands_imports_none_of_them(asks: dict[str, str]) -> None:
    code = "import sys; sys.argv = ['mlops-ray', '--help']; from mlops_ray.cli.entry import main\n"
    code += "try: main()\nexcept SystemExit: pass\nprint(*sorted(m for m in sys.modules if m.startswith('mlops_ray')))"
    asks = asks | {"COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | asks
    )
    assert done.stdout.splitlines()[-1] == "mlops_ray mlops_ray.cli mlops_ray.cli.entry"
