"""The example server with one version that is sealed with a drift reference: python watched_example.py PORT STATE."""

import sys
from pathlib import Path

from mlops_ray.registry.sealed_model import seal
from mlops_ray.testing.example_model import example_answer, example_onnx, example_rows, example_schema
from mlops_ray.testing.example_stream import example_watched
from tests.integration import serve_example


def seal_watched(state: str) -> dict[int, str]:
    rows, reference = example_rows(), example_watched().reference.to_files()
    answers = [example_answer(row) for row in rows.to_dicts()]
    folder = Path(state) / "sealed" / "7"
    return {7: seal(folder, example_onnx(), example_schema(), rows, answers, {}, reference=reference)}


if __name__ == "__main__":
    serve_example.seal_all = seal_watched
    serve_example.main(int(sys.argv[1]), sys.argv[2])
