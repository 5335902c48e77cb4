"""The platform's settings: one YAML file per environment, read into one frozen object."""

import os
from collections.abc import Mapping
from ipaddress import IPv6Address
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mlops_ray.errors import ConfigurationError, nearest

SETTINGS_FILE = "settings.yaml"
DATA_VARIABLE = "MLOPS_RAY_DATA"
LEAST_REQUESTS_PER_S = 1e-5  # about one a day: who has to wait is told for how long, of which much less makes no number
_IN_URLS = "#%?[]^|\\"
_PATHS = ("state", "data", "artifacts", "audit_anchors", "ledger_wal", "ledger_secret_file")
_PATHS_IF_GIVEN = (
    "audit_second_place", "audit_public_key", "audit_time_stamp_roots", "evidence_public_key", "backups"
)  # fmt: skip
_OR_VARIABLE = {"model_signing_key": ", or env:NAME", "model_signing_public_key": ""}


class Prices(BaseModel):
    """What is paid for work, in one currency (three letters, such as EUR). GB are 10^9 bytes.

    cpu_hour: for 3,600 CPU seconds that were used. gpu_hour: for a GPU that was held so long. memory_gb_hour: for a GB
    in use so long. read_gb, written_gb: for what went through system calls. What is left out is not priced, and
    whatever used it says so; 0 is a price.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = Field(pattern="^[A-Z]{3}$")
    cpu_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    gpu_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    memory_gb_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    read_gb: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    written_gb: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class Settings(BaseModel):
    """Where state lives and what the platform may use. Everything has a default below `state`.

    state: absolute folder of this installation. data: absolute folder or URL of the raw files.
    artifacts: folder or object-store URL of snapshots, feature tables, training sets and MLflow's artifacts.
    mlflow_uri: an MLflow server, or a database MLflow uses directly. feast_registry: an SQLAlchemy URL.
    online_store: sqlite:///, redis:// or postgresql:// URL of Feast's online store.
    ledger_wal: absolute local folder in which a server keeps predictions until they lie below `artifacts`, which is
    after `ledger_rotate_s` seconds or a certain size. ledger_rotate_s: how much a node that is lost for good can lose.
    ledger_sync: wait until a prediction is on the disk before the answer leaves, so that a power failure loses none
    either. ledger_secret_file: the secret by which personal columns are hashed; give every node the same one. It is
    made only where `artifacts` lie in `state`. ledger_upkeep_every_s: how often the ledger of a use case that is served
    is compacted, and rid of what is too old; 0 never does it.
    drift_watchers: how many processes watch all endpoints together.
    control_store: sqlite:///, or in production postgresql://, URL of what is live, who may do what, and the audit log.
    audit_anchors: absolute path of the file to which the audit log's end is written at an interval (an anchor).
    audit_second_place: absolute folder or object-store URL to which each anchor goes as well: where those who can write
    to the control store cannot, if it is to prove anything against them. audit_key: the Ed25519 private key that signs
    anchors, PEM, as env:NAME or file:/path outside `state`; evidence_key: the one that signs evidence folders, and
    bundles of versions for other environments. evidence_public_key: absolute path of a PEM file of the public keys of
    those environments from which bundles are taken in.
    audit_public_key: absolute path of a PEM file of the public keys by which anchors are checked, older ones too.
    audit_time_stamp_url: a server of time stamps (RFC 3161); audit_time_stamp_roots: absolute path of a PEM file of the
    certificates that are trusted to stand behind them. Empty: none of it, which `mlops-ray audit verify` says.
    backups: absolute folder or object-store URL of the backups, outside of what they are of. Empty: a command names it.
    webhook_allowed_hosts: hosts that notifications may go to although their addresses are private, or not encrypted.
    oidc_issuer, oidc_audience: what a bearer token must say; oidc_keys: file or URL of the issuer's key set (JWKS);
    oidc_groups_claim: where a token lists its groups; oidc_groups: what each group may, as roles with a use case, such
    as {"ml-approvers": ["approve:flights"], "ml-admins": ["admin:all"]}, other groups nothing; oidc_people:
    the person of a `sub`, where they had a key before they had tokens, by the name or id of a key in `keys list`;
    oidc_requests_per_s: what each `sub` may ask, as a key's rate. Empty: API keys only.
    oidc_client_id: as whom the console asks the issuer who somebody is; oidc_client_secret: env:NAME or file:/path,
    empty for a public client; console_url: under which address people open the server, such as https://ml.example.org.
    advisories: where vulnerabilities are looked up: a file or folder of OSV records, or pypi or osv, which need a
    network, or the URL of a server that answers as api.osv.dev does. Empty: nowhere, and every record says so.
    model_signing_key: the EC private key (P-256, P-384 or P-521) by which models are signed when they are sealed: the
    absolute path of a PEM file, or env:NAME for a variable that holds the PEM. Empty: nothing is signed.
    model_signing_public_key: absolute path of the PEM file of its public key. With it, no version is used whose
    signature is missing or not by that key, and nothing is sealed without the key.
    online_cache_s: how long a server may reuse what it read of an entity from the online store; 0 reads every time.
    http_host: an IPv4 or IPv6 address to serve on, or a host name; 0.0.0.0 and :: are all of the machine's.
    http_port: the port there.
    num_cpus and object_store_mb: what a Ray started by us may take; ignored on an existing cluster.
    stall_limit_s: a run of which no step and no trial begins, ends or reports for so long is stopped; 0: never.
    serving_cpus: how many CPUs of the Ray that we start are for replicas alone; on an existing cluster above 0 means
    that its nodes have them apart, see docs/production.md. 0: replicas and runs take from the same ones.
    prices: see `Prices`. Without them quantities are recorded, and cost nothing that could be said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: str
    data: str
    artifacts: str = ""
    mlflow_uri: str = ""
    feast_registry: str = ""
    online_store: str = ""
    control_store: str = ""
    audit_anchors: str = ""
    audit_second_place: str = ""
    audit_key: str = ""
    audit_public_key: str = ""
    audit_time_stamp_url: str = ""
    audit_time_stamp_roots: str = ""
    evidence_key: str = ""
    evidence_public_key: str = ""
    backups: str = ""
    webhook_allowed_hosts: tuple[str, ...] = ()
    ledger_wal: str = ""
    ledger_secret_file: str = ""
    ledger_rotate_s: float = Field(default=60, gt=0, le=900)
    ledger_sync: bool = False
    ledger_upkeep_every_s: float = Field(default=3600, ge=0)
    drift_watchers: int = Field(default=2, ge=1)
    oidc_issuer: str = ""
    oidc_audience: str = ""
    oidc_keys: str = ""
    oidc_groups_claim: str = "groups"
    oidc_groups: dict[str, tuple[str, ...]] = {}
    oidc_people: dict[str, str] = {}
    oidc_requests_per_s: float = Field(default=200, ge=LEAST_REQUESTS_PER_S, allow_inf_nan=False)
    oidc_client_id: str = ""
    oidc_client_secret: str = ""
    console_url: str = ""
    advisories: str = ""
    model_signing_key: str = ""
    model_signing_public_key: str = ""
    online_cache_s: float = Field(default=0, ge=0, le=3600)
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8000, ge=1, le=65535)
    num_cpus: int = Field(default=2, ge=1)
    object_store_mb: int = Field(default=1000, ge=100)
    stall_limit_s: float = Field(default=86_400, ge=0)
    serving_cpus: int = Field(default=0, ge=0)
    prices: Prices | None = None

    @property
    def url(self) -> str:
        """Where this machine reaches the server."""
        host = f"[{self.http_host}]" if ":" in self.http_host else self.http_host
        return f"http://{host}:{self.http_port}"

    @model_validator(mode="before")
    @classmethod
    def _defaults_below_state(cls, values: dict[str, Any]) -> dict[str, Any]:
        state = str(values.get("state", ""))
        defaults = {
            "artifacts": f"{state}/artifacts",
            "mlflow_uri": f"sqlite:///{state}/mlflow.db",
            "feast_registry": f"sqlite:///{state}/feast_registry.db",
            "online_store": f"sqlite:///{state}/online_store.db",
            "control_store": f"sqlite:///{state}/control_store.db",
            "audit_anchors": f"{state}/audit_anchors.jsonl",
            "ledger_wal": f"{state}/ledger_wal",
            "ledger_secret_file": f"{state}/ledger_secret",
        }
        return {**defaults, **{key: value for key, value in values.items() if value not in ("", None)}}

    @model_validator(mode="after")
    def _paths_are_absolute(self) -> Self:
        for name in (*_PATHS, *_PATHS_IF_GIVEN):
            value = getattr(self, name)
            if not value and name not in _PATHS:
                continue
            may_be_url = name in ("data", "artifacts", "audit_second_place", "backups")
            if "://" in value and not may_be_url:
                raise ValueError(f"{name} is the URL {value!r}. Give an absolute path on this machine.")
            if not value.startswith("/") and "://" not in value:
                raise ValueError(
                    f"{name} is the relative path {value!r}, which points elsewhere in every process. "
                    f"Give an absolute path{' or a URL' if may_be_url else ''}."
                )
        self._paths_survive_urls()
        self._audit_is_apart()
        for name, reference in (("model_signing_key", "/ env:"), ("model_signing_public_key", "/")):
            value = getattr(self, name)
            if value and not value.startswith(tuple(reference.split())):
                raise ValueError(f"{name} begins with none of {reference}. Give an absolute path{_OR_VARIABLE[name]}.")
        if ":" in self.http_host and not _is_ipv6(self.http_host):
            raise ValueError(
                f"http_host is {self.http_host!r}, which is no address. Give an IPv6 address as it is, such as ::1, "
                f"without brackets, port or zone; or an IPv4 address or a host name."
            )
        known = self.advisories.startswith(("/", "https://", "http://")) or self.advisories in ("", "pypi", "osv")
        if not known:
            raise ValueError(f"advisories is {self.advisories!r}. Give an absolute path, a URL, pypi or osv.")
        if bool(self.oidc_issuer) != bool(self.oidc_keys and self.oidc_audience):
            raise ValueError("oidc_issuer, oidc_audience and oidc_keys go together; one of them is missing.")
        self._console_signs_in()
        return self

    def _console_signs_in(self) -> None:
        """With the provider's answer comes whoever it names: it goes to one address, that nobody else can read."""
        if bool(self.oidc_client_id) != bool(self.console_url) or (self.oidc_client_id and not self.oidc_issuer):
            raise ValueError(
                "oidc_client_id and console_url go together, and with oidc_issuer; one of them is missing."
            )
        if self.oidc_client_secret and not self.oidc_client_secret.startswith(("env:", "file:/")):
            raise ValueError(
                "oidc_client_secret begins with neither env: nor file:/. Say where it stands, not what it is."
            )
        local = self.console_url.startswith(("http://127.0.0.1:", "http://localhost:", "http://[::1]:"))
        if self.console_url and not (local or self.console_url.startswith("https://")):
            raise ValueError(
                f"console_url is {self.console_url!r}. Give an https URL; http only of this machine itself."
            )

    def _audit_is_apart(self) -> None:
        """Who can write to the state folder must not be able to sign what was written there."""
        for name in ("audit_key", "evidence_key"):
            value = getattr(self, name)
            if value and not value.startswith(("env:", "file:/")):
                raise ValueError(f"{name} begins with neither env: nor file:/. Say where the key stands, not the key.")
            if value.startswith(f"file:{self.state.rstrip('/')}/"):
                raise ValueError(f"{name} lies in the state folder {self.state}. Keep it where that cannot be written.")
        if self.audit_time_stamp_url and not self.audit_time_stamp_url.startswith(("http://", "https://")):
            raise ValueError(f"audit_time_stamp_url is {self.audit_time_stamp_url!r}. Give an http or https URL.")

    def _paths_survive_urls(self) -> None:
        """MLflow, Feast and Delta put these paths into URLs, which have no place for some characters or take them for
        something else."""
        names = ("state", "artifacts", "mlflow_uri", "feast_registry", "online_store", "control_store")
        for name in names:
            value = getattr(self, name)
            taken = _IN_URLS if value.startswith("/") else "#%" if value.startswith("sqlite:///") else ""
            if found := [character for character in taken if character in value]:
                raise ValueError(
                    f"{name} is {value!r}, and {found[0]!r} means something else in the URLs of the stores. Give a "
                    f"path without {' '.join(taken)}."
                )


def _is_ipv6(host: str) -> bool:
    """An address with a zone (fe80::1%eth0) cannot be given to Serve."""
    try:
        return IPv6Address(host).scope_id is None
    except ValueError:
        return False


def load_settings(
    file: str | None = None, defaults: Mapping[str, Any] = MappingProxyType({}), **overrides: Any
) -> Settings:
    """Settings from a YAML file, with `defaults` below and `overrides` on top (None and '' do not override).

    Raises ConfigurationError naming the setting: an unknown one with the nearest known name, a wrong value, a path
    that is relative.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = yaml.safe_load(Path(file).read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigurationError(f"Settings file {file} cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise ConfigurationError(f"Settings file {file} must hold 'name: value' lines.")
    given = {key: value for key, value in overrides.items() if value not in (None, "")}
    values = {**defaults, **values, **given}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_sentence(problem) for problem in error.errors())) from None


def settings_of(
    state: str | None, config: str | None, data: str | None = None, http_port: int | None = None
) -> Settings:
    """The settings of a command, or of a notebook, in this folder.

    Raises ConfigurationError naming the setting that is wrong. Also a command without --data goes by its variable: in a
    submitted job the default is nowhere.
    """
    data = data or os.environ.get(DATA_VARIABLE)
    defaults = {"state": absolute("state"), "data": absolute("data")}
    return load_settings(
        settings_file(config),
        defaults,
        state=state and absolute(state),
        data=data and absolute(data),
        http_port=http_port,
    )


def settings_file(config: str | None) -> str | None:
    """The settings file that counts: the one that was given, or the one in this folder, if there is one."""
    return config or (SETTINGS_FILE if Path(SETTINGS_FILE).is_file() else None)


def absolute(path: str) -> str:
    """The path made absolute, except in a submitted job, whose folder is Ray's and vanishes; a URL as it is."""
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return path if "://" in path or in_job else str(Path(path).absolute())


def settings_from_environment() -> Settings:
    """Settings from MLOPS_RAY_SETTINGS (a file), MLOPS_RAY_STATE and MLOPS_RAY_DATA (override the file).

    Raises ConfigurationError naming what is missing.
    """
    file, state, data = (os.environ.get(f"MLOPS_RAY_{name}") for name in ("SETTINGS", "STATE", "DATA"))
    if not file and not state:
        raise ConfigurationError("Set MLOPS_RAY_STATE (absolute path of the state folder), or MLOPS_RAY_SETTINGS.")
    return load_settings(file, state=state, data=data or (f"{state}/data" if not file else None))


def _sentence(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = Prices.model_fields if name.startswith("prices.") else Settings.model_fields
        return f"Unknown setting {name!r}. {nearest(name.removeprefix('prices.'), known)}"
    if problem["type"] == "missing":
        return f"Setting {name!r} is missing. Give it in the settings file or as --{name.replace('_', '-')}."
    text = str(problem["msg"]).removeprefix("Value error, ")
    return f"Setting {name!r}: {text} (given: {problem['input']!r})." if name else text
