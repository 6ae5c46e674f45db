"""Small steps run on one thread, by their work and not by a clock."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import pyrosparse as ps
from pyrosparse.infer import Callback, work
from pyrosparse.infer.work import ELEMENT, Work


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Threads(Callback):
    """Notes the number of threads; stops where it is told to."""

    def __init__(self, stop: bool = False) -> None:
        self.seen: set[int] = set()
        self.stop = stop

    def on_step(self, run: ps.infer.Fit, progress: float) -> None:
        self.seen.add(torch.get_num_threads())
        if self.stop:
            raise KeyboardInterrupt


def trained(*callbacks: Callback) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    bnn = ps.lift(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), ps.Gaussian())
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    options = {"epochs": 2, "batch_size": 10, "progress": False}
    ps.fit(ps.classifier(bnn, 30), bnn.guide, (x, y), callbacks=callbacks, **options)
    return bnn.state_dict()


def test_small_steps_have_one_thread_and_the_caller_those_of_before(two_threads: None) -> None:
    threads = Threads()
    on_two = trained(threads)
    assert threads.seen == {1} and torch.get_num_threads() == 2
    with pytest.raises(KeyboardInterrupt):
        trained(Threads(stop=True))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    for name, value in trained().items():
        assert torch.equal(value, on_two[name])


def test_large_steps_keep_the_callers_threads(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "WORTH_THREADS", 0)
    threads = Threads()
    trained(threads)
    assert threads.seen == {2} and torch.get_num_threads() == 2


def test_work_is_counted_as_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5))
    x = torch.randn(7, 1, 4, 4)
    with Work() as counted, torch.no_grad():
        net(x)
    products = 7 * (8 * 9 + 8 * 5)
    assert counted.operations == 2 * products
    assert counted.elements == 7 * 8  # of the ReLU; views and biases cost nothing more
    assert counted.total == 2 * products + ELEMENT * 7 * 8
