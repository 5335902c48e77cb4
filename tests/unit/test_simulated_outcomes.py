"""What was simulated for hours is thrown away by a change of what decides it, and by no other."""

from pathlib import Path

import pytest

from benchmarks.drift import outcomes
from benchmarks.drift.outcomes import digest_of, reached_by

PROMISE = ("worlds", "endpoint", "months")


def test_what_decides_counts_and_pages_commands_and_storage_do_not() -> None:
    found = {module.removeprefix("mlops_ray.monitoring.") for module, _ in reached_by(PROMISE)}
    assert found >= {"observation", "labelling", "judging", "calibration", "windows", "stream_clock", "build_reference"}
    assert not {module for module in found if module.startswith(("show", "mlops_ray.cli", "mlops_ray.serving"))}
    assert found.isdisjoint({"drift_actor", "watcher", "watch_metrics", "window_history", "watch_state", "describe"})


def test_a_change_of_the_simulation_itself_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROMISE:
        (tmp_path / f"{name}.py").write_text((outcomes.HERE / f"{name}.py").read_text())
    before = digest_of(PROMISE)
    monkeypatch.setattr(outcomes, "HERE", tmp_path)
    assert digest_of(PROMISE) == before
    file = tmp_path / "worlds.py"
    file.write_text(file.read_text().replace("_MISSING = 0.05", "_MISSING = 0.06"))
    assert digest_of(PROMISE) != before
