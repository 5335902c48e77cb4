"""Conditional writes to S3, which pyarrow does not have."""

import os
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


def create_object(url: str, path: str, content: bytes) -> bool:
    """Write an object unless it exists; False if it does, or if another writer was faster.

    url: as pyarrow takes it, whose options and credentials hold. path: bucket and key. Raises OSError if it fails.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = path.partition("/")
    try:
        _client(os.getpid(), _environment(), **_options(url)).put_object(
            Bucket=bucket, Key=key, Body=content, IfNoneMatch="*"
        )
    except ClientError as error:
        # 412: it exists. 409: another write to it is under way.
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
            return False
        raise OSError(f"{path} was not written: {error}") from error
    except BotoCoreError as error:
        raise OSError(f"{path} was not written: {error}") from error
    return True


def _environment() -> frozenset[tuple[str, str]]:
    """Variables that a client is made by."""
    return frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))


@lru_cache(maxsize=64)
def _client(process: int, environment: frozenset[tuple[str, str]], **options: str) -> Any:
    """A client takes longer to make than to use, and any thread of its process may use it. It keeps what the
    environment said."""
    import boto3

    return boto3.session.Session().client("s3", **options)


def _options(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    given, options = dict(parse_qsl(parts.query)), dict[str, str]()
    if region := given.get("region"):
        options["region_name"] = region
    if endpoint := given.get("endpoint_override"):
        options["endpoint_url"] = endpoint if "://" in endpoint else f"{given.get('scheme', 'https')}://{endpoint}"
    if parts.username and parts.password:
        secrets = unquote(parts.username), unquote(parts.password)
        options["aws_access_key_id"], options["aws_secret_access_key"] = secrets
    return options
