"""`mlops-ray init`: a project from files that nobody has described."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.errors import ConfigurationError, MlopsRayError, UseCaseError
from mlops_ray.exploration.raw_sample import accepted_rows
from mlops_ray.ingestion.sources import find_files
from mlops_ray.use_case import UseCase, load_use_case
from tests.dirty_files import DIRTY_FILES, DirtyFile

ROWS = 2_000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_customers(file: Path, label: tuple[str, str] = ("yes", "no"), rows: int = ROWS) -> None:
    """A file as they come: another separator, decimal commas, German dates, blanks, a column known afterwards."""
    random = np.random.default_rng(0)
    lines = ["customer id;signed up;plan;spend;email;last login;reason;churned;note"]
    for number in range(rows):
        day = date(2024, 1, 1) + timedelta(days=int(random.integers(0, 400)))
        plan = str(random.choice(["basic", "plus", " pro", ""]))
        left = random.random() < (0.4 if plan == "basic" else 0.15)
        spend = f"{random.gamma(2, 20):.2f}".replace(".", ",") if random.random() > 0.1 else "NA"
        before = day - timedelta(days=int(random.integers(0, 30)))
        reason = "price" if left else ""
        cells = [
            f"C{number:05}",
            f"{day:%d.%m.%Y}",
            plan,
            spend,
            f"p{number}@example.org",
            f"{before:%d.%m.%Y}",
            reason,
        ]
        lines.append(";".join([*cells, label[0] if left else label[1], f"free text {number}"]))
    file.write_text("\n".join(lines) + "\n")


def init(*arguments: str) -> str:
    """What the command tells; raises what it raises."""
    found = CliRunner().invoke(app, ["init", *arguments], catch_exceptions=True)
    if isinstance(found.exception, MlopsRayError):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


def drafted(*more: str) -> UseCase:
    write_customers(Path("customers.csv"))
    init("churn", "--data", "customers.csv", "--label", "churned", "--time", "signed up", *more)
    return load_use_case("churn/use_cases/churn.py")


def test_a_dirty_file_becomes_a_use_case_that_can_be_declared() -> None:
    case = drafted("--owner", "sales@example.org")
    assert (case.entities, case.event_time, case.owner) == (("customer id",), "signed up", "sales@example.org")
    assert set(case.features_of_request()) == {"plan", "spend", "days_since_last login", "signed up_weekday"}


@pytest.mark.parametrize("one", DIRTY_FILES, ids=lambda one: one.name)
def test_every_dirty_file_becomes_a_use_case_that_keeps_all_its_rows(one: DirtyFile) -> None:
    one.write(Path("rows.csv"), ROWS)
    told = init(one.name, "--data", "rows.csv", "--label", one.label, "--time", one.time)
    assert told.startswith(f"Looking at rows.csv …\n{ROWS:,} rows")
    case = load_use_case(f"{one.name}/use_cases/{one.name}.py")
    assert type(case.label.task).__name__ == (one.kind or "Binary")
    (file,) = find_files(str(Path.cwd()), "rows", case.sources["rows"])
    assert accepted_rows([file], case.sources["rows"], ROWS).height == ROWS


def test_of_columns_with_a_value_for_each_row_the_identifier_says_what_a_prediction_is_about() -> None:
    """There are too many of them to count here, and each customer has a note of its own, too."""
    write_customers(Path("customers.csv"), rows=20_000)
    init("churn", "--data", "customers.csv", "--label", "churned", "--time", "signed up")
    assert load_use_case("churn/use_cases/churn.py").entities == ("customer id",)


def test_a_column_that_is_known_afterwards_is_no_feature_and_said_so() -> None:
    case = drafted()
    assert {column.name for column in case.sources["rows"].columns if column.outcome} == {"reason", "churned"}
    assert "# reason is no feature: " in Path("churn/use_cases/churn.py").read_text()


def test_what_tells_of_a_person_and_is_not_needed_is_not_read() -> None:
    assert "email" not in {column.name for column in drafted().sources["rows"].columns}


def test_the_last_stretch_tests_and_labels_that_come_late_are_waited_for() -> None:
    split = drafted("--known-after", "30d").split
    assert (split.gap, split.test) == (timedelta(days=30), timedelta(days=109))


def test_the_rarer_of_two_words_is_predicted_and_to_be_checked() -> None:
    write_customers(Path("customers.csv"), ("gone", "here"))
    told = init("churn", "--data", "customers.csv", "--label", "churned", "--time", "signed up")
    assert "to check: Of 'here' and 'gone' the rarer one is predicted: is it 'gone'?" in told
    assert 'pl.col("churned") == "gone"' in Path("churn/use_cases/churn.py").read_text()


def test_a_project_has_what_it_needs_and_feasts_file_as_ours_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_ray.ingestion.file_digests._GRANULARITY_S", -3600.0)  # digests of raw files are kept
    drafted()
    written = {str(file.relative_to("churn")) for file in Path("churn").rglob("*") if file.is_file()}
    assert written == {
        "use_cases/churn.py", "tests/test_churn.py", "settings.yaml", "feature_repo/feature_store.yaml",
        "serve_configs/local.yaml", ".github/workflows/checks.yml", ".gitlab-ci.yml", ".gitignore", "README.md",
        "standards.yaml", ".pre-commit-config.yaml", ".mlops_ray.json",
    }  # fmt: skip
    ours = Path(__file__).parents[2] / "feature_repo" / "feature_store.yaml"
    assert Path("churn/feature_repo/feature_store.yaml").read_text() == ours.read_text()


def test_names_that_are_taken_become_others_or_are_said_to_be() -> None:
    """`version` is of answers; a column is called as what is made of the moment, and one as the time since another."""
    lines = ["id,at,version,at_weekday,before,days_since_before,label"]
    for n in range(900):
        at, before = date(2024, 1, 1) + timedelta(days=n % 300), date(2023, 1, 1) + timedelta(days=n % 99)
        lines.append(f"{n},{at}T00:00:00Z,{n % 5},{n % 3},{before}T00:00:00Z,{n % 4},{int(n % 5 == n % 2)}")
    Path("rows.csv").write_text("\n".join(lines))
    told = init("odd", "--data", "rows.csv", "--label", "label", "--time", "at")
    assert "left out: version (answers have that name themselves: rename the column to use it)" in told
    features = load_use_case("odd/use_cases/odd.py").features_of_request()
    assert set(features) == {"at_weekday", "at_weekday_", "days_since_before", "days_since_before_"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--label", "churnd", "--time", "signed up"), "--label 'churnd' is no column of the files. Did you mean"),
        (("--label", "churned", "--time", "plan"), "which is no moment. Columns with moments: signed up, last login"),
        (("--label", "plan", "--time", "signed up", "--task", "binary"), "has 3 different values"),
        (("--label", "plan", "--time", "signed up", "--task", "regression"), "which is no number"),
        (("--label", "note", "--time", "signed up"), "a model tells at most 50 classes apart"),
        (("--label", "churned", "--time", "signed up", "--task", "multiclass"), "several classes are three or more"),
        (("--label", "churned", "--time", "signed up", "--positive", "maybe"), "--positive 'maybe' is no value"),
        (("--label", "churned", "--time", "signed up", "--known-after", "400d"), "too little is left to train on"),
        (("--label", "churned"), "Say which column it is: --time COLUMN. Likely: signed up, last login."),
    ],
)
def test_an_answer_that_does_not_fit_says_what_would_and_leaves_nothing(arguments: tuple[str, ...], said: str) -> None:
    write_customers(Path("customers.csv"))
    with pytest.raises(ConfigurationError, match=said):
        init("churn", "--data", "customers.csv", *arguments)
    assert not Path("churn").exists()


def test_a_folder_with_files_is_refused_before_anything_is_read() -> None:
    Path("churn").mkdir()
    Path("churn/mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="churn is not empty"):  # and not that there is no such file
        init("churn", "--data", "nothing.csv", "--label", "churned", "--time", "signed up")


def test_a_name_that_is_a_path_is_refused_before_anything_is_read() -> None:
    with pytest.raises(UseCaseError, match="Use case name"):
        init("../churn", "--data", "customers.csv")


def test_a_folder_with_files_is_left_alone() -> None:
    drafted()
    Path("churn/use_cases/churn.py").write_text("mine")
    with pytest.raises(ConfigurationError, match="churn is not empty"):
        init("churn", "--data", "customers.csv", "--label", "churned", "--time", "signed up")
    assert Path("churn/use_cases/churn.py").read_text() == "mine"


def test_hostile_names_of_columns_stay_texts() -> None:
    """Nothing of a file becomes code."""
    hostile = 'x"); __import__("os").system("touch pwned"); ("'
    lines = [f'id,at,"{hostile.replace(chr(34), chr(34) * 2)}",y']
    lines += [f"{n},2024-01-{1 + n % 28:02}T00:00:00Z,{n % 7},{int(n % 3 == 0)}" for n in range(500)]
    Path("rows.csv").write_text("\n".join(lines))
    init("odd", "--data", "rows.csv", "--label", "y", "--time", "at")
    assert hostile in load_use_case("odd/use_cases/odd.py").features_of_request()
    assert not Path("pwned").exists()
