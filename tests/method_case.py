"""The suite that every method inherits: subclass ``MethodCase`` and define ``make``.

What each test costs, in CPU seconds on the multilayer perceptron (``pytest -n 0 --durations=0``),
for a normal posterior and for collapsed beta-Bernoulli gates, a dear method. Tests that run on all
networks cost four times as much, those of what a method keeps twice. What is not listed costs 0.01
and less.

| test                                       | normal | collapsed gates |
| ------------------------------------------ | -----: | --------------: |
| captured steps train as eager ones         |   0.60 |            1.25 |
| planted support is recovered               |   0.35 |            1.50 |
| mean-field KL equals Monte Carlo           |   0.25 |            0.55 |
| compact posterior has the frozen moments   |   0.15 |            0.70 |
| compact posterior is the frozen one        |   0.05 |            0.10 |
| copies are equal and independent           |   0.05 |            0.10 |
| ELBO is finite                             |   0.03 |            0.04 |
| compact network computes what it should    |   0.03 |            0.04 |
| gradients reach every parameter            |   0.01 |            0.03 |
| all, on all networks                       |   2.10 |            5.30 |

Making a capture is most of the first. There are two, and none for other networks unless
``-m slow`` asks for them.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
from typing import Any, ClassVar

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.distributions import Normal

import pyrosparse as ps
from pyrosparse.distributions import ImproperPriorWarning
from pyrosparse.lifting.lift import mean_gates
from tests.monte_carlo import assert_mean
from tests.nets import NETS, batch
from tests.particles import same

# Capturing takes a second and more: the smallest network is enough while one is at work.
FEWER = [pytest.param(name, marks=[pytest.mark.slow] * (name != "mlp")) for name in NETS]

# What a method keeps depends on the kind of a layer, dense or convolution, not on what joins them.
EACH_KIND = pytest.mark.parametrize("name", ["mlp", "cnn"])


class MethodCase:
    """What must hold of any method.

    bad: options that ``make`` must refuse with ValueError.
    capture_dtype: in which captured and eager training are compared.
    recovery: options of ``make`` for the sparse regression; ``recovery_threshold`` its threshold.
    """

    bad: ClassVar[list[dict[str, Any]]] = []
    recovery: ClassVar[dict[str, Any]] = {}
    recovery_threshold: ClassVar[float] = 5.0
    capture_dtype: ClassVar[torch.dtype] = torch.float32

    def make(self, **options: Any) -> ps.Method:
        raise NotImplementedError

    def targets(self, net: nn.Module) -> list[ps.Target]:
        return self.make().targets(net)

    def size(self, loc: Tensor) -> Tensor:
        """What the score must be monotone in."""
        return loc.abs()

    def regression_net(self) -> nn.Module:
        """A network of y = sum_i w_i x_i over 8 inputs, of which the method can remove each."""
        return nn.Linear(8, 1, bias=False)

    def lifted(self, name: str = "mlp") -> ps.Lifted:
        torch.manual_seed(0)
        net = NETS[name]()
        return ps.lift(net, self.make(), self.targets(net))

    def moved(self, name: str = "mlp") -> ps.Lifted:
        """A lifted network whose posterior is away from where it starts."""
        bnn = self.lifted(name)
        with torch.no_grad():
            for parameter in bnn.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return bnn

    def traces(self, bnn: ps.Lifted, x: Tensor) -> tuple[poutine.Trace, poutine.Trace]:
        """Of prior and guide; an improper prior has no draws of its own, and takes the guide's."""
        guide = poutine.trace(bnn.guide).get_trace(x)
        proper = all(entry.method.proper for entry in bnn.guide.entries)
        prior = bnn if proper else poutine.replay(bnn, trace=guide)
        return poutine.trace(prior).get_trace(x), guide

    @pytest.fixture(params=NETS)
    def name(self, request: pytest.FixtureRequest) -> str:
        return request.param

    def test_prior_and_guide_have_the_same_sites_and_shapes(self, name: str) -> None:
        bnn = self.lifted(name)
        prior, guide = self.traces(bnn, batch(name)[0])
        prior.compute_log_prob()
        guide.compute_log_prob()

        def sites(trace: poutine.Trace) -> dict[str, tuple]:
            return {
                key: (site["value"].shape, site["fn"].event_shape, site["log_prob"].shape)
                for key, site in trace.nodes.items()
                if site["type"] == "sample"
            }

        assert sites(prior) == sites(guide)
        assert {target.site for target in bnn.targets} <= set(sites(guide))

    def test_an_improper_prior_announces_that_it_has_no_draws(self) -> None:
        bnn = self.lifted()
        improper = not all(entry.method.proper for entry in bnn.guide.entries)
        with pytest.warns(ImproperPriorWarning) if improper else contextlib.nullcontext():
            bnn(batch("mlp")[0])

    @pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
    def test_elbo_is_finite(self, name: str, elbo: type) -> None:
        bnn = self.lifted(name)
        x, y = batch(name)
        assert torch.isfinite(torch.tensor(elbo().loss(ps.classifier(bnn, 70), bnn.guide, x, y)))

    @pytest.mark.filterwarnings("ignore::pyrosparse.distributions.ImproperPriorWarning")
    def test_autoguides_draw_every_site(self) -> None:
        bnn = self.lifted()
        x, y = batch("mlp")
        model = ps.classifier(bnn, len(x))
        guide = AutoNormal(model)
        try:
            drawn = guide(x, y)
        except ValueError as error:
            assert "has a point mass" in str(error)
            return
        latent = poutine.trace(model).get_trace(x, y).stochastic_nodes
        continuous = {name for name in latent if name != "data" and "support" not in name}
        assert drawn.keys() >= continuous

    def test_particles_drawn_together_are_each_one_draw(self, name: str) -> None:
        # In evaluation mode there is no noise at the activations.
        bnn, (x, y) = self.moved(name).double().eval(), batch(name)
        with mean_gates():
            same(ps.classifier(bnn, 70), bnn.guide, (x.double(), y), tolerance=1e-9)

    def test_gradients_reach_every_parameter_of_guide_and_network(self, name: str) -> None:
        bnn = self.moved(name)
        x, y = batch(name)
        loss = TraceMeanField_ELBO().differentiable_loss(ps.classifier(bnn, 7), bnn.guide, x, y)
        loss.backward()
        for key, parameter in bnn.named_parameters():
            assert parameter.grad is not None, f"no gradient for {key}"
            assert parameter.grad.isfinite().all()
            assert parameter.grad.count_nonzero(), f"the gradient of {key} is zero"

    def test_mean_field_kl_equals_monte_carlo(self) -> None:
        bnn = self.moved().double().eval()
        x = batch("mlp", 1)[0].double()
        elbo = KeepsTraces()
        closed, sampled = [], []
        # Without observations the loss is the KL divergence; of the same draws, its difference to
        # their log densities has the variance that the closed form takes away: four standard errors
        # are a hundredth of the divergence.
        with torch.no_grad():
            for seed in range(100):
                torch.manual_seed(seed)
                closed.append(elbo.loss(bnn, bnn.guide, x))
                prior, guide = elbo.traces
                sampled.append(float(guide.log_prob_sum() - prior.log_prob_sum()))
        difference = torch.tensor([sampled, closed], dtype=torch.float64).diff(dim=0)
        assert_mean(difference.squeeze(0), 0.0, rounding=1e-8)

    def test_normal_posterior_is_what_guide_and_prior_draw_from_and_forgetting_makes_it_the_prior(
        self,
    ) -> None:
        bnn = self.moved().double().eval()
        x = batch("mlp")[0].double()
        entries = [entry for entry in bnn.guide.entries if entry.target.kind == "weight"]
        if all(e.method.normal_posterior(e.target, e.posterior()) is None for e in entries):
            pytest.skip("it has none")
        guide = poutine.trace(bnn.guide).get_trace(x)
        prior = poutine.trace(poutine.replay(bnn, trace=guide)).get_trace(x)
        for entry in entries:
            normal = entry.method.normal_posterior(entry.target, entry.posterior())
            assert normal is not None
            loc, scale, prior_scale = normal
            value = guide.nodes[entry.target.site]["value"]
            for trace, law in (
                (guide, Normal(loc, scale)),
                (prior, Normal(torch.zeros_like(loc), prior_scale)),
            ):
                site = trace.nodes[entry.target.site]["fn"]
                torch.testing.assert_close(site.log_prob(value), law.log_prob(value).sum())
            bnn.freeze({entry.target.key: torch.zeros(entry.target.shape)})
            forgotten = entry.method.normal_posterior(entry.target, entry.posterior())
            assert forgotten is not None
            assert not forgotten[0].any()
            torch.testing.assert_close(forgotten[1], torch.zeros_like(scale) + forgotten[2])

    def test_score_grows_with_the_size_of_the_location(self) -> None:
        for entry in self.moved().guide.entries:
            q = dict(entry.posterior())
            n = q["loc"].numel()
            loc = torch.linspace(-1, 1.1, n)[torch.randperm(n)].view_as(q["loc"])
            spread = q["log_scale"].mean() if "log_scale" in q else None
            q = {key: loc if key == "loc" else value for key, value in q.items()}
            if spread is not None:
                q["log_scale"] = spread.expand_as(loc)
            order = self.size(loc).flatten().argsort()
            score = entry.method.score(entry.target, q).flatten()[order]
            assert (score.diff() > 0).all()

    @EACH_KIND
    def test_state_dict_is_complete_before_the_first_step(self, name: str) -> None:
        bnn = self.lifted(name)
        before = {key: value.shape for key, value in bnn.state_dict().items()}
        train_eagerly(bnn, name)
        assert {key: value.shape for key, value in bnn.state_dict().items()} == before

    @EACH_KIND
    def test_state_dict_round_trip_gives_the_same_network(self, name: str) -> None:
        bnn, other = self.moved(name).eval(), self.lifted(name).eval()
        x, _ = batch(name)
        bnn.freeze({bnn.targets[0].key: torch.rand(bnn.targets[0].shape) > 0.5})
        assert not torch.equal(bnn.mean_forward(x), other.mean_forward(x))
        other.load_state_dict(bnn.state_dict())
        assert torch.equal(bnn.mean_forward(x), other.mean_forward(x))
        for key, score in bnn.scores().items():
            assert torch.equal(score, other.scores()[key])

    @EACH_KIND
    def test_copies_are_equal_and_independent(self, name: str) -> None:
        bnn = self.moved(name)
        x, _ = batch(name)
        train_eagerly(bnn, name)
        expected = bnn.eval().mean_forward(x)
        for other in (copy.deepcopy(bnn), pickle.loads(pickle.dumps(bnn))):
            assert torch.equal(other.mean_forward(x), expected)
            train_eagerly(other, name)
            assert not torch.equal(other.eval().mean_forward(x), expected)
            assert torch.equal(bnn.mean_forward(x), expected)

    def half_pruned(self, name: str) -> tuple[ps.Lifted, ps.Masks]:
        """A lifted network with half of each target frozen at zero; one of one element stays."""
        bnn = self.moved(name).eval()
        levels = {
            key: float(score.median() if score.numel() > 1 else score.min())
            for key, score in bnn.scores().items()
        }
        masks = bnn.masks(levels)
        bnn.freeze(masks)
        return bnn, masks

    def test_compact_network_computes_what_the_masked_one_does(self, name: str) -> None:
        bnn, masks = self.half_pruned(name)
        x, _ = batch(name)
        small = ps.compact(bnn.net, masks, x, gates=bnn.gates(), at_least=1)
        assert torch.allclose(small(x), bnn.mean_forward(x), rtol=1e-5, atol=1e-6)

    def test_compact_posterior_is_the_frozen_one_on_what_is_left(self, name: str) -> None:
        bnn = self.moved(name).double().eval()
        x = batch(name)[0].double()
        masks = some_features(bnn)
        before = {key: value.clone() for key, value in bnn.state_dict().items()}
        small = ps.compact(bnn, masks, x, at_least=1)
        for key, value in bnn.state_dict().items():
            assert torch.equal(value, before[key])
        bnn.freeze(masks)
        assert_same_draws(bnn, small, x)
        assert small.net.account.error <= 1e-9

    def test_compact_posterior_has_the_moments_of_the_frozen_one(self) -> None:
        bnn = self.moved().double().eval()
        x = batch("mlp", 2)[0].double()
        masks = some_features(bnn)
        small = ps.compact(bnn, masks, x, at_least=1)
        bnn.freeze(masks)
        found = []
        for number, one in enumerate((bnn, small)):
            torch.manual_seed(number)
            draws = []
            with torch.no_grad():
                for _ in range(100):
                    trace = poutine.trace(one.guide).get_trace(x)
                    draws.append(poutine.replay(one, trace=trace)(x).flatten())
            found.append(torch.stack(draws))
        first, second = found
        assert_mean(first - second, 0.0)
        centre = first.mean(0)
        assert_mean((first - centre).square() - (second - centre).square(), 0.0)

    def test_masked_network_equals_a_plain_one_with_zeros(self, name: str) -> None:
        bnn, masks = self.half_pruned(name)
        x, _ = batch(name)
        plain = copy.deepcopy(bnn.net)
        with torch.no_grad():
            for entry in bnn.guide.entries:
                target, mask = entry.target, masks[entry.target.key]
                if target.shape != (1,) and mask.numel() > 1:
                    assert 0 < int(mask.count_nonzero()) < mask.numel()
                if target.kind == "weight":
                    mean = entry.method.mean(target, entry.posterior(), None)
                    plain.get_parameter(target.name).copy_(mean * mask)
                    assert not bnn.net.get_parameter(target.name)[~mask].count_nonzero()
                else:
                    apply_gains(plain, target, mask)
            assert torch.equal(bnn.mean_forward(x), plain(x))

    def test_planted_support_is_recovered(self) -> None:
        generator = torch.Generator().manual_seed(5)
        planted = torch.tensor([1, 0, 0, 1, 0, 0, 0, 1], dtype=torch.bool)
        x = torch.randn(80, 8, generator=generator)
        y = x @ planted.float().unsqueeze(-1) + 0.1 * torch.randn(80, 1, generator=generator)
        net = self.regression_net()
        bnn = ps.lift(net, self.make(**self.recovery), self.targets(net))
        model = ps.regressor(bnn, 80, noise=0.1)
        ps.fit(
            model,
            bnn.guide,
            (x, y),
            epochs=300,
            batch_size=80,
            learning_rate=0.05,
            schedule=ps.infer.schedules.cosine(),
            progress=False,
        )
        (mask,) = bnn.masks(self.recovery_threshold).values()
        assert torch.equal(mask.flatten() != 0, planted)

    @pytest.mark.parametrize("name", FEWER)
    @pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
    def test_captured_steps_train_as_eager_ones(self, name: str, elbo: type) -> None:
        # One size of batch only: a capture is made for each, and is most of what this costs. Last
        # batches that are smaller are in the tests of captured steps.
        x, y = batch(name, 16)
        x = x.to(self.capture_dtype)
        batches = list(zip(x.split(8), y.split(8), strict=True))

        def train(captured: bool) -> tuple[ps.Lifted, list[float]]:
            bnn = self.lifted(name).to(self.capture_dtype)
            model = ps.classifier(bnn, 20)
            optimizer = torch.optim.Adam(bnn.parameters(), lr=1e-3, fused=True)
            svi = ps.captured.CapturedSVI(model, bnn.guide, optimizer, elbo())
            losses = []
            for step in range(15):
                data = batches[step % len(batches)]
                if captured:
                    losses.append(svi.step(*data))
                else:
                    losses.append(elbo().loss_and_grads(model, bnn.guide, *data))
                    optimizer.step()
                    optimizer.zero_grad()
            assert not captured or svi.fallback is None
            return bnn, losses

        (eager, expected), (captured, losses) = train(False), train(True)
        for loss, other in zip(losses, expected, strict=True):
            assert abs(loss - other) <= 1e-6 * abs(other)
        after = captured.state_dict()
        assert after.keys() == eager.state_dict().keys()
        for (key, value), other in zip(after.items(), eager.state_dict().values(), strict=True):
            assert (
                (value - other).abs().max() <= 1e-5
                if value.is_floating_point()
                else (torch.equal(value, other))
            ), key
        for copied in (copy.deepcopy(captured), pickle.loads(pickle.dumps(captured))):
            for key, value in copied.state_dict().items():
                assert torch.equal(value, after[key])

    def test_bad_arguments_are_refused(self) -> None:
        assert self.bad
        for options in self.bad:
            with pytest.raises(ValueError):
                self.make(**options)

    def test_float64_gives_float64_draws_and_the_same_mean(self) -> None:
        bnn = self.moved().eval()
        x, _ = batch("mlp")
        single = bnn.mean_forward(x)
        bnn.double()
        double = bnn.mean_forward(x.double())
        assert double.dtype == torch.float64
        assert torch.allclose(double, single.double(), rtol=1e-5, atol=1e-5)
        trace = poutine.trace(bnn.guide).get_trace(x)
        assert all(trace.nodes[t.site]["value"].dtype == torch.float64 for t in bnn.targets)
        with poutine.replay(trace=trace):
            assert bnn(x.double()).dtype == torch.float64


class KeepsTraces(TraceMeanField_ELBO):
    """Its last traces, of prior and guide, stay."""

    traces: tuple[poutine.Trace, poutine.Trace]

    def _get_trace(self, *args: Any) -> tuple[poutine.Trace, poutine.Trace]:
        self.traces = super()._get_trace(*args)
        return self.traces


def train_eagerly(bnn: ps.Lifted, name: str) -> None:
    """One step."""
    ps.fit(ps.classifier(bnn, 7), bnn.guide, batch(name), epochs=1, capture=False, progress=False)


def apply_gains(net: nn.Module, target: ps.Target, gains: Tensor) -> None:
    """Multiply features by gains: along -1 for dense layers, along 1 for convolutions."""
    module = net.get_submodule(target.name)
    if not isinstance(module, nn.Linear):
        gains = gains.view(-1, *[1] * (4 - 2))
    if target.kind == "input":
        module.register_forward_pre_hook(lambda _, args: (args[0] * gains,))
    else:
        module.register_forward_hook(lambda _, args, output: output * gains)


def some_features(bnn: ps.Lifted) -> dict[str, Tensor]:
    """Masks under which, of every target, a feature goes and one single element beside it."""
    masks = {}
    for target in bnn.targets:
        mask = torch.ones(target.shape, dtype=torch.bool)
        if mask.numel() > 2:
            mask.view(-1)[-1] = False
        if mask.dim() > 1 and mask.shape[1] > 1:
            mask[:, 0] = False
        else:
            mask[0] = len(mask) == 1
        masks[target.key] = mask
    return masks


def assert_same_draws(bnn: ps.Lifted, small: ps.Lifted, x: Tensor) -> None:
    """Both lifted networks give the same outputs at the same draws, in float64.

    Which elements are left is read off the numbers themselves, which are all different.
    """
    places = {}
    whole = {entry.target.key: entry for entry in bnn.guide.entries}
    for entry in small.guide.entries:
        target, q = whole[entry.target.key].target, whole[entry.target.key].tensors()
        own = [key for key, value in q.items() if value.shape == target.shape]
        # What is frozen is zero, or has the prior's numbers: some tensors tell more apart.
        key = max(own, key=lambda one: len(q[one].unique()))
        left = entry.tensors()[key].detach().flatten()
        ordered, order = q[key].detach().flatten().sort(stable=True)
        places[target.site] = order[torch.searchsorted(ordered, left)]
        for other, value in q.items():
            if value.shape == target.shape:
                found = entry.tensors()[other].flatten()
                assert torch.equal(found, value.flatten()[places[target.site]])
    hidden = any(e.method.hidden_draws(e.posterior()) for e in bnn.guide.entries)
    torch.manual_seed(3)
    with torch.no_grad():
        drawn = poutine.trace(bnn.guide).get_trace(x)
        fewer = poutine.trace(small.guide).get_trace(x)
        for site, node in fewer.nodes.items():
            if node["type"] != "sample":
                continue
            value = drawn.nodes[site]["value"]
            owner = next((s for s in places if site == s or site.startswith(f"{s}_")), None)
            if owner is not None and value.shape == drawn.nodes[owner]["value"].shape:
                value = value.flatten()[places[owner]].view(node["value"].shape)
            node["value"] = value
        again = [poutine.replay(bnn, trace=drawn)(x) for _ in range(2)]
        random = hidden or not torch.equal(*again)
        with mean_gates() if random else contextlib.nullcontext():
            expected = poutine.replay(bnn, trace=drawn)(x)
            found = poutine.replay(small, trace=fewer)(x)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
