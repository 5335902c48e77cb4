"""A contract in the Open Data Contract Standard says what a source says and comes back whole; what is lost is told."""

import json
from dataclasses import replace
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import jsonschema
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from mlops_ray import Column, Source
from mlops_ray.cli.main import app
from mlops_ray.errors import DataError
from mlops_ray.ingestion.open_data_contract import Contract, code_of, read_contract, write_contract
from mlops_ray.use_case.expectations import Expectations, NeverFalls, References, Unique

SOURCE = Source(
    path="orders/**/*.csv",
    columns=(
        Column("id", "integer", minimum=1, out_of_range="clip"),
        Column("at", "timestamp", format="%d/%m/%Y %H:%M", time_zone="Europe/Berlin", clock_change="latest"),
        Column("price", "number", nullable=True, maximum=1e6, decimal_comma=True, thousands="."),
        Column("state", "text", choices=("NA", "b"), replace=(("c", "b"),), closed=True),
        Column("mail", "text", nullable=True, pattern=r"[^@]+@\S+", personal="hash", null_texts=("-",)),
        Column("paid", "boolean", default=False, outcome=True),
    ),
    key=("at", "id"),
    delimiter=";",
    quote=None,
    encoding="cp1252",
    header=False,
    keep="last",
    keep_by="at",
    expects=Expectations(
        max_age=timedelta(hours=36),
        min_rows=10,
        max_change=0.5,
        max_quarantined=0.01,
        max_unreadable_files=2,
        checks=(Unique(("mail",)), NeverFalls("id", "at", ("state",)), References(("state",), "states", ("code",))),
    ),
)


def test_a_source_comes_back_whole() -> None:
    text, unsaid = write_contract("shop", {"orders": SOURCE, "plain": Source("*.csv", (Column("a", "text"),))})
    found = read_contract(text)
    assert found.sources["orders"] == SOURCE
    assert (unsaid, found.left_out) == ([], ())


def test_it_is_valid_by_the_schema_of_the_standard_and_says_in_its_words_what_it_has_words_for() -> None:
    text, _ = write_contract("shop", {"orders": SOURCE}, "shop@example.org", "Will it be paid?")
    contract = yaml.safe_load(text)
    jsonschema.validate(contract, json.loads((files("open_data_contract_standard") / "schema.json").read_text()))
    (orders,) = contract["schema"]
    columns = {one["name"]: one for one in orders["properties"]}
    assert columns["id"]["logicalTypeOptions"] == {"minimum": 1}
    assert (columns["id"]["primaryKeyPosition"], columns["price"]["required"]) == (2, False)
    assert [value["value"] for value in columns["state"]["enum"]] == ["NA", "b"]
    assert columns["mail"]["classification"] == "personal"
    assert contract["slaProperties"] == [{"property": "freshness", "value": 129600.0, "unit": "s", "element": "orders"}]


def test_what_the_standard_cannot_say_is_listed() -> None:
    source = replace(SOURCE, derived={"day": pl.col("at")}, rules={"big": pl.col("price") > 1}, known_at=pl.col("at"))
    _, unsaid = write_contract("shop", {"orders": source})
    assert [sentence.split(" is ")[0] for sentence in unsaid] == [
        "orders: derived 'day'",
        "orders: rules 'big'",
        "orders: known_at",
    ]


FOREIGN = """
apiVersion: v3.1.0
kind: DataContract
id: x
version: 1.0.0
servers: [{server: s, type: s3, location: s3://lake/x}]
slaProperties: [{property: latency, value: 4, unit: d}]
schema:
  - name: visits
    quality: [{type: sql, query: SELECT 1, mustBe: 1}]
    properties:
      - {name: id, logicalType: integer, required: true, primaryKey: true, unique: true}
      - {name: code, logicalType: string, logicalTypeOptions: {pattern: "[A-Z]", maxLength: 3}, encryptedName: c}
      - {name: more, logicalType: object}
      - {name: who, logicalType: string, classification: restricted, quality: [{metric: nullValues, mustBe: 0}]}
"""


def test_of_a_contract_of_others_what_is_not_in_the_source_is_listed() -> None:
    found = read_contract(FOREIGN)
    assert found.sources["visits"] == Source(
        path="visits*",
        columns=(
            Column("id", "integer"),
            Column("code", "text", nullable=True, pattern="(?s:.*)(?:[A-Z])(?s:.*)"),
            Column("who", "text", nullable=True),
        ),
        key=("id",),
        expects=Expectations(checks=(Unique(("id",)),)),
    )
    named = (
        "servers",
        "latency",
        "SELECT 1",
        "maxLength",
        "encryptedName",
        "object",
        "restricted",
        "nullValues",
        "path",
    )
    assert [word for word in named if not any(word in sentence for sentence in found.left_out)] == []
    assert len(found.left_out) == len(named)


@pytest.mark.parametrize(
    "text", ["- 1", "a: [", "kind: x\nunknown: 1", "kind: DataContract", FOREIGN.replace('"[A-Z]"', '"(?=x)"')]
)
def test_what_is_no_contract_is_said_to_be_none(text: str) -> None:
    with pytest.raises(DataError, match="contract"):
        read_contract(text)


def test_the_code_declares_the_sources() -> None:
    names: dict[str, object] = {}
    exec(code_of(Contract({"orders": SOURCE}, ("a\nb",))), names)
    assert names["sources"] == {"orders": SOURCE}


def test_the_commands_write_and_read_and_tell_what_is_missing(tmp_path: Path) -> None:
    contract, code = tmp_path / "flights.yaml", tmp_path / "sources.py"
    written = CliRunner().invoke(app, ["contract", "export", "flights", "--to", str(contract)])
    assert "not in the contract: flights: derived 'landed' is an expression of polars." in written.output
    read = CliRunner().invoke(app, ["contract", "import", str(contract), "--to", str(code)])
    assert (written.exit_code, read.exit_code, read.output) == (0, 0, "")
    assert "Column(name='tailnum', type='text'" in code.read_text()
