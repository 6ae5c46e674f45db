"""Accuracy under attack, against closed forms; adversarial fine-tuning keeps zeros and helps."""

import copy
import math
from collections.abc import Iterator

import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.data import DataSet, Examples
from pyrosparse.measure import quality
from pyrosparse.robustness import (
    RobustnessRow,
    adversarial_classifier,
    adversarial_examples,
    adversarial_fine_tune,
    fgsm,
    robustness_rows,
)
from tests import nets

EPSILONS = (0.0, 0.05, 0.2, 0.5)


def linear(classes: int, scale: float = 1.0) -> tuple[nn.Linear, Tensor, Tensor]:
    """A linear classifier with pixels in [0, 1] and labels that it mostly gets right."""
    torch.manual_seed(0)
    net = nn.Linear(6, classes).double()
    with torch.no_grad():
        net.weight.mul_(scale)
        net.bias.copy_(-net.weight.sum(1) / 2)  # so that the middle of the pixels is undecided
    x = torch.rand(300, 6, dtype=torch.float64)
    y = net(x).argmax(1)
    y[::10] = (y[::10] + 1) % classes
    return net, x, y


def test_a_linear_classifier_of_two_classes_loses_what_the_closed_form_says() -> None:
    net, x, y = linear(2)
    # Its margin is d x + b_y - b_other with d = w_y - w_other; a step lowers it by epsilon |d|_1.
    difference = net.weight[0] - net.weight[1]
    signs = 1.0 - 2.0 * y
    margin = signs * (x @ difference + net.bias[0] - net.bias[1])
    expected = [float((margin > e * difference.abs().sum()).double().mean()) for e in EPSILONS]
    found = fgsm(net, (x, y), EPSILONS, batch_size=64)
    assert found.accuracies == tuple(expected)
    assert found.examples == 300
    assert expected[0] > expected[1] > expected[2]  # the example can tell


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("clipped", [False, True])
def test_the_direction_is_the_sign_of_the_gradient_of_the_cross_entropy(
    classes: int, clipped: bool
) -> None:
    net, x, y = linear(classes)
    # By hand: sum over classes of (p_k - [k = y]) w_k.
    residual = net(x).softmax(1) - nn.functional.one_hot(y, classes)
    expected = x + 0.2 * (residual @ net.weight).sign()
    if clipped:
        expected = expected.clamp(0, 1)
    moved = adversarial_examples(net, x, y, 0.2, bounds=(0, 1) if clipped else None)
    assert torch.equal(moved, expected)
    assert not moved.requires_grad


def test_a_network_too_sure_for_a_gradient_of_its_loss_is_attacked_all_the_same() -> None:
    sure, calm = (linear(2, scale)[0].float() for scale in (1e5, 1.0))
    x, y = (part.float() if part.is_floating_point() else part for part in linear(2)[1:])
    leaf = x.clone().requires_grad_()
    nn.functional.cross_entropy(sure(leaf), y, reduction="sum").backward()
    right = sure(x).argmax(1) == y
    flat = (leaf.grad == 0).all(1)
    assert flat[right].double().mean() > 0.9  # the loss itself, in float32
    # Of two classes the direction is that of the difference of their weights, at any scale.
    attacked, expected = (adversarial_examples(net, x, y, 0.2) for net in (sure, calm))
    assert torch.equal(attacked, expected)
    assert torch.allclose((attacked - x).abs(), torch.tensor(0.2))


def test_bounds_hold_and_give_epsilon_its_unit() -> None:
    net, x, y = linear(3)
    low, high = torch.tensor([0.0, -1, 0, 0, 0, 0]), torch.tensor([1.0, 3, 1, 1, 1, 2])
    moved = adversarial_examples(net, x, y, 0.4, bounds=(low, high))
    assert (moved >= low).all() and (moved <= high).all()
    assert (moved == 0).any() and (moved == 1).any()
    inside = (moved > low) & (moved < high)
    steps = (moved - x).abs()
    assert torch.allclose(steps[inside], (0.4 * (high - low)).expand_as(x)[inside].double())


def test_pixels_are_attacked_alike_however_they_are_normalised() -> None:
    # Standardised data under a linear network are pixels under another linear network.
    digits = ps.data.load("digits")
    pixels = ps.data.load("digits", normalise="unit")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    low, high = (float(bound) for bound in digits.bounds)
    raw = copy.deepcopy(net)
    with torch.no_grad():
        raw[1].bias += low * net[1].weight.sum(1)
        raw[1].weight.mul_(high - low)
    found, expected = (
        fgsm(one, (part.test.x.double(), part.test.y), EPSILONS, bounds=part.bounds)
        for one, part in ((net, digits), (raw, pixels))
    )
    assert found == expected
    with pytest.raises(ValueError, match="give its `bounds`"):
        fgsm(net, (digits.test.x.double(), digits.test.y), EPSILONS, bounds=(0, 1))


@pytest.mark.parametrize("name", nets.NETS)
def test_epsilon_0_is_plain_accuracy_and_the_network_stays_as_it_is(name: str) -> None:
    net, data = nets.NETS[name](), nets.batch(name, 40)
    net.train()
    before = copy.deepcopy(net.state_dict())
    net_modes = [module.training for module in net.modules()]
    some = next(net.parameters())
    some.grad = torch.full_like(some, 7.0)
    with torch.no_grad():
        found = fgsm(net, data, [0.0, 0.1], batch_size=16)
    assert found.accuracies[0] == quality(net, data).accuracy
    assert [module.training for module in net.modules()] == net_modes
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)
    assert torch.equal(some.grad, torch.full_like(some, 7.0))
    assert all(one.grad is None and one.requires_grad for one in list(net.parameters())[1:])
    assert not data[0].requires_grad


def test_batches_of_any_kind_and_size_agree() -> None:
    net, data = nets.cnn(), nets.batch("cnn", 50)
    expected = fgsm(net, data, EPSILONS)
    assert fgsm(net, data, EPSILONS, batch_size=7) == expected
    assert fgsm(net, Examples(*data), EPSILONS, batch_size=50) == expected
    assert fgsm(net, (data[0], data[1].int()), EPSILONS) == expected
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=11)
    assert fgsm(net, loader, EPSILONS) == expected
    with torch.inference_mode():
        assert fgsm(net, data, EPSILONS) == expected
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    assert fgsm(net, data, EPSILONS) == expected


def test_lifted_masked_and_compact_networks_are_attacked_alike() -> None:
    net, data = nets.mlp(), nets.batch("mlp", 60)
    mask = torch.ones_like(net[0].weight, dtype=torch.bool)
    mask[1:4] = False
    with torch.no_grad():
        net[0].weight.mul_(mask)
    expected = fgsm(net, data, EPSILONS)
    bnn = ps.lift(net, ps.Gaussian(posterior="normal"))
    assert fgsm(bnn, data, EPSILONS) == expected
    assert bnn.training
    small = ps.compact(net, {"0.weight": mask}, data[0][:1])
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
    assert fgsm(small, data, EPSILONS) == expected


def test_a_sparse_weight_is_attacked_like_a_dense_one() -> None:
    class Sparse(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.register_buffer("weight", weight.to_sparse_coo())

        def forward(self, x: Tensor) -> Tensor:
            return torch.sparse.mm(self.weight, x.T).T

    _, x, y = linear(4)
    dense = nn.Linear(6, 4, bias=False).double()
    with torch.no_grad():
        dense.weight[dense.weight < 0] = 0
    data = (x, y)
    assert fgsm(Sparse(dense.weight.detach()), data, EPSILONS) == fgsm(dense, data, EPSILONS)


class NoGradient(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def spent() -> Iterator[tuple[Tensor, Tensor]]:
    yield from ()


X, Y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    "net, data, epsilons, options, message",
    [
        (nn.Identity(), (X, Y), [], {}, "empty"),
        (nn.Identity(), (X, Y), [-0.1], {}, "not negative"),
        (nn.Identity(), (X, Y), [math.nan], {}, "finite"),
        (nn.Identity(), (X, Y), [0.1], {"bounds": (1, 0)}, "lowest < highest"),
        (nn.Identity(), (X, Y), [0.1], {"bounds": (0.5, 1)}, "outside"),
        (nn.Identity(), (X, Y), [0.1], {"bounds": (torch.zeros(2), 1)}, "broadcast"),
        (nn.Identity(), (X, Y), [0.1], {"bounds": (torch.zeros(4, 3), 1)}, "broadcast"),
        (nn.Identity(), (X, Y), [0.1], {"batch_size": 0}, "batch_size"),
        (nn.Identity(), (X, X, Y), [0.1], {}, "3 parts"),
        (nn.Identity(), (X.long(), Y), [0.1], {}, "floating point"),
        (nn.Identity(), (X, Y + 3), [0.1], {}, r"classes 0\.\.2"),
        (nn.Identity(), (X, Y.float()), [0.1], {}, "float32"),
        (nn.Identity(), (X[:, :1], Y), [0.1], {}, "one class"),
        (NoGradient(), (X, Y), [0.1], {}, "no gradient reaches"),
        (nn.Identity(), spent(), [0.1], {}, "no data"),
    ],
)
def test_wrong_arguments(net, data, epsilons, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        fgsm(net, data, epsilons, **options)


def test_rows_before_and_after() -> None:
    net, data = nets.mlp(), nets.batch("mlp", 30)
    other = copy.deepcopy(net)
    rows = robustness_rows({"a": net}, data, [0.0, 0.1], fine_tuned={"a": other})
    accuracies = fgsm(net, data, [0.0, 0.1]).accuracies
    assert rows == [
        RobustnessRow("a", tuned, epsilon, accuracy)
        for tuned in (False, True)
        for epsilon, accuracy in zip((0.0, 0.1), accuracies, strict=True)
    ]
    with pytest.raises(ValueError, match="no network"):
        robustness_rows({}, data, [0.1])
    with pytest.raises(ValueError, match="without a network of the same name: b"):
        robustness_rows({"a": net}, data, [0.1], fine_tuned={"b": other})


@pytest.fixture(scope="module")
def pruned() -> tuple[nn.Module, ps.Masks, DataSet]:
    """A network trained on digits, four fifths of its weights at zero."""
    torch.manual_seed(0)
    digits = ps.data.load("digits")
    net = ps.networks.fcn((1, 8, 8), hidden=(64,))
    bnn = ps.lift(net, ps.Gaussian())
    ps.fit(
        ps.classifier(bnn, len(digits.train)), bnn.guide, digits.train, epochs=10, progress=False
    )
    masks = ps.Masks()
    for target in bnn.targets:
        size = target.value.abs()
        masks[target.key] = size > size.flatten().quantile(0.8)
    bnn.zero(masks)
    return net, masks, digits


def test_fine_tuning_keeps_zeros_and_helps_against_the_attack(pruned) -> None:
    net, masks, digits = pruned
    tuned = {}
    for weight in (0.0, 0.5, 1.0):
        one = copy.deepcopy(net).eval()
        history = adversarial_fine_tune(
            one,
            masks,
            digits.train,
            epsilon=0.1,
            epochs=15,
            bounds=digits.bounds,
            weight=weight,
            validation=digits.validation,
            progress=False,
        )
        assert len(history) == 15 and "validation_accuracy" in history[-1]
        for name, parameter in one.named_parameters():
            assert parameter.grad is None
            if name in masks:
                assert not parameter[~masks[name]].any()
                assert not torch.equal(parameter, net.get_parameter(name))
        assert not one.training
        tuned[weight] = fgsm(one, digits.test, [0.0, 0.1, 0.2], bounds=digits.bounds).accuracies
    before = fgsm(net, digits.test, [0.0, 0.1, 0.2], bounds=digits.bounds).accuracies
    # 359 test data: two percent are 7 of them. Against the plainly fine-tuned network, so that
    # what helps is the adversarial examples.
    assert tuned[0.5][1] > before[1] + 0.2
    assert tuned[0.5][1] > tuned[0.0][1] + 0.02
    assert tuned[0.5][2] > tuned[0.0][2] + 0.02
    assert tuned[0.5][0] > tuned[0.0][0] - 0.02
    assert tuned[1.0][1] > tuned[0.0][1] + 0.02


def test_fine_tuning_is_determined_by_the_seed(pruned) -> None:
    net, masks, digits = pruned
    few = digits.train.subset(torch.arange(200))

    def tune(seed: int) -> dict[str, Tensor]:
        one = copy.deepcopy(net)
        torch.rand(seed + 1)  # the caller's generator is of no account
        adversarial_fine_tune(
            one, masks, few, epsilon=0.1, epochs=2, bounds=digits.bounds, seed=seed, progress=False
        )
        return one.state_dict()

    first, again, other = tune(0), tune(0), tune(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_fine_tuning_of_compact_and_normalised_networks() -> None:
    data = nets.batch("cnn", 30)
    net = nets.cnn()
    mask = torch.ones_like(net[0].weight, dtype=torch.bool)
    mask[1] = False
    adversarial_fine_tune(
        net, {"0.weight": mask}, data, epsilon=0.1, epochs=2, batch_size=10, progress=False
    )
    assert not net[0].weight[1].any()
    assert int(net[1].num_batches_tracked) == 6  # the attacks leave the statistics alone
    small = ps.compact(net, {"0.weight": mask}, data[0][:1])
    before = copy.deepcopy(small.state_dict())
    assert len(adversarial_fine_tune(small, {}, data, epsilon=0.1, epochs=1, progress=False)) == 1
    assert any(not torch.equal(small.state_dict()[key], before[key]) for key in before)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_likelihood_is_the_mixture_of_clean_and_adversarial(weight: float) -> None:
    net, (x, y) = nets.mlp(), nets.batch("mlp", 8)
    bnn = ps.lift(net, ps.Gaussian())
    model = adversarial_classifier(bnn, 8, epsilon=0.1, weight=weight)

    def likelihood() -> float:
        guide = poutine.trace(bnn.guide).get_trace(x, y)
        trace = poutine.trace(poutine.replay(model, guide)).get_trace(x, y)
        trace.compute_log_prob()
        names = {"y", "adversarial"} & set(trace.nodes)
        return sum(trace.nodes[name]["log_prob_sum"].item() for name in names)

    def log_likelihood(inputs: Tensor) -> float:
        return -nn.functional.cross_entropy(net(inputs), y, reduction="sum").item()

    clean, moved = log_likelihood(x), log_likelihood(adversarial_examples(net, x, y, 0.1))
    assert moved < clean - 0.1
    assert likelihood() == pytest.approx((1 - weight) * clean + weight * moved, rel=1e-5)
    bnn.eval()
    assert likelihood() == pytest.approx(clean, rel=1e-5)


def test_fine_tuning_refuses_before_it_changes_anything() -> None:
    net, (x, y) = nets.mlp(), nets.batch("mlp", 8)
    before = copy.deepcopy(net.state_dict())
    mask = torch.zeros_like(net[0].weight, dtype=torch.bool)

    def tune(masks, message: str, data=(x, y), **options) -> None:
        with pytest.raises(ValueError, match=message):
            adversarial_fine_tune(
                net, masks, data, **({"epsilon": 0.1, "epochs": 1, "progress": False} | options)
            )

    tune({"0.wieght": mask}, "0.weight")
    tune({"0.weight": mask[:2]}, "shape")
    tune({"0.weight": mask}, "epsilon", epsilon=0.0)
    tune({"0.weight": mask}, "weight must be", weight=1.5)
    tune({"0.weight": mask}, "outside", bounds=(0, 1))
    tune({"0.weight": mask}, "different numbers of rows", data=(x, y[:4]))
    tune({"0.input": torch.ones(4)}, "parameter|target")
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)
