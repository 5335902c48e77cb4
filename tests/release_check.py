"""What a release must do, tried as a newcomer would: `make release-check`, by hand, before a version is tagged.

Builds the wheel, looks what is in it, installs it with the extra `all` into an empty environment outside the
repository, and there goes from a CSV that nobody has described to an answer over HTTP, for a label of each kind. Then
the same models are served from an environment with the extra `serve` alone, and have to give the same answers. It takes
some 10 minutes and a few GB, and pip's network.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.dirty_files import DIRTY_FILES, DirtyFile
from tests.wheel import ROOT, build_wheel, packaged_files

ROWS, PORT, READY_S = 20_000, "18931", 120.0
MOST_S = 600.0  # from a file to an answer
NOT_SERVING = ("torch", "sklearn", "flask", "lightgbm", "optuna", "skl2onnx", "river")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mlops-ray-release-") as scratch:
        folder = Path(scratch)
        wheel = build_wheel(folder)
        expect_content(wheel)
        say(f"{wheel.name} has {len(packaged_files())} files")
        everything = new_environment(folder / "all", wheel, "all")
        asked = {one.name: answer_from_a_file(one, everything, folder) for one in DIRTY_FILES}
        serving = new_environment(folder / "serve", wheel, "serve")
        expect_missing(serving, NOT_SERVING)
        for name, (request, answered) in asked.items():
            with served(serving, folder / name, name):
                key = (folder / name / "state" / "development_key").read_text().strip()
                (found,) = post(name, request, key)["predictions"]
            assert found == {what: answered[what] for what in found}, (found, answered)
        say("the environment that only serves answers the same")


def answer_from_a_file(one: DirtyFile, commands: Path, folder: Path) -> tuple[Any, dict[str, Any]]:
    """From a file to an answer over HTTP, with two commands and no line edited: the request, and what was answered."""
    one.write(folder / f"{one.name}.csv", ROWS)
    begun_s = time.monotonic()
    told(commands, folder, "init", one.name, "--data", f"{one.name}.csv", "--label", one.label, "--time", one.time)
    assert one.kind in (folder / one.name / "use_cases" / f"{one.name}.py").read_text()
    told(commands, folder / one.name, "run", one.name, "--serve", "--port", PORT)
    took_s = time.monotonic() - begun_s
    found = json.loads((folder / one.name / "state" / "summary.json").read_text())["prediction"]
    (answered,) = found["answer"]["predictions"]
    assert one.answer in answered, answered
    assert took_s < MOST_S, f"{one.name} took {took_s:.0f} s"
    say(f"{one.name}: answered over HTTP after {took_s:.0f} s: {answered}")
    return found["request"], answered


def expect_content(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == packaged_files(), sorted(held ^ packaged_files())


def new_environment(folder: Path, wheel: Path, extra: str) -> Path:
    """An empty environment with the wheel and an extra, in the versions that are tested; its folder of commands."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = (str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check")
    subprocess.run([*install, "-c", str(ROOT / "requirements.lock"), f"{wheel}[{extra}]"], check=True)
    subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "check"], check=True, stdout=subprocess.DEVNULL)
    say(f"mlops_ray[{extra}] is installed")
    return folder / "bin"


def expect_missing(commands: Path, modules: tuple[str, ...]) -> None:
    code = f"from importlib.util import find_spec; print(*(one for one in {modules} if find_spec(one)))"
    done = subprocess.run([str(commands / "python"), "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split(), f"What only serves has {done.stdout}"


def told(commands: Path, folder: Path, *arguments: str) -> None:
    begun_s = time.monotonic()
    subprocess.run([str(commands / "mlops-ray"), *arguments], cwd=folder, env=environment(), check=True)
    say(f"mlops-ray {arguments[0]} took {time.monotonic() - begun_s:.0f} s")


@contextmanager
def served(commands: Path, project: Path, name: str) -> Iterator[None]:
    command = [str(commands / "mlops-ray"), "serve", name, "--port", PORT]
    process = subprocess.Popen(command, cwd=project, env=environment())
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def post(name: str, request: Any, key: str) -> Any:
    """The answer, once there is one."""
    url = f"http://127.0.0.1:{PORT}/v2/models/{name}/predict"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    asked = urllib.request.Request(url, json.dumps(request).encode(), headers)
    deadline_s = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(asked, timeout=15) as response:
                return json.load(response)
        except (urllib.error.URLError, ConnectionError) as error:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{url} did not answer within {READY_S:g} s: {error}") from error
            time.sleep(1)


def environment() -> dict[str, str]:
    """Without what would let this repository be found in place of the wheel."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_RAY_", "PYTHONPATH"))}


def say(sentence: str) -> None:
    print(f"release check: {sentence}", flush=True)


if __name__ == "__main__":
    main()
