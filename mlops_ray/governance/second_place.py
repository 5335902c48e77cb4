"""The second place: a folder or object store in which each anchor is a file of its own, written once.

An object store that locks what is written (S3 Object Lock) keeps it from everybody, also from who writes it.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from mlops_ray.errors import UnavailableError
from mlops_ray.governance.references import without_credentials

if TYPE_CHECKING:
    from mlops_ray.artifacts import Artifacts

_NAME = re.compile(r"anchor-(\d{12,})-([0-9a-f]{64})\.(json|tsr)")
_AT_ONCE = 16

# mlops_ray.artifacts is imported inside the functions: pyarrow takes half a second, which few commands have to spend.


@dataclass(frozen=True)
class SecondPlace:
    """`url`: an absolute folder or a URL that pyarrow knows (s3://, gs://)."""

    url: str

    def __str__(self) -> str:
        return without_credentials(self.url)

    def write(self, anchors: Iterable[Mapping[str, Any]]) -> None:
        """Write anchors as JSON values, in their order: `anchor-<number>-<hash>.json`, and its stamp as `.tsr`.

        What is there already is left as it is. Raises UnavailableError if it cannot be written.
        """
        from mlops_ray.artifacts import Artifacts

        with self._errors():
            place = Artifacts(self.url)
            for one in anchors:
                name, signed = f"anchor-{one['seq']:012d}-{one['hash']}", dict(one)
                stamp = signed.pop("time_stamp", None)
                for file, content in ((f"{name}.json", json.dumps(signed).encode()), (f"{name}.tsr", _bytes(stamp))):
                    if content:
                        _write_once(place, file, content)

    def read(self) -> list[dict[str, Any]]:
        """What is there, by number. A file that cannot be understood is an anchor of nothing but its name.

        Raises UnavailableError if it cannot be read.
        """
        from mlops_ray.artifacts import Artifacts

        with self._errors():
            place = Artifacts(self.url)
            names = [entry.name for entry in place.entries() if _NAME.fullmatch(entry.name)]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                contents = dict(zip(names, pool.map(place.read_bytes, names), strict=True))
        found = []
        for name, content in contents.items():
            if name.endswith(".json"):
                stamp = contents.get(f"{name.removesuffix('.json')}.tsr")
                found.append(
                    _parsed(name, content) | ({"time_stamp": base64.b64encode(stamp).decode()} if stamp else {})
                )
        return sorted(found, key=lambda one: (one["seq"], one["hash"]))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if isinstance(error, ValueError) and "@" in self.url:  # its text may hold the secret
                said = "the URL cannot be read. Percent-encode user and secret in it ('/' is %2F)."
            raise UnavailableError(f"The second place {self} cannot be used: {said[:300]}") from error


def _write_once(place: "Artifacts", name: str, content: bytes) -> None:
    from pyarrow.fs import FileType, LocalFileSystem, S3FileSystem

    from mlops_ray.artifacts import locate

    filesystem, path = locate(place.url(name))
    if filesystem.get_file_info(path).type != FileType.NotFound:
        return
    if isinstance(filesystem, LocalFileSystem):
        place.write_bytes(content, name)
    elif isinstance(filesystem, S3FileSystem):
        _put(place.url(name), path, content)
    else:
        with filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(content)


def _put(url: str, path: str, content: bytes) -> None:
    """As one object with a checksum, which a bucket with a lock demands and pyarrow does not send."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    server = options.get("endpoint_override", "")
    if server and "://" not in server:
        server = f"{options.get('scheme', 'https')}://{server}"
    client = boto3.client(
        "s3",
        region_name=options.get("region"),
        endpoint_url=server or None,
        aws_access_key_id=unquote(parts.username) if parts.username else None,
        aws_secret_access_key=unquote(parts.password) if parts.password else None,
        config=Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 2}),
    )
    bucket, _, key = path.partition("/")
    try:
        client.put_object(Bucket=bucket, Key=key, Body=content)
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"{bucket}/{key} was not taken: {error}") from error


def _bytes(stamp: str | None) -> bytes:
    return base64.b64decode(stamp) if stamp else b""


def _parsed(name: str, content: bytes) -> dict[str, Any]:
    """Number and hash are those of the name, whatever somebody wrote into the file."""
    known = _NAME.fullmatch(name)
    assert known
    try:
        texts = {key: text for key, text in json.loads(content).items() if isinstance(text, str)}
    except (ValueError, AttributeError):
        texts = {}
    return texts | {"seq": int(known[1]), "hash": known[2]}
