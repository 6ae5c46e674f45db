"""How far would each criterion prune the same network, and what is that network worth?

    python examples/prune_by_evidence.py --scale 0.3

One posterior is trained. Its weights are ranked by their signal |m| / s, and each criterion says
where along that ranking it is largest. The last three rows are not chosen from a grid: batches went
as long as the ELBO gained, without and with training between them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import pyro.poutine as poutine
import torch

import pyrosparse as ps
from pyrosparse.evidence import (
    elbo,
    elbo_difference,
    evaluate,
    log_bayes_factor,
    log_posterior,
    reductions,
)

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


def main(
    epochs: int = 120,
    scale: float = 0.3,
    draws: int = 16,
    hidden: int = 32,
    seed: int = 0,
) -> dict[str, float]:
    data = ps.data.load("digits", seed=seed)
    torch.manual_seed(seed)
    net = ps.networks.fcn(data.image_shape, hidden=(hidden, hidden))
    bnn = ps.lift(net, ps.Gaussian(scale=scale, posterior="normal", estimator="activations"))
    model = ps.classifier(bnn, n=len(data.train))
    start = copy_of(bnn)

    def train(*callbacks: ps.infer.Callback) -> None:
        bnn.load_state_dict(start)
        ps.fit(
            model,
            bnn.guide,
            data.train,
            epochs=epochs,
            learning_rate={"guide.*": 2e-2, "*": 2e-3},
            schedule=ps.infer.schedules.cosine(0.01),
            callbacks=callbacks,
            seed=seed,
            progress=False,
        )

    def measure() -> tuple:
        return (
            elbo(model, bnn.guide, data.train, draws=draws, seed=seed),
            log_posterior(model, bnn.guide, data.train),
        )

    train()
    trained, (bound, point) = copy_of(bnn), measure()
    changes = reductions(bnn)
    size = sum(change.numel() for change in changes.values())
    masks = {0.0: None} | {sparsity: ps.prune.ranked(bnn, sparsity) for sparsity in SPARSITIES}
    values: dict[str, dict[float, float]] = {}
    for sparsity, kept in masks.items():
        total = 0.0
        if kept is not None:
            bnn.load_state_dict(trained)
            bnn.freeze(kept)
            total = sum(float(changes[key][~mask].sum()) for key, mask in kept.items())
        pruned_bound, pruned_point = measure()
        for criterion, value in {
            "sum of dF": total,
            "joint ELBO change": elbo_difference(bound, pruned_bound).mean,
            "point log BF, summed": log_bayes_factor(point, pruned_point).total,
            "point log BF, mean": log_bayes_factor(point, pruned_point, "mean").total,
        }.items():
            values.setdefault(criterion, {})[sparsity] = value

    def pruned_to(sparsity: float) -> None:
        kept = masks[sparsity]
        bnn.load_state_dict(trained)
        if kept is not None:
            bnn.freeze(kept)

    def reduced(order: ps.prune.Order) -> None:
        bnn.load_state_dict(trained)
        ps.prune.reduce_model(model, bnn, data.train, order=order, draws=draws, seed=seed)

    def reduced_and_trained() -> None:
        every = max(1, epochs // 40)
        train(ps.prune.ReductionPruner(warmup=epochs // 4, every=every, draws=draws))

    def chosen_by(criterion: str) -> Callable[[], None]:
        by_sparsity = values[criterion]
        return lambda: pruned_to(max(by_sparsity, key=by_sparsity.__getitem__))

    rows = {"unpruned": lambda: pruned_to(0.0)}
    rows |= {criterion: chosen_by(criterion) for criterion in values}
    rows |= {
        "reduction by dF": lambda: reduced("evidence"),
        "reduction": lambda: reduced("signal"),
        "reduction, training on": reduced_and_trained,
    }
    print(f"prior scale {scale}; nats; test data choose nothing")
    print(f"{'criterion':<24} {'sparsity':>8} {'ELBO change':>12} {'log density':>12} accuracy")
    result = {}
    for name, apply in rows.items():
        apply()
        gain = elbo_difference(bound, measure()[0])
        sparsity = 1 - bnn.masks(-math.inf).kept / size
        density = log_predictive_density(bnn, data.test, draws, seed)
        accuracy = evaluate(model, bnn.guide, data.test)["accuracy"]
        change = f"{gain.mean:.0f} +- {gain.standard_error:.0f}"
        print(f"{name:<24} {sparsity:>8.3f} {change:>12} {density:>12.3f} {accuracy:.3f}")
        result |= {f"{name}: sparsity": sparsity, f"{name}: log density": density}
    return result


def log_predictive_density(bnn: ps.Lifted, data: ps.data.Examples, draws: int, seed: int) -> float:
    """log of the predictive density, the mean over draws of the posterior, per held-out datum."""
    logs = []
    bnn.eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(draws):
            trace = poutine.trace(bnn.guide).get_trace(data.x)
            logits = poutine.replay(bnn, trace=trace)(data.x).double()
            logs.append(logits.log_softmax(-1).gather(1, data.y[:, None])[:, 0])
    return float((torch.stack(logs).logsumexp(0) - math.log(draws)).mean())


def copy_of(bnn: ps.Lifted) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in bnn.state_dict().items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--scale", type=float, default=0.3)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
