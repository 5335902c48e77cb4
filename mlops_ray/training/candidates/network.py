"""A multilayer perceptron with embeddings for the categories, in torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

from mlops_ray.tasks.link import Linear, Link
from mlops_ray.training.candidates.graph import Graph
from mlops_ray.use_case import Feature, FitData, Parameters

_FRACTIONS = (0.25, 0.5, 1.0)
BATCH_ROWS = 2048
_PREDICTION_ROWS = 65_536
# So many epochs without a better answer to the rows that are held out end a fit.
PATIENCE = 2
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
    score = SCORES[link.name](link)
    device = "cuda" if torch.cuda.is_available() else "cpu"  # Ray shows a worker the GPUs that it was given
    module = Perceptron(Moments.of(early.matrix, data.features), data.features, score, parameters).to(device)
    inputs, targets = torch.from_numpy(np.array(early.matrix)).to(device), score.targets(early.label).to(device)
    weights = None if early.weights is None else torch.from_numpy(early.weights.astype(np.float32)).to(device)
    epoch = -(-len(inputs) // BATCH_ROWS)
    steps = max(4, int(parameters["epochs"]) * epoch)
    optimizer, schedule = descent(module, parameters, steps)
    batches = _batches(len(inputs), torch.Generator().manual_seed(data.seed))
    watch = _Watch(Network(module, link, data.task.output), late)
    ends = {round(steps * fraction): fraction for fraction in _FRACTIONS}
    for done in range(1, steps + 1):
        rows = next(batches)
        optimizer.zero_grad()
        scores = module.scores(module.hide(inputs[rows]))
        score.loss(scores, targets[rows], None if weights is None else weights[rows]).backward()
        optimizer.step()
        schedule.step()
        if (done % epoch == 0 and watch.is_worse()) or data.is_out_of_time():
            break
        if done in ends and done < steps:
            yield ends[done], Network(module.eval(), link, data.task.output)
            module.train()
    watch.take_best()
    yield 1.0, Network(module.eval(), link, data.task.output)


def descent(
    module: nn.Module, parameters: Parameters, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with one cycle of the learning rate over so many steps, the first fifth of them upwards."""
    peak, decay = float(parameters["learning_rate"]), float(parameters["weight_decay"])
    optimizer = torch.optim.AdamW(module.parameters(), lr=peak, weight_decay=decay)
    upwards = 0.24 if steps == 5 else 0.2  # a first phase of 0.2 * 5 - 1 steps is divided by
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=steps, pct_start=upwards)


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
        return len(self._losses) - 1 - best >= PATIENCE

    def take_best(self) -> None:
        if self._best:
            self._network.module.load_state_dict(self._best)


@dataclass(frozen=True)
class Network:
    """A fitted network; training goes on with the same one until the last fraction."""

    module: "Perceptron"
    link: Link
    output: str
    workers: int = 0  # that fitted it together; 0 for the process that asked for it

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores are float32, and answers float64: next to 1 float32 would leave little of what a scaling asks for."""
        device = self.module.mean.device
        with torch.inference_mode():
            parts = [
                self.module.scores(torch.from_numpy(np.array(matrix[at : at + _PREDICTION_ROWS])).to(device)).cpu()
                for at in range(0, len(matrix), _PREDICTION_ROWS)
            ]
        return self.link.answer(torch.cat(parts).numpy().astype(np.float64)) if parts else self._none()

    def _none(self) -> NDArray[np.float64]:
        return np.empty((0, self.link.width) if self.link.width > 1 else 0)

    def to_onnx(self) -> bytes:
        """Written down node by node, as it is one and the same for every network: torch's own export takes three
        seconds of a process that has not exported before, as long as many a fit."""
        graph, module = Graph(), self.module
        parts = _number_nodes(graph, module) if len(module.numbers) else []
        for column, embedding in zip(module.categories, module.embeddings, strict=True):
            code = graph.add("Gather", "matrix", graph.constant(f"column_{column}", np.int64(column)), axis=1)
            index = graph.add("Cast", code, to=TensorProto.INT64)
            parts.append(graph.add("Gather", graph.constant(f"embedding_{column}", _array(embedding.weight)), index))
        at = graph.add("Concat", *parts, axis=1)
        for number, layer in enumerate(module.layers):
            if isinstance(layer, nn.Linear):
                weights = graph.constant(f"weights_{number}", _array(layer.weight))
                at = graph.add("Gemm", at, weights, graph.constant(f"bias_{number}", _array(layer.bias)), transB=1)
            elif isinstance(layer, nn.ReLU):
                at = graph.add("Relu", at)
        return graph.model(self.link, self.output, at, np.float32)


def _number_nodes(graph: Graph, module: "Perceptron") -> list[str]:
    values = graph.add("Gather", "matrix", graph.constant("numbers", _array(module.numbers)), axis=1)
    missing = graph.add("IsNaN", values)
    filled = graph.add("Where", missing, graph.constant("mean", _array(module.mean)), values)
    scaled = graph.add("Div", graph.add("Sub", filled, "mean"), graph.constant("scale", _array(module.scale)))
    bounds = (graph.constant(name, np.float32(value)) for name, value in (("low", -_CLIP), ("high", _CLIP)))
    return [graph.add("Clip", scaled, *bounds), graph.add("Cast", missing, to=TensorProto.FLOAT)]


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    values: NDArray[Any] = tensor.detach().cpu().numpy()
    return values


class Perceptron(nn.Module):  # type: ignore[misc]
    """From the encoded matrix to the scores; everything that was learned is inside, so all of it is exported."""

    def __init__(self, moments: "Moments", features: Sequence[Feature], score: "Score", parameters: Parameters) -> None:
        super().__init__()
        width, dropout = int(parameters["width"]), float(parameters["dropout"])
        self.width_in = len(features)
        numbers = [index for index, feature in enumerate(features) if feature.kind == "number"]
        self.categories = [index for index, feature in enumerate(features) if feature.kind == "category"]
        self.is_number: torch.Tensor
        self.numbers: torch.Tensor
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("is_number", torch.tensor([feature.kind == "number" for feature in features]))
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.int64))
        self.register_buffer("mean", torch.from_numpy(moments.mean.astype(np.float32)))
        self.register_buffer("scale", torch.from_numpy(moments.scale.astype(np.float32)))
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
        self.score = score

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
        draw = torch.rand(matrix.shape, device=matrix.device)
        codes = torch.where(draw < _HIDDEN_FRACTION / 2, float(_UNKNOWN_CODE), float(_MISSING_CODE))
        hidden = torch.where(self.is_number, torch.nan, codes)
        return torch.where(draw < _HIDDEN_FRACTION, hidden, matrix)


class Score:
    """A link in torch: the loss that scores are fitted by."""

    def __init__(self, link: Link) -> None:
        self.width = link.width

    def targets(self, labels: NDArray[Any]) -> torch.Tensor:
        """Labels as `losses` takes them."""
        raise NotImplementedError

    def losses(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of each row."""
        raise NotImplementedError

    def loss(self, scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        losses = self.losses(scores, targets)
        return (losses if weights is None else losses * weights).mean()


class _Logistic(Score):
    def targets(self, labels: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(labels.astype(np.float32))

    def losses(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(scores.squeeze(1), targets, reduction="none")


class _Softmax(Score):
    def targets(self, labels: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(labels.astype(np.int64))

    def losses(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(scores, targets, reduction="none")


class _Linear(Score):
    def __init__(self, link: Linear) -> None:
        super().__init__(link)
        self._link = link

    def targets(self, labels: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(self._link.scaled(labels).astype(np.float32))

    def losses(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        above, level = targets - scores.squeeze(1), self._link.level
        return above**2 if level is None else 2 * torch.maximum(level * above, (level - 1) * above)


SCORES: dict[str, Callable[[Any], Score]] = {"logistic": _Logistic, "softmax": _Softmax, "linear": _Linear}


def _embedding_width(size: int) -> int:
    return min(16, 1 + size // 4)


@dataclass(frozen=True)
class Moments:
    """Of each number, over the rows where it is not missing: how many these are, the mean, and the sum of squared
    deviations from it."""

    rows: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, matrix: NDArray[np.float32], features: Sequence[Feature]) -> Self:
        values = matrix[:, [index for index, feature in enumerate(features) if feature.kind == "number"]]
        present = ~np.isnan(values)
        rows = present.sum(axis=0).astype(np.float64)
        wide = values.astype(np.float64)
        mean = np.where(present, wide, 0.0).sum(axis=0) / np.maximum(rows, 1)
        return cls(rows, mean, np.where(present, (wide - mean) ** 2, 0.0).sum(axis=0))

    def __add__(self, more: "Moments") -> "Moments":
        """Of both together (Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances", 1979, equation 2.1)."""
        rows, apart = np.maximum(self.rows + more.rows, 1), more.mean - self.mean
        mean = self.mean + apart * more.rows / rows
        squares = self.squares + more.squares + apart**2 * self.rows * more.rows / rows
        return Moments(self.rows + more.rows, mean, squares)

    @property
    def scale(self) -> NDArray[np.float64]:
        """Standard deviations; 1 where a column has no spread."""
        deviation = np.sqrt(self.squares / np.maximum(self.rows, 1))
        return np.where(deviation > 0, deviation, 1.0)


def _batches(rows: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    while True:
        yield from torch.randperm(rows, generator=generator).split(BATCH_ROWS)
