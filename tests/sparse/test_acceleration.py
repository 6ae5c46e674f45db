"""The acceleration table: which networks are timed, and how the table reads."""

import io
import sys

import pytest
import torch
from rich.console import Console
from torch import nn

from pyrosparse import networks
from pyrosparse.compaction import CompactNet
from pyrosparse.sparse import Acceleration, Choices, acceleration

NAMES = ("fc1", "fc2", "fc3")


def printed(table: Acceleration) -> str:
    file = io.StringIO()
    Console(file=file, width=120).print(table)
    return file.getvalue()


def test_what_is_timed_computes_the_same_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = networks.lenet_500_300((1, 8, 8))
    masks = {f"{name}.weight": torch.ones_like(net.get_submodule(name).weight) for name in NAMES}
    masks["fc1.weight"][100:] = 0
    masks["fc2.weight"] = (torch.rand(300, 500) < 0.05).float()
    timed = []

    def latency(nets: list[nn.Module], *inputs: torch.Tensor, repeats: int) -> list[float]:
        assert torch.get_num_threads() == 1 and repeats == 2
        assert all(not one.training for one in nets)
        timed.append((nets, inputs))
        return [8.0, 4.0, 2.0, 1.0]

    monkeypatch.setattr(sys.modules[acceleration.__module__], "best_latency", latency)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        table = acceleration(net, masks, torch.randn(3, 1, 8, 8), batch_sizes=(1, 5), repeats=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert net.training
    for (nets, inputs), size in zip(timed, (1, 5), strict=True):
        assert isinstance(nets[2], CompactNet) and nets[3] is not nets[2]
        assert nets[0] is net
        assert inputs[0].shape == (size, 1, 8, 8)
        outputs = [one.eval()(*inputs) for one in nets]
        for other in outputs[2:]:
            assert torch.allclose(other, outputs[1], atol=1e-5)
        assert not torch.allclose(outputs[0], outputs[1], atol=1e-2)
        assert "fc2" in [layer.name for layer in table.kernels[size].layers]
    assert table.speedup("compact", 5) == 4.0
    assert table.rows()[3] == ("compact, sparse", "1000.000 ms", "8.0", "1000.000 ms", "8.0")


def test_how_the_table_reads() -> None:
    times = {"dense": 4e-3, "masked": 5e-3, "compact": 2e-3}
    text = printed(Acceleration({1: times, 128: times}, {1: Choices([])}))
    for cell in ("batch of 1 ", "batch of 128", "times faster", "5.000 ms", "0.8", "one thread"):
        assert cell in text


def test_what_is_refused() -> None:
    net, x = nn.Sequential(nn.Linear(3, 2)), torch.ones(1, 3)
    with pytest.raises(ValueError, match="batch size"):
        acceleration(net, None, x, batch_sizes=())
    with pytest.raises(ValueError, match="repeats"):
        acceleration(net, None, x, repeats=0)
