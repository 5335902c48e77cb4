"""Writes `requests.json`: what the codecs of MLServer make of two rows of the example model.

MLServer needs an older FastAPI than is locked here, so it is not installed with this project. In an environment of its
own:

    pip install mlserver==1.7.1 pandas==2.3.3 && python record.py > requests.json
"""

import json

import numpy as np
import pandas as pd
from mlserver.codecs import Base64Codec, NumpyCodec, PandasCodec, StringCodec
from mlserver.types import InferenceRequest, Parameters, RequestOutput

FRAME = pd.DataFrame(
    {
        "origin": ["JFK", "LGA"],
        "distance": [500.0, None],
        "carrier": ["AA", "ZZ"],
        "hour": [8, 9],
        "recent_delay": [30.0, 1.5],
    }
)

frame = PandasCodec.encode_request(FRAME)
mixed = PandasCodec.encode_request(FRAME.assign(recent_delay=pd.Series([30, 1.5], dtype=object)))
nested = Parameters(content_type="np", custom={"a": [1, {"b": None}]})
columns = InferenceRequest(
    id="0190f5a0-7d5e-7c3a-8000-0123456789ab",
    parameters=Parameters(content_type="np", headers={"Ce-Id": "1"}, custom={"a": [1, {"b": None}]}),
    inputs=[
        StringCodec.encode_input("origin", ["JFK", "LGA"]),
        NumpyCodec.encode_input("distance", np.array([500.0, np.nan])),
        Base64Codec.encode_input("carrier", [b"AA", b"ZZ"]),
        NumpyCodec.encode_input("hour", np.array([8, 9], dtype=np.int32)),
        NumpyCodec.encode_input("recent_delay", np.array([[30.0], [1.5]], dtype=np.float32)),
    ],
    outputs=[RequestOutput(name="probability", parameters=nested)],
)
requests = {"frame": frame, "mixed": mixed, "columns": columns}
print(json.dumps({name: json.loads(request.model_dump_json()) for name, request in requests.items()}, indent=1))
