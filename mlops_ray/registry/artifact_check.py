"""The check of a sealed folder's files: nothing in them that runs code of its own when it is loaded."""

import json
import pickletools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlops_ray.errors import IntegrityError
from mlops_ray.registry.model_signature import SIGNATURE
from mlops_ray.registry.onnx_model import refuse_foreign_operators

MANIFEST = "manifest.json"
# How compressed files begin: what is inside cannot be seen, and a sealed model needs none.
_COMPRESSED = {
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7z",
    b"\x28\xb5\x2f\xfd": "zstd",
}
# A binary pickle begins with the opcode PROTO; one of the oldest kind with the text of what it imports.
_BEGINNINGS = re.compile(rb"\x80[\x00-\x05]|[ci][A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n")
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]*")
_MAX_OPCODES = 1_000_000


@dataclass(frozen=True)
class ArtifactFinding:
    """What is wrong with a file of a sealed folder. rule: pickle, compressed, operators, unlisted or link."""

    file: str
    rule: str
    sentence: str


def check_artifact(folder: Path) -> tuple[ArtifactFinding, ...]:
    """Look at every file below `folder` by its content; its name says nothing."""
    return tuple(_findings(folder))


def refuse_artifact(folder: Path) -> None:
    """Raise IntegrityError naming everything that `check_artifact` finds."""
    if found := check_artifact(folder):
        raise IntegrityError(
            f"The sealed model in {folder} is refused: {' '.join(one.sentence for one in found)} "
            f"Find out who put this there, and seal the model again."
        )


def pickle_in(content: bytes) -> int | None:
    """Where a pickle that imports something begins in `content`, None if there is none.

    A pickle at the very beginning counts even if it imports nothing: there is no other reason for it to be there.
    """
    if _is_pickle(content, 0, must_import=False):
        return 0
    for match in _BEGINNINGS.finditer(content):
        if _is_pickle(content, match.start(), must_import=True):
            return match.start()
    return None


def _findings(folder: Path) -> Iterator[ArtifactFinding]:
    manifest = folder / MANIFEST
    listed = {MANIFEST, SIGNATURE, *(json.loads(manifest.read_bytes())["files"] if manifest.is_file() else ())}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield ArtifactFinding(name, "link", f"{name} is a link to elsewhere.")
        elif path.is_file():
            if manifest.is_file() and name not in listed:
                yield ArtifactFinding(name, "unlisted", f"{name} is not in the manifest, so no digest covers it.")
            yield from _judge(name, path.read_bytes())


def _judge(name: str, content: bytes) -> Iterator[ArtifactFinding]:
    kind = next((kind for start, kind in _COMPRESSED.items() if content.startswith(start)), None)
    if kind:
        yield ArtifactFinding(name, "compressed", f"{name} is a {kind} file, whose content cannot be judged.")
    start = pickle_in(content)
    if start is not None:
        yield ArtifactFinding(name, "pickle", f"{name} holds a pickle (at byte {start}), which runs code when loaded.")
    elif name.endswith(".onnx"):
        try:
            refuse_foreign_operators(content)
        except IntegrityError as error:
            yield ArtifactFinding(name, "operators", str(error))


def _is_pickle(content: bytes, start: int, must_import: bool) -> bool:
    """Whether the bytes from `start` on are opcodes of a pickle up to its end."""
    texts, imports, first = list[str](), False, True
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(content[start:] if start else content)):
            if number > _MAX_OPCODES:
                return imports
            if opcode.name in ("GLOBAL", "INST"):
                imports = imports or all(_IDENTIFIER.fullmatch(part) for part in str(argument).split(" "))
            elif opcode.name == "STACK_GLOBAL":
                imports = imports or (len(texts) > 1 and all(_IDENTIFIER.fullmatch(text) for text in texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
            if opcode.name == "STOP":
                return imports or (not must_import and not first)
            first = False
    except Exception:  # not a pickle: the parser raises whatever the bytes make it raise
        return False
    return False
