"""A signed bundle: files that travel from one environment to another as one file, of which no byte can be changed.

The first line is `mlops-ray-bundle 1 <id of the key> <Ed25519 signature, hex>`, and what follows is a zip archive
without compression. The signature is of the name and format and of all that follows, so that nothing is parsed that
somebody who is not trusted has written; and without compression nothing is larger than it looks.
"""

import base64
import io
import re
import stat
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.governance.signing_keys import Signer, holds

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LARGEST_BYTES = 1 << 30
_MAGIC = b"mlops-ray-bundle "
_FORMAT = b"1"
_HEAD = re.compile(rb"mlops-ray-bundle ([0-9]{1,4}) ([0-9a-f]{16}) ([0-9a-f]{128})\n")
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(rf"{_PART}(/{_PART}){{0,3}}")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment of a zip file: when a file was copied says nothing


def pack(files: Mapping[str, bytes], signer: Signer) -> bytes:
    """The bundle of these files, by name. Raises ConfigurationError for more than LARGEST_BYTES of them."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as made:
        for name, content in sorted(files.items()):
            made.writestr(zipfile.ZipInfo(_expect_name(name), _EPOCH), content)
    body = archive.getvalue()
    if len(body) > LARGEST_BYTES:
        raise ConfigurationError(
            f"The bundle would have {len(body):,} bytes, and {LARGEST_BYTES:,} are the most that an import takes."
        )
    signature = signer.sign(_signed(body)).hex().encode()
    return b"".join((_MAGIC, _FORMAT, b" ", signer.id.encode(), b" ", signature, b"\n", body))


def unpack(content: bytes, keys: "Mapping[str, Ed25519PublicKey]") -> dict[str, bytes]:
    """The files of a bundle that was signed by one of `keys` (by their ids), by name.

    Raises IntegrityError if it was not, if a byte was changed, added or is lacking, or if what was signed is no plain
    archive of files.
    """
    head = _HEAD.match(content[:256])
    if head is None:
        raise IntegrityError("This is no signed bundle: its first line is another. Make one: mlops-ray versions export")
    if head[1] != _FORMAT:
        raise IntegrityError(
            f"The bundle has format {head[1].decode()}, and this release reads {_FORMAT.decode()}. Take it in with the "
            f"release that made it, or a newer one."
        )
    key = keys.get(head[2].decode())
    if key is None:
        raise IntegrityError(
            f"The bundle names the key {head[2].decode()} as the one that signed it; trusted are "
            f"{', '.join(sorted(keys))}. If it is from where it should be, add that key to evidence_public_key."
        )
    body = content[head.end() :]
    if not holds(key, _signed(body), base64.b64encode(bytes.fromhex(head[3].decode())).decode()):
        raise IntegrityError(
            "The bundle's signature does not hold: it was changed after it was signed, is not whole, or another key "
            "signed it. Copy it again from where it was made."
        )
    return _files(body)


def _signed(body: bytes) -> bytes:
    """With the name before, so that no signature of the same key under something else can be taken for one of this."""
    return _MAGIC + _FORMAT + b"\n" + body


def _files(body: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > len(body):
                raise IntegrityError("The bundle claims to hold more than it is large. Make it again.")
            found = {_expect_file(entry): archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise IntegrityError(f"The bundle's archive cannot be read: {error}. Make it again.") from error
    if len(found) < len(entries):
        raise IntegrityError("The bundle holds two files of one name. Make it again.")
    return found


def _expect_file(entry: zipfile.ZipInfo) -> str:
    """Its name. Raises IntegrityError for what is no plain file."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or kind not in (0, stat.S_IFREG):
        raise IntegrityError(f"{ascii(entry.filename)[:80]} in the bundle is compressed, closed or no file.")
    return _expect_name(entry.filename)


def _expect_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise IntegrityError(f"{ascii(name)[:80]} is no name of a file in a bundle.")
    return name
