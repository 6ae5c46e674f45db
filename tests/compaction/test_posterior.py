"""A compact lifted network is the frozen one on what is left, in draws, cost and training.

Every method is held to this on tiny networks in ``tests/method_case.py``.
"""

import copy
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn

import pyrosparse as ps
from tests.compaction.attention_nets import Heads
from tests.infer.test_shrink import some
from tests.method_case import assert_same_draws
from tests.nets import Residual


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: ps.networks.fcn((6,), 3, hidden=(9, 7)), (6,)),
    "cnn": (lenet, (1, 12, 12)),
    "resnet": (lambda: ps.networks.create("resnet20", (3, 8, 8), 3), (3, 8, 8)),
    "transformer": (Heads, (5, 12)),
}


def lifted(name: str) -> tuple[ps.Lifted, Tensor]:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    net = make().double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    normal = ps.Gaussian(posterior="normal", initial_scale=0.1)
    gates = ps.inputs(net, "out") if name == "transformer" else ps.gates(net)
    bnn = ps.lift(net, [(normal, ps.weights(net)), (ps.GroupSpikeAndSlab(), gates)])
    with torch.no_grad():
        for parameter in bnn.guide.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return bnn.eval(), torch.randn(3, *shape, dtype=torch.float64)


def masks_of(name: str, bnn: ps.Lifted) -> dict[str, Tensor]:
    if name == "transformer":
        return {"out.input": torch.arange(12) >= 3}  # one head of four
    return some(bnn.net, 0.6)


@pytest.mark.parametrize("name", NETWORKS)
def test_draws_are_those_of_the_frozen_network(name: str) -> None:
    bnn, x = lifted(name)
    masks = masks_of(name, bnn)
    small = ps.compact(bnn, masks, x)
    before, after = small.net.account.parameters
    assert after < 0.8 * before
    bnn.freeze(masks)
    assert_same_draws(bnn, small, x)


def test_what_was_cut_costs_no_divergence() -> None:
    bnn, x = lifted("mlp")
    keep = torch.arange(9) < 4
    masks = {"fc2.input": keep}
    small = ps.compact(bnn, masks, x)
    # What only the cut units read or feed went with them.
    masks |= {"fc1.weight": keep[:, None].expand(9, 6), "fc2.weight": keep.expand(7, 9)}
    bnn.freeze(masks)
    whole, part = (TraceMeanField_ELBO().loss(one, one.guide, x) for one in (bnn, small))
    assert part == pytest.approx(whole, rel=1e-9)


def test_masks_of_a_posterior_and_what_is_frozen_are_cut() -> None:
    bnn, x = lifted("mlp")
    bnn.freeze({"fc2.input": torch.arange(9) < 4})
    small = ps.compact(bnn, None, x)
    assert small.net.account.structure == "4-7-3"
    assert {t.key: t.shape for t in small.targets}["fc2.weight"] == (7, 4)
    again = ps.compact(small, {"fc3.input": torch.arange(7) < 2}, x)
    assert again.net.account.structure == "4-2-3"
    assert again.targets[0].site == "fc1.weight"


def test_it_trains_on_and_goes_to_arviz() -> None:
    bnn, x = lifted("mlp")
    data = (x, torch.tensor([0, 1, 2]))
    small = ps.compact(bnn, masks_of("mlp", bnn), x).train()
    whole = {key: value.clone() for key, value in bnn.state_dict().items()}
    model = ps.classifier(small, 3)
    run = ps.fit(model, small.guide, data, epochs=3, learning_rate=0.01, progress=False)
    assert all(torch.tensor(epoch["loss"]).isfinite() for epoch in run.history)
    tree = ps.to_datatree(small, model, data, draws=3, var_names="fc3.weight")
    assert tree["posterior"]["fc3.weight"].shape[2:] == small.targets[2].shape
    for key, value in bnn.state_dict().items():
        assert torch.equal(value, whole[key])
    assert ps.compact(small.net, small.masks(0.0), x, at_least=1).account.error <= 1e-9


def test_layers_stay_in_their_modes() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).eval()
    bnn = ps.lift(net, ps.Gaussian(posterior="normal"))
    bnn.freeze({"0.weight": torch.arange(8).lt(5)[:, None].expand(8, 6)})
    small = ps.compact(bnn, None, torch.randn(2, 6))
    assert small.training and not any(module.training for module in small.net.modules())
    net.train()[1].eval()
    small = ps.compact(bnn, None, torch.randn(2, 6))
    assert {name for name, part in small.net.named_modules() if not part.training} == {"1"}


def test_a_name_before_the_sites_stays() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    bnn = ps.lift(net, ps.Gaussian(posterior="normal"), name="first")
    small = ps.compact(bnn, {"2.weight": torch.tensor([[1, 0, 1]]).expand(2, 3)}, torch.ones(1, 4))
    assert [target.site for target in small.targets] == ["first.0.weight", "first.2.weight"]
    assert small.targets[0].shape == (2, 4)


def test_a_branch_that_is_gone_takes_its_targets_with_it() -> None:
    torch.manual_seed(0)
    net = Residual().double()
    normal = ps.Gaussian(posterior="normal")
    gates = ps.outputs(net, "branch.3")
    bnn = ps.lift(net, [(normal, ps.weights(net)), (ps.GroupSpikeAndSlab(), gates)]).eval()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    masks = {"branch.3.output": torch.zeros(3)}
    small = ps.compact(bnn, masks, x, at_least=0)
    assert [target.key for target in small.targets] == ["stem.weight", "head.weight"]
    bnn.freeze(masks)
    assert_same_draws(bnn, small, x)


def rows(target: ps.Target) -> Tensor:
    scale = pyro.sample(
        target.part("scale"), dist.HalfCauchy(torch.ones(target.shape[0], 1)).to_event(2)
    )
    return pyro.sample(target.site, dist.Normal(torch.zeros(target.shape), scale).to_event(2))


def test_what_has_another_law_in_part_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.ones(1, 4)
    masks = {"2.weight": torch.tensor([[1, 0, 1]]).expand(2, 3)}
    by_rows = ps.lift(copy.deepcopy(net), ps.from_pyro(rows))
    with pytest.raises(ValueError, match="site 'scale' whose shape follows"):
        ps.compact(by_rows, masks, x)
    dropout = ps.lift(copy.deepcopy(net), ps.TargetedDropout(sparsity=0.3))
    with pytest.raises(ValueError, match="not final"):
        ps.compact(dropout, masks, x)  # nothing of the first layer is frozen
    with pytest.raises(ValueError, match="own gates"):
        ps.compact(ps.lift(net, ps.Gaussian()), masks, x, gates={})
    with pytest.raises(ValueError, match="nothing is left of"):
        empty = {"2.weight": torch.zeros(2, 3)}
        ps.compact(ps.lift(copy.deepcopy(net), ps.Gaussian()), empty, x)
