"""Workers on two nodes fit one network together: as good as one, and the same whoever dies meanwhile."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import ray
from numpy.typing import NDArray
from ray.cloudpickle import register_pickle_by_value, unregister_pickle_by_value
from ray.cluster_utils import Cluster

from mlops_ray.errors import DataError
from mlops_ray.tasks.regression import Regression
from mlops_ray.training.candidates import NeuralNetwork
from mlops_ray.training.candidates.network import Network
from mlops_ray.training.candidates.network_workers import fit_network_blocks
from mlops_ray.training.side_by_side import SideBySide, steps_of
from mlops_ray.use_case import FitBlocks, FitData
from tests.unit import test_fit_blocks
from tests.unit.test_fit_blocks import InMemory, binary, in_blocks, log_loss

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

PARAMETERS = {"learning_rate": 0.02, "width": 32, "dropout": 0.1, "weight_decay": 1e-5, "epochs": 3}
DATA = binary(12_000, held_out=0.2)


@dataclass(frozen=True)
class Deadly(InMemory):
    """Kills the process that reads for the `after`-th time, once for each name in the folder that is not there yet, but
    never the one that is spared."""

    spared: int = 0
    folder: str = ""
    after: int = 0
    deaths: int = 0

    def read(self, number: int) -> NDArray[np.float32]:
        found = super().read(number)
        if len(self.reads) == self.after and os.getpid() != self.spared:
            for death in range(self.deaths):
                marker = Path(self.folder, f"died-{death}")
                if not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
        return found


@dataclass(frozen=True)
class Gone(InMemory):
    """Blocks whose file vanishes after the moments were found."""

    reader: int = 0

    def read(self, number: int) -> NDArray[np.float32]:
        if os.getpid() != self.reader:
            raise DataError("The training set's file part-00001.parquet cannot be read. Put it back.")
        return super().read(number)


@pytest.fixture(scope="module", autouse=True)
def _two_nodes() -> Iterator[None]:
    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    for module in (sys.modules[__name__], test_fit_blocks):
        register_pickle_by_value(module)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield
    finally:
        for module in (sys.modules[__name__], test_fit_blocks):
            unregister_pickle_by_value(module)
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def undisturbed(kept: Path) -> Network:
    """As a step fits it: in a task that holds the CPUs which the workers need while it waits for them."""
    data = checkpointed(in_blocks(DATA), kept)
    found: Network = ray.get(ray.remote(num_cpus=1)(fit_network_blocks).remote(data, PARAMETERS))
    return found


def checkpointed(data: FitBlocks, folder: Path) -> FitBlocks:
    return replace(data, checkpoints=str(folder / "fits"))


def test_workers_on_two_nodes_fit_a_network_as_good_as_one_process(undisturbed: Network) -> None:
    assert undisturbed.workers == 2
    *_, (_, alone) = NeuralNetwork().fit(DATA, PARAMETERS)
    assert abs(log_loss(undisturbed, DATA) - log_loss(alone, DATA)) < 0.01


def test_a_fit_that_is_asked_for_again_takes_up_what_was_left_of_it(undisturbed: Network, kept: Path) -> None:
    never_read = Gone(DATA.matrix, reader=os.getpid())  # which would end it, if a worker read
    found = fit_network_blocks(checkpointed(replace(in_blocks(DATA), matrix=never_read), kept), PARAMETERS)
    assert np.array_equal(found.predict(DATA.matrix), undisturbed.predict(DATA.matrix))


def test_a_fit_whose_worker_is_killed_goes_on_and_becomes_the_same(undisturbed: Network, tmp_path: Path) -> None:
    """In its second epoch, and once more in the third: a process reads 16 blocks in an epoch."""
    blocks = Deadly(DATA.matrix, folder=str(tmp_path), after=20, deaths=2)
    found = fit_network_blocks(checkpointed(replace(in_blocks(DATA), matrix=blocks), tmp_path), PARAMETERS)
    assert len(list(tmp_path.glob("died-*"))) == 2
    assert np.array_equal(found.predict(DATA.matrix), undisturbed.predict(DATA.matrix))


def test_a_file_that_vanishes_while_workers_read_ends_the_fit_at_once_and_is_named(tmp_path: Path) -> None:
    blocks = Gone(DATA.matrix, reader=os.getpid())
    started = time.monotonic()
    with pytest.raises(DataError, match=r"part-00001\.parquet cannot be read\. Put it back\."):
        fit_network_blocks(checkpointed(replace(in_blocks(DATA), matrix=blocks), tmp_path), PARAMETERS)
    assert time.monotonic() - started < 60


def test_the_quantiles_of_a_number_are_fitted_by_workers_together_whoever_of_them_dies(tmp_path: Path) -> None:
    random, task = np.random.default_rng(2), Regression("minutes", quantiles=(0.1, 0.9))
    matrix = random.normal(size=(12_000, 3)).astype(np.float32)
    spread = 1 + np.abs(matrix[:, 0])
    data = FitData(matrix, 5 + spread * random.normal(size=12_000), DATA.features, task, seed=1, threads=1)

    def fitted(blocks: InMemory, folder: Path) -> SideBySide:
        given = checkpointed(replace(in_blocks(data), matrix=blocks), folder)
        ((_, model),) = steps_of(given, "neural_network", lambda one: NeuralNetwork().fit_blocks(one, PARAMETERS))
        assert isinstance(model, SideBySide)
        return model

    undisturbed = fitted(InMemory(matrix), tmp_path / "undisturbed")
    assert undisturbed.workers == 2
    answers = undisturbed.predict(matrix)
    assert (data.label[:, None] < answers[:, 1:]).mean(axis=0) == pytest.approx([0.1, 0.9], abs=0.02)
    wide = spread > np.median(spread)
    width = answers[:, 2] - answers[:, 1]
    assert width[wide].mean() > 1.2 * width[~wide].mean(), "What a row's features say of its spread is learned."
    deadly = Deadly(matrix, spared=os.getpid(), folder=str(tmp_path), after=20, deaths=4)
    killed = fitted(deadly, tmp_path / "killed")
    assert len(list(tmp_path.glob("died-*"))) == 4
    assert np.array_equal(killed.predict(matrix), answers)
    assert killed.to_onnx() == undisturbed.to_onnx()
