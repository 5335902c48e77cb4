"""The notebooks of the docs, run as a newcomer would: each cell ends, shows what it says, and nothing of Ray's."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "docs" / "notebooks"
NAMES = ("1_first_model", "2_own_data", "3_drift_and_retraining")
RAYS_OWN = ("(pid=", "INFO ", "WARNING", "Warning:", "ipywidgets", "log_monitor")


@pytest.mark.timeout(600)
def test_notebooks_run_in_order_and_show_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "docs" / "notebooks"
    shutil.copytree(NOTEBOOKS, folder)
    for name in ("use_cases", "feature_repo"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for variable in ("MLOPS_RAY_STATE", "MLOPS_RAY_SETTINGS", "MLOPS_RAY_DATA", "MLOPS_RAY_URL", "RAY_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    shown = {name: _run(folder, name) for name in NAMES}
    first, own, drift = shown.values()
    assert "starting one on this machine" in first
    for what in ("flights: leaderboard", "calibration:", "confusion:", "What flights@1 was made from", "key.carrier"):
        assert what in first
    assert "returns: leaderboard" in own
    assert "data frame beside data frame" in drift
    assert "flights: monitoring" in drift
    assert "unchanged, reused" in drift
    assert "Version 2 is champion since" in drift


def test_notebooks_are_kept_without_outputs() -> None:
    for name in NAMES:
        cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells
        assert all(not cell.outputs and cell.execution_count is None for cell in cells if cell.cell_type == "code")


def _run(folder: Path, name: str) -> str:
    """All that its cells show. Raises nbclient's error, with the traceback, where one fails."""
    notebook = nbformat.read(folder / f"{name}.ipynb", 4)
    NotebookClient(notebook, timeout=150, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert not [line for line in said.splitlines() if any(sign in line for sign in RAYS_OWN)], said
    return said + "".join(map(_data, outputs))


def _data(output: Any) -> str:
    return "".join(map(str, output.get("data", {}).values()))
