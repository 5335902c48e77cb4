"""Erasing a person: their rows go from snapshots, quarantine, feature rows, training sets, online store and ledger.

What will be erased is written down before anything is (`governance.erased_rows`), without the value. Killed at any
moment, the same command finds what is left, and that record, and completes both.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.catalogue.erase_rows import KINDS, Hits, erase_hit, find_rows, projects, raw_file_of, texts_naming
from mlops_ray.catalogue.person import Person
from mlops_ray.catalogue.records import FEATURES, TRAINING_SETS, read_records, use_cases
from mlops_ray.catalogue.unmoved import unmoved_answers
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, ConflictError
from mlops_ray.exploration.kept import kept_profiles, profile_again
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.erased_rows import ErasedRows, begin_erasing, erased_rows, new_record, write_erased
from mlops_ray.governance.events import Actor, record
from mlops_ray.governance.leases import holding
from mlops_ray.ingestion.judged import FOLDER as JUDGED
from mlops_ray.ingestion.snapshot import MANIFEST, SNAPSHOTS, load_snapshot, retired
from mlops_ray.predictions.erasure import count_entity, count_person, erase_entity, erase_person, leave_out_entity
from mlops_ray.predictions.personal import personal_hash
from mlops_ray.predictions.segments import FOLDER as LEDGER

EVENT = "data.erased"
NOT_REACHED = (
    "raw files: take the rows out there; until then an ingest that would bring them back is refused",
    "what a model has learned, and the sealed models named above: retire those versions, and train again",
    "MLflow's copies of sealed models, windows of monitoring, outputs of batch scoring, exports and backups",
    "answers that lie on the nodes named in on_nodes: theirs are left out when these nodes move them to the ledger",
    "events and names in the control store (`mlops-ray audit erase`)",
)
_PASSES = 4


@dataclass(frozen=True)
class Erasure:
    """What was found, or erased. rows: by kind, of all files together. online: keys by project; ledger: answers by use
    case. models: that were trained on rows of theirs, with their state. raw_files: names of files that have the rows,
    where that is known. not_searched: tables without a column of that name: what is theirs there is known
    through a join alone. still_in: files that name them and cannot be changed. on_nodes: where answers lie that the
    ledger does not have yet, of whomever. id: of the record; "" in a dry run.
    """

    rows: Mapping[str, int]
    online: Mapping[str, int]
    ledger: Mapping[str, int]
    models: tuple[str, ...]
    raw_files: tuple[str, ...]
    not_searched: tuple[str, ...]
    still_in: tuple[str, ...]
    on_nodes: tuple[str, ...] = ()
    id: str = ""
    not_reached: tuple[str, ...] = NOT_REACHED

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def is_empty(self) -> bool:
        return not (sum(self.rows.values()) or sum(self.online.values()) or sum(self.ledger.values()))


def find_person(settings: Settings, store: ControlStore, person: Person) -> Erasure:
    """What `erase_person_from_data` would erase, without doing anything."""
    artifacts = Artifacts(settings.artifacts)
    hits = find_rows(artifacts, person)
    noted = _noted(artifacts, store, hits, new_record(person.entity, person.value, datetime.now(UTC)))
    online = _online(settings, artifacts, person, dry_run=True)
    return _told(settings, person, hits, noted, online, _in_ledgers(settings, artifacts, person), store)


def erase_person_from_data(
    settings: Settings, store: ControlStore, actor: Actor, person: Person, reason: str
) -> Erasure:
    """Erase every row of theirs, with the event `data.erased`, which has a salted digest of the value, not the value.

    Snapshots, feature rows and training sets keep their names, which their records and lineage know, and from then on
    hold what is left; profiles of snapshots are made again. Raises ConflictError if somebody brings rows back all the
    time, or others are at work on a ledger; then it is to be run again. ConfigurationError without a reason, or with
    one that tells the value.
    """
    if not reason.strip() or person.is_in(reason.encode()):
        raise ConfigurationError("Say why, such as the number of a request, without the value: the reason is kept.")
    artifacts, now = Artifacts(settings.artifacts), datetime.now(UTC)
    with holding(store, "data erase"):
        begun = [one for one in erased_rows(artifacts) if one.is_about(person.entity, person.value)]
        noted = begun[0] if begun else new_record(person.entity, person.value, now)
        first, noted = _erase_rows(artifacts, store, person, noted)
        _profile_again(artifacts, noted)
        online = _online(settings, artifacts, person, dry_run=False)
        ledger = _erase_in_ledgers(settings, store, actor, artifacts, person)
        done = _told(settings, person, first, noted, online, ledger, store)
        if begun or not done.is_empty():
            noted = _tell(artifacts, store, actor, noted, done, reason)
        else:
            artifacts.delete("erased_rows", f"{noted.id}.json")
    return replace(done, id=noted.id)


def _erase_rows(
    artifacts: Artifacts, store: ControlStore, person: Person, noted: ErasedRows
) -> tuple[Hits, ErasedRows]:
    """Erase until nothing is found any more; what was found at first, and the record of all that was."""
    first: Hits | None = None
    for _ in range(_PASSES):
        begin_erasing(artifacts)
        hits = find_rows(artifacts, person)
        first, noted = first or hits, _noted(artifacts, store, hits, noted)
        write_erased(artifacts, noted)
        if not hits.found:
            return first, noted
        for hit in hits.found:
            with suppress(FileNotFoundError):  # retired meanwhile; what is left is found again
                erase_hit(artifacts, hit, person)
    raise ConflictError("Rows of theirs are written while they are erased. Run it again when no ingest runs.")


def _tell(
    artifacts: Artifacts, store: ControlStore, actor: Actor, noted: ErasedRows, done: Erasure, reason: str
) -> ErasedRows:
    payload = {"id": noted.id, "entity": noted.entity, "digest": noted.digest, "rows": dict(done.rows)}
    payload |= {"online": dict(done.online), "ledger": dict(done.ledger)}
    payload |= {"snapshots": dict(noted.snapshots), "training_sets": dict(noted.training_sets)}
    payload |= {"features": dict(noted.features), "models": noted.models}
    with store.transaction() as connection:
        event = record(connection, EVENT, actor, f"erasure {noted.id}", payload=payload, reason=reason)
    noted = replace(noted, event=event.seq, salt=None)
    write_erased(artifacts, noted)
    return noted


def _noted(artifacts: Artifacts, store: ControlStore, hits: Hits, noted: ErasedRows) -> ErasedRows:
    """The record, with what was found now."""
    snapshots, sets = hits.rows_of(SNAPSHOTS), hits.rows_of(TRAINING_SETS)
    files = {raw_file_of(artifacts, hit) for hit in hits.found if hit.kind == JUDGED} - {None}
    models = [
        f"{case}@{model.version}"
        for case in use_cases(artifacts)
        for model in read_records(artifacts, store, case).models
        if f"{case}/{model.training_set}" in sets or f"{case}/{model.snapshot}" in snapshots
    ]
    found = replace(
        noted,
        snapshots=snapshots,
        training_sets=sets,
        features=hits.rows_of(FEATURES),
        raw_files=tuple(str(one) for one in files),
        models=tuple(models),
    )
    return noted.plus(found)


def _told(
    settings: Settings,
    person: Person,
    hits: Hits,
    noted: ErasedRows,
    online: Mapping[str, int],
    ledger: Mapping[str, int],
    store: ControlStore,
) -> Erasure:
    artifacts = Artifacts(settings.artifacts)
    states = {
        f"{case}@{model.version}": model.state
        for case in use_cases(artifacts)
        for model in read_records(artifacts, store, case).models
    }
    return Erasure(
        rows={kind: sum(hits.rows_of(kind).values()) for kind in KINDS},
        online=online,
        ledger=ledger,
        models=tuple(f"{name} ({states.get(name, 'not registered')})" for name in noted.models),
        raw_files=tuple(sorted(set(_raw_names(artifacts, noted.raw_files)))),
        not_searched=hits.without,
        still_in=tuple(texts_naming(artifacts, person)),
        on_nodes=unmoved_answers(settings, store, _answering(artifacts)),
    )


def _answering(artifacts: Artifacts) -> list[str]:
    """The use cases of which there may be answers."""
    return sorted({*use_cases(artifacts), *(entry.name for entry in artifacts.entries(LEDGER))})


def _raw_names(artifacts: Artifacts, digests: tuple[str, ...]) -> list[str]:
    names = []
    for case in use_cases(artifacts):
        for entry in artifacts.entries(SNAPSHOTS, case):
            manifest = artifacts.read_json(SNAPSHOTS, case, entry.name, MANIFEST) or {"files": {}}
            for files in manifest["files"].values():
                names += [name for name, sha256 in files.items() if sha256 in digests]
    return names


def _profile_again(artifacts: Artifacts, noted: ErasedRows) -> None:
    """Of every snapshot that lost rows: its profile names the most frequent values."""
    for table in noted.snapshots:
        use_case, digest = table.split("/")
        if retired(artifacts, use_case, digest) is None and kept_profiles(artifacts, use_case, digest) is not None:
            profile_again(artifacts, load_snapshot(artifacts, use_case, digest))


def _online(settings: Settings, artifacts: Artifacts, person: Person, dry_run: bool) -> dict[str, int]:
    known = projects(artifacts)
    if not known:
        return {}
    from mlops_ray.features.online.erase import erase_online  # Feast takes seconds to import

    found = {
        project: erase_online(settings, project, definitions, person.entity, person.value, dry_run)
        for project, definitions in known.items()
    }
    return {project: keys for project, keys in found.items() if keys}


def _hashes(settings: Settings, person: Person) -> list[str]:
    """As the ledger has the value where its column is personal: as a text, and as a number if it is one."""
    hasher, found = personal_hash(settings), {}
    for type_ in ("text", "number"):
        with suppress(ValueError):
            found[type_] = hasher.hash(person.value, type_)
    return [one for one in found.values() if one]


def _in_ledgers(settings: Settings, artifacts: Artifacts, person: Person) -> dict[str, int]:
    return {
        case: count_entity(settings, case, person.entity, person.value)
        + sum(count_person(settings, case, hash) for hash in _hashes(settings, person))
        for case in [entry.name for entry in artifacts.entries(LEDGER)]
    }


def _erase_in_ledgers(
    settings: Settings, store: ControlStore, actor: Actor, artifacts: Artifacts, person: Person
) -> dict[str, int]:
    """Where nothing is found, too: what nodes move to the ledger later of theirs is left out then."""
    erased, ledgers = {}, [entry.name for entry in artifacts.entries(LEDGER)]
    for case in _answering(artifacts):
        leave_out_entity(artifacts, store, case, person.entity, person.value)
    for case in ledgers:
        # Also where no answer is found: an erasure that was killed may have left a file of theirs.
        done = [erase_entity(settings, store, actor, case, person.entity, person.value)]
        done += [erase_person(settings, store, actor, case, hash) for hash in _hashes(settings, person)]
        erased[case] = sum(one.predictions + one.labels for one in done)
    return erased
