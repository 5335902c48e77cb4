"""Chaos tests take hours and run seldom: that what they start can be imported at all is seen each time."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_what_chaos_tests_start_can_be_imported_from_the_root() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    modules = [f"tests.chaos.{file.stem}" for file in sorted(ROOT.glob("tests/chaos/[a-z]*.py"))]
    assert len(modules) > 20
    code = f"from importlib import import_module\nfor module in {modules}: import_module(module)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
