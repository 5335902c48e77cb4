"""All that mlops_ray has of Feast, imported in a quarter of the time; the only import of it.

Feast has typeguard rewrite its classes at import, so that its constructors check the types they are given: half of the
time that the import takes, in every worker and replica, to find what mypy finds. And it imports torch in case that
somebody calls `to_tensor`: half of the rest. Here torch is imported when it is called.
"""

import importlib
import sys
import types
import warnings
from typing import Any

import typeguard

_typechecked, typeguard.typechecked = typeguard.typechecked, lambda target: target  # type: ignore[assignment]
_torch_wrapper: Any = types.ModuleType("feast.torch_wrapper")
_torch_wrapper.get_torch = lambda: importlib.import_module("torch")
sys.modules.setdefault("feast.torch_wrapper", _torch_wrapper)

with warnings.catch_warnings():  # Feast shows deprecations to everybody who imports it, those of others too
    from feast import Entity as Entity
    from feast import FeatureService as FeatureService
    from feast import FeatureStore as FeatureStore
    from feast import FeatureView as FeatureView
    from feast import Field as Field
    from feast import FileSource as FileSource
    from feast import OnDemandFeatureView as OnDemandFeatureView
    from feast import RepoConfig as RepoConfig
    from feast import ValueType as ValueType
    from feast.data_format import ParquetFormat as ParquetFormat
    from feast.errors import SavedDatasetLocationAlreadyExists as SavedDatasetLocationAlreadyExists
    from feast.feature_view import DUMMY_ENTITY_ID as DUMMY_ENTITY_ID
    from feast.feature_view import DUMMY_ENTITY_VAL as DUMMY_ENTITY_VAL
    from feast.feature_view_projection import FeatureViewProjection as FeatureViewProjection
    from feast.infra.key_encoding_utils import deserialize_entity_key as deserialize_entity_key
    from feast.infra.key_encoding_utils import serialize_entity_key as serialize_entity_key
    from feast.infra.key_encoding_utils import serialize_entity_key_prefix as serialize_entity_key_prefix
    from feast.infra.offline_stores.offline_store import OfflineStore as OfflineStore
    from feast.infra.offline_stores.offline_store import RetrievalJob as RetrievalJob
    from feast.infra.offline_stores.offline_store import RetrievalMetadata as RetrievalMetadata
    from feast.infra.offline_stores.offline_utils import (
        infer_event_timestamp_from_entity_df as infer_event_timestamp_from_entity_df,
    )
    from feast.infra.online_stores.helpers import _mmh3
    from feast.infra.online_stores.online_store import OnlineStore as OnlineStore
    from feast.infra.online_stores.sqlite import SqliteOnlineStore as SqliteOnlineStore
    from feast.protos.feast.core import Entity_pb2, FeatureService_pb2, FeatureView_pb2
    from feast.protos.feast.types import Value_pb2
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKey
    from feast.repo_config import FeastConfigBaseModel as FeastConfigBaseModel
    from feast.repo_operations import get_repo_files as get_repo_files
    from feast.type_map import python_values_to_proto_values as python_values_to_proto_values
    from feast.types import from_value_type as from_value_type
    from feast.utils import compute_non_entity_date_range as compute_non_entity_date_range
    from google.protobuf.json_format import MessageToDict as MessageToDict
    from google.protobuf.json_format import ParseDict as ParseDict
    from google.protobuf.message import DecodeError as DecodeError
    from google.protobuf.timestamp_pb2 import Timestamp as Timestamp

# By the names that types of views have.
VALUE_TYPES = {
    "Float64": ValueType.DOUBLE,
    "Float32": ValueType.FLOAT,
    "Int64": ValueType.INT64,
    "Int32": ValueType.INT32,
    "Bool": ValueType.BOOL,
    "String": ValueType.STRING,
}
EntityProto = Entity_pb2.Entity
FeatureServiceProto = FeatureService_pb2.FeatureService
FeatureViewProto = FeatureView_pb2.FeatureView
ValueProto = Value_pb2.Value
redis_field = _mmh3

typeguard.typechecked = _typechecked


def duckdb_offline_store() -> Any:
    """Feast's DuckDB store. DuckDB and ibis, 0.6 s of 2.8 s of imports, are imported when it is called."""
    return importlib.import_module("feast.infra.offline_stores.duckdb").DuckDBOfflineStore
