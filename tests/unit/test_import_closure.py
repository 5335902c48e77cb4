"""What code a step depends on: what it reaches, and no more; libraries where they are imported."""

import ast
import os
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from mlops_ray import import_closure, statements
from mlops_ray.import_closure import code_digest, our_code
from mlops_ray.pipeline.fingerprint import canonical
from mlops_ray.pipeline.pipeline import PIPELINE
from mlops_ray.pipeline.steps.step import StepName
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression, NeuralNetwork


def modules(step: StepName) -> set[str]:
    run = PIPELINE[step].run
    return {name.removeprefix("mlops_ray.") for name in our_code(run.__module__, run.__name__).texts}


def libraries(step: StepName) -> set[str]:
    run = PIPELINE[step].run
    return set(our_code(run.__module__, run.__name__).libraries)


def test_a_step_depends_on_the_modules_that_do_its_work() -> None:
    assert {"ingestion.ingest", "ingestion.contract", "ingestion.sources", "artifacts"} <= modules("ingest")
    assert {"features.transform", "ingestion.snapshot"} <= modules("features")
    assert {"features.training_set", "features.history", "features.point_in_time"} <= modules("training_set")
    assert {"training.search", "training.worker", "training.encoding", "training.proposal"} <= modules("train")
    assert {"pipeline.sealing", "training.fit", "evaluation.metrics", "registry.sealed_model"} <= modules("evaluate")
    assert {"pipeline.admission", "evaluation.gates", "registry.models", "governance.live"} <= modules("register")
    assert {"features.online.materialize", "features.store"} <= modules("materialize")


@pytest.mark.parametrize("step", PIPELINE)
def test_a_step_does_not_depend_on_what_others_do(step: StepName) -> None:
    others = {"pipeline.admission"} if step != "register" else {"training.search"}
    others |= {"training.search"} if step not in ("train",) else {"features.online.materialize"}
    others |= {"cli.run", "serving.app", "serving.endpoint_replica", "pipeline.pipeline", "console"}
    assert not others & modules(step)


def test_libraries_count_where_they_are_imported() -> None:
    assert {"numpy", "optuna", "ray", "mlflow"} <= libraries("train")
    assert {"onnxruntime", "numpy", "scikit-learn"} <= libraries("evaluate")
    assert {"polars", "pyarrow", "ray"} <= libraries("ingest")
    assert "feast" in libraries("materialize")
    for step in PIPELINE:
        assert "python" in libraries(step)
        assert "skl2onnx" not in libraries(step)
    assert not {"optuna", "onnxruntime", "feast"} & libraries("ingest")


def test_a_candidate_brings_its_own_libraries() -> None:
    assert "'scipy'" in str(canonical(LogisticRegression()))
    assert "'torch'" in str(canonical(NeuralNetwork()))
    assert "'torch'" not in str(canonical(GradientBoosting()))


@pytest.mark.parametrize(("library", "step"), [("numpy", "train"), ("optuna", "train"), ("onnxruntime", "evaluate")])
def test_another_version_of_a_library_is_another_step(
    library: str, step: StepName, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = PIPELINE[step].run, import_closure.version
    fresh = our_code.__wrapped__
    before = fresh(run.__module__, run.__name__)
    monkeypatch.setattr(import_closure, "version", lambda name: "99" if name == library else real(name))
    assert fresh(run.__module__, run.__name__) != before


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package in the place of ours."""
    folder = tmp_path / "mlops_ray"
    folder.mkdir()
    (folder / "__init__.py").write_text("from mlops_ray.parts import used, unused\n")
    (folder / "parts.py").write_text(
        "import json\nimport numpy as np\nLIMIT = 3\ndef used(x):\n    return helper(x) + LIMIT\n"
        "def helper(x):\n    return x\ndef unused(x):\n    import pandas\n    return np.sum(x)\n"
    )
    (folder / "run.py").write_text("from mlops_ray import used\ndef run(x):\n    return used(x)\n")
    monkeypatch.setattr(import_closure, "_PACKAGE", folder)
    yield folder
    forget()


def forget() -> None:
    import_closure._file_of.cache_clear()
    import_closure._module.cache_clear()
    import_closure._statements.cache_clear()


def digest(package: Path) -> str:
    forget()
    return str(our_code.__wrapped__("mlops_ray.run", "run"))


def edited(package: Path, old: str, new: str) -> str:
    file = package / "parts.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return digest(package)


@pytest.mark.parametrize("old", ["return helper(x)", "    return x\n", "LIMIT = 3"])
def test_an_edit_of_what_is_reached_is_another_code(package: Path, old: str) -> None:
    before = digest(package)
    assert edited(package, old, old.replace("x", "x * 2", 1).replace("3", "4")) != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return np.sum(x)", "return np.mean(x)"),
        ("def used(x):\n", "def used(x):  # a comment\n\n"),
        ("import json\n", "import json\nimport scipy\n"),
    ],
)
def test_an_edit_of_what_is_not_reached_is_the_same_code(package: Path, old: str, new: str) -> None:
    before = digest(package)
    assert edited(package, old, new) == before


def test_what_was_found_of_a_file_counts_for_its_bytes_alone(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    before, file = digest(package), package / "parts.py"
    (kept,) = package.glob("__pycache__/*.json")
    monkeypatch.setattr(statements, "_found", lambda *_: pytest.fail("a file that is the same is parsed again"))
    assert digest(package) == before
    monkeypatch.undo()
    monkeypatch.setattr(import_closure, "_PACKAGE", package)
    times = file.stat()
    file.write_text(file.read_text().replace("LIMIT = 3", "LIMIT = 4"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digest(package) != before
    file.write_text(file.read_text().replace("LIMIT = 4", "LIMIT = 3"))
    for damaged in (b"", b"{", kept.read_bytes().replace(b'"by":"', b'"by":"0')):
        kept.write_bytes(damaged)
        assert digest(package) == before


def test_a_module_is_of_the_distributions_that_importlib_names() -> None:
    theirs = packages_distributions()
    assert {module: set(names) for module, names in theirs.items()} == {
        module: set(import_closure._names(module) or ()) for module in theirs
    }


def test_a_statement_that_binds_no_name_counts_with_its_module(package: Path) -> None:
    before = digest(package)
    assert edited(package, "LIMIT = 3", "LIMIT = 3\njson.encoder.FLOAT_REPR = str") != before


def test_what_is_reached_by_its_name_in_a_text_counts(package: Path) -> None:
    edited(package, "LIMIT = 3", "LIMIT = dict(type='mlops_ray.parts.unused')")
    before = digest(package)
    assert edited(package, "return np.sum(x)", "return np.mean(x)") != before


def test_what_is_only_for_types_does_not_count(package: Path) -> None:
    before = digest(package)
    text = (
        "import json\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mlops_ray.nothing import Nothing\n"
    )
    assert edited(package, "import json\n", text) == before


def test_the_digest_of_the_package_covers_every_file() -> None:
    folder = Path(import_closure.__file__).parent
    reached = set(our_code("mlops_ray").texts)
    for file in folder.rglob("*.py"):
        name = ".".join(("mlops_ray", *file.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        assert name in reached or not _has_code(file), name
    assert len(code_digest("mlops_ray")) == 64


def _has_code(file: Path) -> bool:
    without = ast.Expr | ast.Import | ast.ImportFrom
    return any(not isinstance(one, without) for one in ast.parse(file.read_text()).body)
