"""What a candidate's model exports, as what is put before, behind and beside it can build on it."""

import onnx
import onnx.inliner
import onnx.version_converter

from mlops_ray.errors import ModelError
from mlops_ray.use_case import FittedModel

INPUT, OPSET = "matrix", 18
_REPAIR = "Repair the candidate's to_onnx."


def exported(model: FittedModel, output: str) -> onnx.ModelProto:
    """The model's ONNX, from `matrix` to `output` (`Task.output`), of ONNX's operators as of opset 18 or later and
    without functions of its own: nodes that are added mean what they say in no other one.

    Raises ModelError with a sentence for anything else, and whatever the candidate's `to_onnx` raises.
    """
    content = model.to_onnx()
    if not isinstance(content, bytes):
        raise ModelError(f"to_onnx gave a {type(content).__name__} instead of bytes. {_REPAIR}")
    try:
        found = onnx.inliner.inline_local_functions(onnx.load_model_from_string(content))
        if any(one.domain in ("", "ai.onnx") and one.version < OPSET for one in found.opset_import):
            found = onnx.version_converter.convert_version(found, OPSET)
    except Exception as error:  # protobuf's own, the checker's, the converter's
        said = " ".join(str(error).split())[:300]
        raise ModelError(f"to_onnx gave what cannot be brought to opset {OPSET} of ONNX: {said}. {_REPAIR}") from error
    constants = {one.name for one in found.graph.initializer}
    takes = [one.name for one in found.graph.input if one.name not in constants]
    gives = [one.name for one in found.graph.output]
    if takes != [INPUT] or output not in gives:
        raise ModelError(
            f"to_onnx gave a model from {', '.join(takes) or 'nothing'} to {', '.join(gives) or 'nothing'}; it must "
            f"be one from {INPUT} to {output}. {_REPAIR}"
        )
    return found
