"""The list of commands, read from their sources, is the list that importing them all gives, and comes at once."""

import subprocess
import sys

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


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = "import sys; sys.argv = ['mlops-ray', '--help']; from mlops_ray.cli.entry import main\n"
    code += "try: main()\nexcept SystemExit: pass\nprint(*sorted(m for m in sys.modules if m.startswith('mlops_ray')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "mlops_ray mlops_ray.cli mlops_ray.cli.entry"
