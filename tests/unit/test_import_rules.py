"""Which way the imports point: the loop's stages import what stands before them, and third parties have one home."""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mlops_ray"

GROUND = {"errors", "use_case", "config", "artifacts", "code_version", "steps", "governance"}
# What each part may import of ours, beside itself.
TABLE: dict[str, set[str]] = {
    "errors": set(),
    "window_spec": {"errors"},
    "use_case": {"errors", "window_spec"},
    "config": {"errors"},
    "artifacts": set(),
    "code_version": set(),
    "steps": set(),
    "governance": {"config", "errors"},
    "sketches": {"errors"},
    "ingestion": GROUND,
    "features": GROUND | {"ingestion"},
    "training": GROUND | {"features"},
    "evaluation": GROUND | {"features", "training"},
    "declarations": {"artifacts", "use_case"},
    "registry": GROUND | {"training", "evaluation", "predictions"},
    "predictions": GROUND,
    # The endpoint starts its drift actor, and takes the labels.
    "serving": GROUND | {"features", "registry", "predictions", "monitoring"},
    "monitoring": GROUND | {"sketches", "window_spec", "predictions", "registry"},
    "client": {"errors"},
    "scoring": GROUND | {"governance", "ingestion", "features", "registry", "predictions"},
    "label_import": GROUND | {"ingestion", "predictions", "registry"},
    "admission": GROUND | {"features", "evaluation", "registry"},
    "sealing": GROUND | {"features", "training", "evaluation", "registry", "monitoring"},
    "pipeline": GROUND | {"ingestion", "features", "training", "registry", "admission", "declarations", "sealing"},
    "reproduction": GROUND | {"ingestion", "registry", "training", "declarations", "pipeline"},
    "retraining": GROUND
    | {
        "window_spec",
        "sketches",
        "features",
        "training",
        "evaluation",
        "registry",
        "predictions",
        "monitoring",
        "admission",
        "pipeline",
        "serving",
        "client",
    },
    "local_ray": {"config", "serving"},
    "progress": {"steps", "training"},
    "summary": {"config", "steps"},
    "cli": GROUND
    | {
        "ingestion",
        "pipeline",
        "progress",
        "summary",
        "serving",
        "scoring",
        "client",
        "cli_governance",
        "cli_rollout",
        "cli_approvals",
        "cli_monitoring",
        "cli_notify",
        "cli_registry",
        "cli_retraining",
        "local_ray",
        "retraining",
        "reproduction",
    },
    "cli_approvals": {"errors", "governance", "cli_governance", "cli_rollout"},
    "cli_monitoring": {"artifacts", "errors", "governance", "cli_governance", "label_import", "monitoring"},
    "cli_notify": {"governance", "cli_governance"},
    "cli_registry": {"errors", "governance", "registry", "cli_governance", "reproduction"},
    "cli_retraining": {
        "config",
        "errors",
        "use_case",
        "window_spec",
        "local_ray",
        "client",
        "cli_rollout",
        "retraining",
    },
    "cli_rollout": {"config", "errors", "governance"},
    "cli_governance": {"config", "errors", "governance"},
    "testing": GROUND | {"training", "registry", "predictions", "serving", "sketches", "monitoring", "window_spec"},
    "__init__": {"use_case", "predictions", "scoring"},
}
HOMES = {
    "feast": ("mlops_ray/features/store.py", "feature_repo/"),
    "mlflow": ("mlops_ray/training/tracking.py", "mlops_ray/registry/models.py"),
    "ray.tune": ("mlops_ray/training/search.py",),
    "ray.serve": ("mlops_ray/serving/",),
    "optuna": ("mlops_ray/training/",),
    "onnxruntime": ("mlops_ray/registry/onnx_model.py", "mlops_ray/testing/"),
    "sqlalchemy": ("mlops_ray/governance/",),
    "alembic": ("mlops_ray/governance/",),
    "cyclonedx": ("mlops_ray/registry/bill_of_materials.py",),
    "openlineage": ("mlops_ray/registry/open_lineage.py",),
    "cvss": ("mlops_ray/registry/advisories.py",),
    "datasketches": ("mlops_ray/sketches.py",),
    "river": ("mlops_ray/monitoring/detectors/",),
    "typer": ("mlops_ray/cli.py", "mlops_ray/cli_"),
    "apprise": ("mlops_ray/governance/channels.py",),
}
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "feature_repo").rglob("*.py")])


def imported(file: Path) -> Iterator[str]:
    """Every module that the file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(module: str) -> str:
    return module.split(".")[1]


def test_the_table_has_no_cycle_and_every_part_of_the_package() -> None:
    order: list[str] = []
    while len(order) < len(TABLE):
        ready = [part for part, needs in TABLE.items() if part not in order and needs <= set(order)]
        assert ready, f"a cycle among {sorted(set(TABLE) - set(order))}"
        order += ready
    found = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert found == set(TABLE)


@pytest.mark.parametrize("file", [file for file in FILES if PACKAGE in file.parents], ids=lambda file: file.stem)
def test_a_part_imports_only_what_the_table_allows(file: Path) -> None:
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    ours = {part_of(module) for module in imported(file) if module.startswith("mlops_ray.")}
    names = {name for name in ours if name in TABLE}
    assert names - {part} <= TABLE[part]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_third_party_is_imported_only_at_home(file: Path) -> None:
    path = str(file.relative_to(ROOT))
    for module in imported(file):
        for name, homes in HOMES.items():
            if module == name or module.startswith(f"{name}."):
                assert path.startswith(homes), f"{path} imports {module}"


def test_no_ray_process_builds_a_grammar_when_it_starts() -> None:
    """`import ray` imports jsonschema, which imports this package if it is there, for a second of a core."""
    assert find_spec("rfc3987_syntax") is None
