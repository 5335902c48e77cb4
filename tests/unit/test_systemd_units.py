"""What `deploy/systemd` starts again is started as the chaos tests start it, and systemd can read it."""

import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.chaos.hosts import RESTART_S
from tests.pipeline_run import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


def service_of(unit: Path) -> dict[str, str]:
    parser = ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text())
    return dict(parser["Service"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_node_is_started_again_and_nothing_of_it_is_left_behind(unit: Path) -> None:
    service = service_of(unit)
    assert "mlops-ray cluster node -- ray start --block " in service["ExecStart"]
    assert 'eval "$$(mlops-ray cluster serve-env)"' in service["ExecStart"]
    assert (service["Restart"], service["KillMode"], float(service["RestartSec"])) == (
        "always",
        "control-group",
        RESTART_S,
    )
    assert "StartLimitIntervalSec=0" in unit.read_text(), "it is never given up"


def test_the_head_takes_no_work_and_keeps_its_tables_in_redis() -> None:
    head = ROOT / "deploy" / "systemd" / "mlops-ray-head.service"
    assert "--num-cpus=0" in service_of(head)["ExecStart"]
    assert "RAY_REDIS_ADDRESS=" in head.read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_reads_each_unit(unit: Path) -> None:
    found = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
