"""Step records: what they name of places is taken out when they are kept, and put in where they are restored.

A record depends on where MLflow, Feast and the control store are, as URLs that may hold a password, and its key is the
digest of what it depends on. So it gets the URLs of the new place, and the key that a step has there: what was done
before counts as done.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlops_ray.artifacts import digest_json
from mlops_ray.config import Settings
from mlops_ray.operations.backup.moved_paths import Move

FOLDER = "pipeline"
_PLACES = ("mlflow_uri", "control_store", "feast_registry", "online_store")
_HERE = "setting:"
_LAST = "last.json"


def without_places(content: bytes) -> bytes:
    """A record as it is kept: the settings that are places by their names."""
    told = json.loads(content)
    if not isinstance(told, dict) or "depends_on" not in told:
        return content
    return _encoded(told | {"depends_on": _replaced(told["depends_on"], {name: _HERE + name for name in _PLACES})})


def put_records(kept: Mapping[str, bytes], settings: Settings, move: Move) -> dict[str, bytes]:
    """The records of a step by the names of their files, as they are in the place of `settings`."""
    urls, keys, made = {name: getattr(settings, name) for name in _PLACES}, dict[str, str](), dict[str, bytes]()
    for name, content in kept.items():
        told = json.loads(content)
        if name != _LAST and isinstance(told, dict) and "depends_on" in told:
            depends_on = _replaced(told["depends_on"], urls)
            keys[told["key"]] = key = digest_json(depends_on)
            moved = {"key": key, "depends_on": depends_on, "result": move.value(told["result"])}
            name, content = f"{key}.json", _encoded(told | moved)
        made[name] = content
    if _LAST in made:
        key = json.loads(made[_LAST])["key"]
        made[_LAST] = _encoded({"key": keys.get(key, key)})
    return made


def _replaced(value: Any, places: Mapping[str, str]) -> Any:
    """Mappings are lists of pairs in it, so a place is a pair of its name and its URL."""
    if isinstance(value, Mapping):
        return {name: _replaced(one, places) for name, one in value.items()}
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    if len(value) == 2 and value[0] in _PLACES and isinstance(value[1], str):
        return [value[0], places[value[0]]]
    return [_replaced(one, places) for one in value]


def _encoded(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode()
