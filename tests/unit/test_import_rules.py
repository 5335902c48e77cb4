"""Which way the imports point: the loop's stages import what stands before them, and third parties have one home."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mlops_ray"

GROUND = {"errors", "tasks", "use_case", "config", "state_folder", "artifacts", "governance"}
GROUND |= {"code_version", "giving_way", "import_closure", "statements", "user_files", "show", "frames", "quiet"}
GROUND |= {"extras"}
# What each part may import of ours, beside itself.
TABLE: dict[str, set[str]] = {
    "errors": set(),
    "extras": {"errors"},
    # What a stage does with a label depends on its kind, and what a kind is on no stage.
    "tasks": {"errors"},
    "quiet": set(),
    "use_case": {"errors", "tasks", "quiet"},
    # Whatever is drawn, in a page, a report or a notebook, is drawn here from plain values.
    "show": {"tasks"},
    "frames": {"errors"},
    "config": {"errors"},
    "state_folder": {"artifacts", "config", "errors"},
    "artifacts": {"conditional_put"},
    "conditional_put": set(),
    "giving_way": set(),
    "code_version": set(),
    "statements": set(),
    "import_closure": {"statements"},
    "user_files": {"errors", "import_closure"},
    # Webhooks are sent with the client's deadlines, and anchors to a second place of any kind.
    "governance": {"config", "state_folder", "errors", "client", "artifacts"},
    "client": {"errors"},
    # It asks as any other caller does, over HTTP.
    "assistant": {"client", "errors"},
    # What work used is measured in whatever does it.
    "cost": {"errors", "config", "artifacts", "state_folder", "governance", "show"},
    "ingestion": GROUND,
    "features": GROUND | {"ingestion"},
    # It reads raw files as ingestion does, and training sets.
    "exploration": GROUND | {"ingestion", "features"},
    "training": GROUND | {"features", "cost"},
    "evaluation": GROUND | {"features", "training"},
    "predictions": GROUND,
    "registry": GROUND | {"training", "evaluation", "predictions"},
    "monitoring": GROUND | {"cost", "predictions", "registry"},
    # Serving hands it its routes, and mounts it.
    "console": GROUND | {"catalogue", "cost", "ingestion", "exploration", "predictions", "registry", "monitoring"},
    # The endpoint judges requests as ingestion does rows, starts its drift actor, takes the labels, and asks for key
    # sets with the client's deadlines.
    "serving": GROUND
    | {"client", "ingestion", "features", "registry", "predictions", "monitoring", "catalogue", "console", "cost"},
    "scaffold": GROUND | {"exploration", "ingestion"},
    # What is asked of a use case is read from its declaration.
    "standards": GROUND,
    "batch": GROUND | {"ingestion", "features", "registry", "predictions"},
    # Sealing proves with the endpoint's own code that requests give what training computed, and so does the ledger of
    # what was answered.
    "pipeline": GROUND
    | {
        "cost",
        "ingestion",
        "exploration",
        "features",
        "training",
        "evaluation",
        "registry",
        "predictions",
        "monitoring",
        "serving",
    },
    "retraining": GROUND
    | {
        "cost",
        "features",
        "training",
        "evaluation",
        "registry",
        "predictions",
        "monitoring",
        "pipeline",
        "serving",
        "client",
    },
    # What is due is started as retrainings are, on a Ray that an endpoint may share; a backup says how far the ledger
    # goes, and is signed as models are.
    "operations": GROUND | {"cost", "monitoring", "retraining", "predictions", "registry", "serving"},
    # What one asks of a snapshot goes through all that was made from it.
    "catalogue": GROUND | {"ingestion", "exploration", "features", "predictions", "registry"},
    # A change is checked, run and held beside what is live.
    "review": GROUND | {"standards", "exploration", "evaluation", "registry", "pipeline"},
    "cli": GROUND
    | {
        "review",
        "assistant",
        "sdk",
        "scaffold",
        "standards",
        "operations",
        "catalogue",
        "cost",
        "client",
        "ingestion",
        "exploration",
        "features",
        "training",
        "registry",
        "predictions",
        "monitoring",
        "serving",
        "batch",
        "pipeline",
        "retraining",
    },
    # What a notebook uses: a server through its client, or what lies on this machine.
    "sdk": GROUND
    | {
        "client",
        "exploration",
        "features",
        "training",
        "evaluation",
        "registry",
        "predictions",
        "monitoring",
        "serving",
    }
    | {"batch", "pipeline", "operations", "ingestion", "cost"},
    "testing": GROUND | {"features", "training", "registry", "predictions", "monitoring", "pipeline", "serving"},
    "__init__": {"use_case", "batch", "pipeline", "sdk", "extras"},
}
HOMES = {
    "feast": ("mlops_ray/features/feast.py", "feature_repo/"),
    "mlflow": ("mlops_ray/training/tracking.py", "mlops_ray/registry/models.py"),
    "ray.tune": tuple(f"mlops_ray/training/{name}.py" for name in ("experiment", "asha", "trainable")),
    "ray.train": ("mlops_ray/training/candidates/network_workers.py",),
    "ray.serve": ("mlops_ray/serving/",),
    "optuna": ("mlops_ray/training/",),
    # The search, which stands before the registry, measures what a trial's model costs to serve.
    "onnxruntime": ("mlops_ray/registry/onnx_model.py", "mlops_ray/training/footprint.py", "mlops_ray/testing/"),
    "sqlalchemy": ("mlops_ray/governance/", "mlops_ray/ingestion/sql_table.py"),
    "alembic": ("mlops_ray/governance/",),
    "cyclonedx": ("mlops_ray/registry/bill_of_materials.py",),
    "openlineage": ("mlops_ray/registry/open_lineage.py",),
    "model_signing": ("mlops_ray/registry/model_signature.py",),
    "cvss": ("mlops_ray/registry/advisories.py",),
    "datasketches": ("mlops_ray/monitoring/sketches.py", "mlops_ray/exploration/sketches.py"),
    "river": ("mlops_ray/monitoring/detectors/",),
    "deltalake": (
        "mlops_ray/predictions/table.py",
        "mlops_ray/ingestion/delta_files.py",
        "mlops_ray/catalogue/export.py",
    ),
    "cronsim": ("mlops_ray/use_case/schedule.py",),
    "typer": ("mlops_ray/cli/",),
    "jinja2": ("mlops_ray/console/", "mlops_ray/scaffold/"),
    "mcp": ("mlops_ray/assistant/",),
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
    found = {
        path.stem if path.is_file() else path.name
        for path in PACKAGE.iterdir()
        if path.name not in ("__pycache__", "py.typed")
    }
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


@pytest.mark.parametrize("module", ["mlops_ray.pipeline.tasks", "mlops_ray.pipeline.steps.ingest"])
def test_what_works_on_a_step_imports_no_pandas(module: str) -> None:
    """It takes half a second of each process, and pyarrow.dataset brings it."""
    code = f"import sys, {module}; print(*sorted({{'pandas', 'pyarrow.dataset'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# By which a function of serving reaches storage, the registry or a name server.
WAIT = {"_settings", "_artifacts", "_channels", "_find"}


def test_the_threads_of_decisions_and_keys_wait_for_nothing_but_the_control_store() -> None:
    """Those of the event loop itself. What leads to storage, to a registry or to a name server has its own."""
    shared = 0
    for file in sorted((PACKAGE / "serving").glob("*.py")):
        tree = ast.parse(file.read_text())
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) != "asyncio.to_thread":
                assert not ast.unparse(call).startswith("asyncio.get_running_loop().run_in_executor(None"), file.name
                continue
            shared += 1
            reached = _reached(list(call.args), functions)
            assert not reached & WAIT, f"{file.name}:{call.lineno} reaches {sorted(reached & WAIT)}"
    assert shared > 20


def _reached(nodes: list[ast.expr], functions: dict[str, ast.FunctionDef]) -> set[str]:
    """Every name in some expressions, and in the functions of the same file that they name."""
    found: set[str] = set()
    todo: list[ast.AST] = list(nodes)
    while todo:
        for node in ast.walk(todo.pop()):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if name and name not in found:
                found.add(name)
                todo += [functions[name]] if name in functions else []
    return found
