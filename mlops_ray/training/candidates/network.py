"""A multilayer perceptron with embeddings for the categories, in torch."""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from mlops_ray.tasks.link import Linear, Link
from mlops_ray.use_case import Feature, FitData, Parameters

_FRACTIONS = (0.25, 0.5, 1.0)
_BATCH_ROWS = 2048
_PREDICTION_ROWS = 65_536
# So many epochs without a better answer to the rows that are held out end a fit.
_PATIENCE = 2
# In standard deviations: beyond that a network extrapolates to anything.
_CLIP = 10.0
# Of all values in training, hidden from the network so that "unknown" and "missing" mean something to it even in a
# column in which training has neither.
_HIDDEN_FRACTION = 0.02
_UNKNOWN_CODE, _MISSING_CODE = 0, 1


def fit_network(data: FitData, parameters: Parameters) -> Iterator[tuple[float, "Network"]]:
    """See neural_network.NeuralNetwork. Sets the number of torch's threads in this process."""
    torch.set_num_threads(data.threads)
    torch.manual_seed(data.seed)
    early, late = data.divided() or (data, None)
    link = data.task.link(early.label)
    score = _SCORES[link.name](link, early)
    module = _Perceptron(early.matrix, data.features, score, int(parameters["width"]), float(parameters["dropout"]))
    inputs = torch.from_numpy(np.array(early.matrix))
    epoch = -(-len(inputs) // _BATCH_ROWS)
    steps = max(4, int(parameters["epochs"]) * epoch)
    peak = float(parameters["learning_rate"])
    decay = float(parameters["weight_decay"])
    optimizer = torch.optim.AdamW(module.parameters(), lr=peak, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=steps, pct_start=0.2)
    batches = _batches(len(inputs), torch.Generator().manual_seed(data.seed))
    watch = _Watch(Network(module, link, data.task.output), late)
    ends = {round(steps * fraction): fraction for fraction in _FRACTIONS}
    for done in range(1, steps + 1):
        rows = next(batches)
        optimizer.zero_grad()
        score.loss(module.scores(module.hide(inputs[rows])), rows).backward()
        optimizer.step()
        schedule.step()
        if (done % epoch == 0 and watch.is_worse()) or data.is_out_of_time():
            break
        if done in ends and done < steps:
            yield ends[done], Network(module.eval(), link, data.task.output)
            module.train()
    watch.take_best()
    yield 1.0, Network(module.eval(), link, data.task.output)


class _Watch:
    """How a network answers rows that are held out, looked at after each epoch; nothing where there are none."""

    def __init__(self, network: "Network", rows: FitData | None) -> None:
        self._network, self._rows = network, rows
        self._losses, self._best = list[float](), dict[str, torch.Tensor]()

    def is_worse(self) -> bool:
        """Whether the best epoch is `_PATIENCE` epochs ago."""
        if self._rows is None:
            return False
        module, rows = self._network.module.eval(), self._rows
        losses = rows.task.losses(rows.label, self._network.predict(rows.matrix))
        module.train()
        self._losses.append(float(np.average(losses, weights=rows.weights)))
        best = int(np.argmin(self._losses))
        if best == len(self._losses) - 1:
            self._best = {name: value.clone() for name, value in module.state_dict().items()}
        return len(self._losses) - 1 - best >= _PATIENCE

    def take_best(self) -> None:
        if self._best:
            self._network.module.load_state_dict(self._best)


@dataclass(frozen=True)
class Network:
    """A fitted network; training goes on with the same one until the last fraction."""

    module: "_Perceptron"
    link: Link
    output: str

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        with torch.inference_mode():
            parts = [
                self.module(torch.from_numpy(np.array(matrix[start : start + _PREDICTION_ROWS])))
                for start in range(0, len(matrix), _PREDICTION_ROWS)
            ]
        return torch.cat(parts).numpy().astype(np.float64) if parts else self._none()

    def _none(self) -> NDArray[np.float64]:
        return np.empty((0, self.link.width) if self.link.width > 1 else 0)

    def to_onnx(self) -> bytes:
        with warnings.catch_warnings():
            # torch 2.13 copies a deprecated class of its own while it decomposes the program.
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.onnx.export(
                self.module,
                (torch.zeros((2, self.module.width_in), dtype=torch.float32),),
                input_names=["matrix"],
                output_names=[self.output],
                dynamic_shapes={"matrix": {0: torch.export.Dim("rows")}},
                dynamo=True,
                verbose=False,
            )
        buffer = io.BytesIO()
        onnx.save_model(program.model_proto, buffer)
        return buffer.getvalue()


class _Perceptron(nn.Module):  # type: ignore[misc]
    """From the encoded matrix to the answer; everything that was learned is inside, so all of it is exported."""

    def __init__(
        self, matrix: NDArray[np.float32], features: Sequence[Feature], score: "_Score", width: int, dropout: float
    ) -> None:
        super().__init__()
        self.width_in = len(features)
        numbers = [index for index, feature in enumerate(features) if feature.kind == "number"]
        self.categories = [index for index, feature in enumerate(features) if feature.kind == "category"]
        self.is_number: torch.Tensor
        self.numbers: torch.Tensor
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        mean, scale = _moments(matrix[:, numbers])
        self.register_buffer("is_number", torch.tensor([feature.kind == "number" for feature in features]))
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.int64))
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("scale", torch.from_numpy(scale))
        sizes = [len(features[index].categories) + 2 for index in self.categories]
        self.embeddings = nn.ModuleList(nn.Embedding(size, _embedding_width(size)) for size in sizes)
        inputs = 2 * len(numbers) + sum(_embedding_width(size) for size in sizes)
        self.layers = nn.Sequential(
            nn.Linear(inputs, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width // 2),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width // 2, score.width),
        )
        self.answer = score

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        return self.answer(self.scores(matrix))

    def scores(self, matrix: torch.Tensor) -> torch.Tensor:
        parts = []
        if len(self.numbers):
            values = matrix.index_select(1, self.numbers)
            missing = torch.isnan(values)
            scaled = (torch.where(missing, self.mean, values) - self.mean) / self.scale
            parts += [torch.clamp(scaled, -_CLIP, _CLIP), missing.to(torch.float32)]
        for column, embedding in zip(self.categories, self.embeddings, strict=True):
            parts.append(embedding(matrix[:, column].to(torch.int64)))
        scores: torch.Tensor = self.layers(torch.cat(parts, dim=1))
        return scores

    def hide(self, matrix: torch.Tensor) -> torch.Tensor:
        """A copy in which some values are missing: numbers NaN, categories unknown or missing, half of each."""
        draw = torch.rand(matrix.shape)
        codes = torch.where(draw < _HIDDEN_FRACTION / 2, float(_UNKNOWN_CODE), float(_MISSING_CODE))
        hidden = torch.where(self.is_number, torch.nan, codes)
        return torch.where(draw < _HIDDEN_FRACTION, hidden, matrix)


class _Score(nn.Module):  # type: ignore[misc]
    """A link in torch: from scores to answers, and the loss of some of the rows that are fitted."""

    def __init__(self, link: Link, targets: NDArray[Any], weights: NDArray[np.float64] | None) -> None:
        super().__init__()
        self.width = link.width
        self._targets = torch.from_numpy(targets)
        self._weights = None if weights is None else torch.from_numpy(weights.astype(np.float32))

    def loss(self, scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        losses = self.losses(scores, self._targets[rows])
        return (losses if self._weights is None else losses * self._weights[rows]).mean()

    def losses(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of each row."""
        raise NotImplementedError


class _Logistic(_Score):
    def __init__(self, link: Link, data: FitData) -> None:
        super().__init__(link, data.label.astype(np.float32), data.weights)

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(scores.squeeze(1))

    def losses(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(scores.squeeze(1), targets, reduction="none")


class _Softmax(_Score):
    def __init__(self, link: Link, data: FitData) -> None:
        super().__init__(link, data.label.astype(np.int64), data.weights)

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return torch.softmax(scores, dim=1)

    def losses(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(scores, targets, reduction="none")


class _Linear(_Score):
    def __init__(self, link: Linear, data: FitData) -> None:
        super().__init__(link, link.scaled(data.label).astype(np.float32), data.weights)
        self._centre, self._deviation, self._median = link.centre, link.deviation, link.median

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return self._centre + self._deviation * scores.squeeze(1)

    def losses(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.l1_loss if self._median else nn.functional.mse_loss
        return loss(scores.squeeze(1), targets, reduction="none")


_SCORES: dict[str, Callable[[Any, FitData], _Score]] = {
    "logistic": _Logistic,
    "softmax": _Softmax,
    "linear": _Linear,
}


def _embedding_width(size: int) -> int:
    return min(16, 1 + size // 4)


def _moments(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each column without NaN; 0 and 1 where a column has no spread."""
    present = ~np.isnan(values)
    rows = np.maximum(present.sum(axis=0), 1)
    wide = values.astype(np.float64)
    mean = np.where(present, wide, 0.0).sum(axis=0) / rows
    deviation = np.sqrt(np.where(present, (wide - mean) ** 2, 0.0).sum(axis=0) / rows)
    return mean.astype(np.float32), np.where(deviation > 0, deviation, 1.0).astype(np.float32)


def _batches(rows: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    while True:
        yield from torch.randperm(rows, generator=generator).split(_BATCH_ROWS)
