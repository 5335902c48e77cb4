"""On either database: whatever is edited behind the back of the audit is found, before and after texts were erased."""

from pathlib import Path
from random import Random

import pytest

from mlops_ray.config import Settings, load_settings
from mlops_ray.governance.anchors import anchor
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.erasures import erase_person
from mlops_ray.governance.events import Actor, read_events
from tests.anchoring import make_keys
from tests.audit_history import (
    cut,
    expect_every_edit_found,
    expect_every_edit_of_the_chain_found,
    expect_every_row_found,
    make_anchored_history,
    replayed,
)

ADMINISTRATOR = Actor("root", ("admin",), id="person-root")


@pytest.fixture
def settings(store: ControlStore, tmp_path: Path) -> Settings:
    private, public = make_keys(tmp_path / "keys")
    return load_settings(
        state=str(tmp_path / "state"),
        data=str(tmp_path),
        control_store=store.url,
        audit_anchors=str(tmp_path / "anchors.jsonl"),
        audit_second_place=str(tmp_path / "second"),
        audit_key=f"file:{private}",
        audit_public_key=str(public),
    )


def test_any_edit_by_sql_is_found_also_where_texts_were_erased(store: ControlStore, settings: Settings) -> None:
    """tests/unit/test_reconciliation.py has more histories, on SQLite."""
    make_anchored_history(store, settings, 12)
    done = erase_person(store, ADMINISTRATOR, "carl", "request 17")
    assert done.events > 5
    anchor(store, settings)
    assert "carl" not in str([event.to_record() for event in read_events(store, limit=10_000)])
    expect_every_edit_found(store, replayed(store))
    expect_every_row_found(store, replayed(store))
    expect_every_edit_of_the_chain_found(store, settings, Random(12))


def test_any_cut_is_found_by_the_second_place_alone(store: ControlStore, settings: Settings) -> None:
    make_anchored_history(store, settings, 13)
    last = read_events(store, limit=10_000)[-1].seq
    for length in range(last - 1, last - 9, -3):
        cut(store, length)
        Path(settings.audit_anchors).unlink(missing_ok=True)
        found = verify_store(store, settings)
        assert not found.ok
        assert f"event {last} was anchored: the end is cut off" in str(found.problem)
