"""The Open Inference Protocol v2 over REST, with its binary tensor extension: one input tensor for each feature."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.json_body import MAX_TEXT, TypedJson, expect_few_values
from mlops_ray.serving.predictor import Vectors
from mlops_ray.serving.request_id import canonical
from mlops_ray.serving.tensors import InputTensor, Parameters, TensorRules, values_of, wrong_size
from mlops_ray.serving.validation import feature_column
from mlops_ray.tasks.task import Task

HEADER_LENGTH = b"inference-header-content-length"
_CONFIGURED = {"BYTES": "STRING"}
_BINARY = {"FP32": "<f4", "BOOL": "?"}


class OutputRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    parameters: Parameters | None = None


class RequestParameters(msgspec.Struct, frozen=True, omit_defaults=True):
    """What of a request's parameters has a meaning here; others, of any form, are passed over as the protocol says."""

    binary_data_output: bool | None = None


class InferRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    inputs: Annotated[list[InputTensor], Meta(min_length=1)]
    id: Annotated[str, Meta(max_length=MAX_TEXT)] | None = None
    parameters: RequestParameters | None = None
    outputs: list[OutputRequest] | None = None


class _Identity(msgspec.Struct):
    id: str | None = None


@dataclass(frozen=True)
class Tensors:
    """A validated infer request; `binary` names the outputs to answer in binary."""

    id: str | None
    columns: dict[str, NDArray[Any]]
    outputs: tuple[str, ...]
    binary: frozenset[str]


class InferBody:
    """Reads bodies of `infer` for one model. repaired: see `ColumnReader`."""

    def __init__(self, schema: ModelSchema, repaired: Counter[str] | None = None):
        self._rules = {f.name: TensorRules(f, feature_column(schema, f), repaired) for f in schema.features}
        self._numbers, self._categories = schema.named("number"), schema.named("category")
        self._offered = tuple(schema.task.output_types)
        self._json = TypedJson(InferRequest)

    def decode(self, content: bytes, header_length: bytes | None) -> Tensors:
        """Raises HttpError 400 naming the tensor that is wrong."""
        head, tail = _split(content, header_length)
        request: InferRequest = self._json.decode(head)
        columns: dict[str, NDArray[Any]] = {}
        offset = 0
        for number, tensor in enumerate(request.inputs):
            at = f"inputs[{number}]"
            rules = self._rules.get(tensor.name)
            if rules is None or tensor.name in columns:
                what = "is given twice" if rules else f"is not an input of this model ({', '.join(self._rules)})"
                raise HttpError(400, f"{at}: {tensor.name!r} {what}.", f"{at}.name")
            parameters = tensor.parameters or Parameters()
            parameters.expect_offered(at)
            size = parameters.binary_data_size
            if size is not None and size > len(tail) - offset:
                raise wrong_size(at, f"{size} bytes are announced, {len(tail) - offset} are left in the body")
            raw = None if size is None else tail[offset : offset + size]
            offset += size or 0
            columns[tensor.name] = values_of(tensor, rules, raw, at)
        if offset != len(tail):
            raise wrong_size("inputs", f"the tensors take {offset} bytes of {len(tail)} after the JSON")
        self._expect_complete(columns)
        outputs, binary = _wanted_outputs(request, self._offered)
        return Tensors(request.id, columns, outputs, binary)

    def vectors(self, columns: dict[str, NDArray[Any]]) -> Vectors:
        rows = len(next(iter(columns.values())))
        numbers = np.empty((rows, len(self._numbers)), dtype=np.float32)
        categories = np.empty((rows, len(self._categories)), dtype=object)
        for position, name in enumerate(self._numbers):
            numbers[:, position] = columns[name]
        for position, name in enumerate(self._categories):
            categories[:, position] = columns[name]
        return Vectors(numbers, categories)

    def _expect_complete(self, columns: dict[str, NDArray[Any]]) -> None:
        missing = [name for name in self._rules if name not in columns]
        if missing:
            raise HttpError(400, f"inputs: tensor {', '.join(missing)} is missing.", f"inputs.{missing[0]}")
        lengths = {len(column) for column in columns.values()}
        if len(lengths) > 1:
            raise HttpError(400, f"inputs: the tensors have {sorted(lengths)} rows; all need the same.", "inputs")


def encode_answer(
    question: Tensors, model: dict[str, str], request_id: str, task: Task, answer: NDArray[np.float32]
) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON part if binary tensors follow. answer: see `task`.

    It repeats the question's `id`. Where that is none that the ledger knows a request by, `request_id` is beside it.
    """
    columns, types = task.columns(answer), task.output_types
    outputs, tail = [], b""
    for name in question.outputs:
        values, datatype = columns[name], types[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": values.shape}
        if name in question.binary:
            raw = _texts(values) if datatype == "BYTES" else values.astype(_BINARY[datatype]).tobytes()
            output["parameters"] = {"binary_data_size": len(raw)}
            tail += raw
        else:
            output["data"] = values.ravel().tolist()  # row after row, as every client reads it
        outputs.append(output)
    body: dict[str, Any] = {**model, "id": question.id or request_id, "outputs": outputs}
    if question.id and question.id.lower() != request_id:
        body["parameters"] = {"request_id": request_id}
    head = msgspec.json.encode(body)
    return head + tail, len(head) if question.binary else None


def _texts(values: NDArray[Any]) -> bytes:
    """Each with its length in four bytes before it."""
    encoded = [text.encode() for text in values.ravel().tolist()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)


def ledger_key(content: bytes, header_length: bytes | None) -> str | None:
    """The request's own `id` where the ledger can know it by that: a UUID. None for any other, and for a wrong body."""
    try:
        head = _split(content, header_length)[0]
        expect_few_values(head)
        given = msgspec.json.decode(head, type=_Identity).id
    except (msgspec.MsgspecError, HttpError, RecursionError, UnicodeError):
        return None  # who reads the whole body says what is wrong
    return None if given is None else canonical(given.encode())


def _split(content: bytes, header_length: bytes | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return content, b""
    length = int(header_length) if header_length.isdigit() and len(header_length) < 10 else -1
    if not 0 <= length <= len(content):
        raise HttpError(
            400,
            f"Inference-Header-Content-Length is {header_length.decode('latin-1')!r}, but the body has "
            f"{len(content)} bytes.",
            "inference-header-content-length",
        )
    return content[:length], content[length:]


def _wanted_outputs(request: InferRequest, offered: Sequence[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    all_binary = request.parameters is not None and request.parameters.binary_data_output is True
    wanted = request.outputs or [OutputRequest(name) for name in offered]
    asked: dict[str, bool | None] = {}
    for number, output in enumerate(wanted):
        at = f"outputs[{number}]"
        if output.name not in offered or output.name in asked:
            unknown = f"is not an output of this model ({', '.join(offered)})"
            what = "is given twice" if output.name in asked else unknown
            raise HttpError(400, f"{at}: {output.name!r:.100} {what}.", f"{at}.name")
        parameters = output.parameters or Parameters()
        parameters.expect_offered(at)
        asked[output.name] = parameters.binary_data
    binary = frozenset(name for name, wants in asked.items() if (all_binary if wants is None else wants))
    return tuple(asked), binary


def configuration(schema: ModelSchema, name: str, version: str) -> dict[str, Any]:
    """The description as Triton's model configuration extension has it. The one dimension of a tensor is its rows."""
    described = metadata(schema, name, version)
    tensors = {
        kind: [
            {"name": tensor["name"], "data_type": f"TYPE_{_CONFIGURED.get(tensor['datatype'], tensor['datatype'])}",
             "dims": tensor["shape"]}
            for tensor in described[f"{kind}s"]
        ]
        for kind in ("input", "output")
    }  # fmt: skip
    return {
        "name": name, "platform": described["platform"], "backend": "onnxruntime", "max_batch_size": 0,
        "version_policy": {"specific": {"versions": [int(version)]}}, **tensors,
    }  # fmt: skip


def metadata(schema: ModelSchema, name: str, version: str) -> dict[str, Any]:
    """The protocol's description of a model: its tensors with datatypes and shapes."""
    types = {"number": "FP32", "category": "BYTES"}
    return {
        "name": name,
        "versions": [version],
        "platform": "onnx_onnxruntime",
        "inputs": [{"name": f.name, "datatype": types[f.kind], "shape": [-1]} for f in schema.features],
        "outputs": _described_outputs(schema.task),
    }


def _described_outputs(task: Task) -> list[dict[str, Any]]:
    """Where an output has several numbers a row, its `parameters` say of what, in their order."""
    shapes = {name: values.shape[1:] for name, values in task.columns(_any_answer(task)).items()}
    return [
        {"name": name, "datatype": datatype, "shape": [-1, *shapes[name]]}
        | ({"parameters": {"of": list(task.output_parts[name])}} if shapes[name] else {})
        for name, datatype in task.output_types.items()
    ]


def _any_answer(task: Task) -> NDArray[np.float32]:
    """An answer of the right shape to one row."""
    return np.zeros((1, task.width) if task.parts else 1, dtype=np.float32)
