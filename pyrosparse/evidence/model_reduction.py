"""Bayesian model reduction: evidence for a smaller model, from the larger one's posterior."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrosparse.lifting.lift import Lifted

Dimensions = int | tuple[int, ...]


def model_reduction(
    loc: Tensor,
    scale: Tensor | float,
    prior_scale: Tensor | float,
    *,
    prior_loc: Tensor | float = 0.0,
    reduced_loc: Tensor | float = 0.0,
    reduced_scale: Tensor | float = 0.0,
    dim: Dimensions | None = None,
) -> Tensor:
    r"""The change of log evidence if the prior of a weight is replaced by a narrower one.

    With the posterior :math:`\mathcal N(m, s^2)` under the prior :math:`\mathcal N(m_p, s_p^2)`,
    the reduced prior :math:`\mathcal N(m_r, s_r^2)`, their precisions :math:`P, \Pi, \Pi_r`,
    :math:`\tilde P = P + \Pi_r - \Pi` and
    :math:`\tilde m = (P m + \Pi_r m_r - \Pi m_p) / \tilde P`,

    .. math::
        \Delta F = \tfrac12 \log \frac{P \, \Pi_r}{\Pi \, \tilde P}
        - \tfrac12 (P m^2 + \Pi_r m_r^2 - \Pi m_p^2 - \tilde P \tilde m^2) .

    To prune a weight is to give it a spike of width zero at 0 as its reduced prior. This limit,
    which is the default, is the Savage-Dickey ratio :math:`\log q(0) - \log p(0)`; with
    :math:`m_p = 0`

    .. math:: \Delta F = \log \frac{s_p}{s} - \frac{m^2}{2 s^2} :

    the evidence favours pruning if :math:`|m| < s \sqrt{2 \log(s_p / s)}`. If the posterior is
    exact, so is :math:`\Delta F`; with a mean-field posterior, too few weights are pruned. For
    several correlated weights the sum of their :math:`\Delta F` is not exact: see
    ``group_reduction``.

    loc, scale: the posterior's m and s > 0; floating point, any shapes that broadcast.
    prior_loc, prior_scale: the prior's m_p and s_p > 0.
    reduced_loc, reduced_scale: the reduced prior's m_r and s_r; a scale of 0 is the spike.
    dim:        sum over these dimensions, whose weights are pruned together: with ``dim=1`` of a
                weight (out, in), one number for each unit. The sum is the change for the group if
                its weights are independent in the posterior.

    Returns nats, of the broadcast shape, without the dimensions in ``dim``.

    Raises ValueError if scales are out of range, and if the reduced prior is so wide that no
    posterior exists under it.

    Source: Friston and Penny (2011), Bayesian model reduction for normal densities; Beckers et al.
    (2022), arXiv 2210.09134, for Bayesian neural networks.

    >>> import torch
    >>> model_reduction(torch.tensor([0.0, 0.3]), 0.1, 1.0)
    tensor([ 2.3026, -2.1974])
    """
    scale, prior_scale, reduced_scale = _scales(loc, scale, prior_scale, reduced_scale)
    # Widths relative to the posterior's and the prior's, so that a narrow spike loses no digits.
    wide, narrow = (reduced_scale / scale).square(), (reduced_scale / prior_scale).square()
    growth = _growth(wide, narrow)
    shift, prior_shift = (loc - reduced_loc) / scale, (prior_loc - reduced_loc) / prior_scale
    cross = 2 * (reduced_scale / scale) * (reduced_scale / prior_scale) * shift * prior_shift
    quadratic = shift.square() * (1 - narrow) - prior_shift.square() * (1 + wide) + cross
    log_ratio = prior_scale.log() - scale.log() - 0.5 * growth.log1p()
    change = log_ratio - 0.5 * quadratic / (1 + growth)
    return change if dim is None else change.sum(dim)


def reduced_posterior(
    loc: Tensor,
    scale: Tensor | float,
    prior_scale: Tensor | float,
    *,
    prior_loc: Tensor | float = 0.0,
    reduced_loc: Tensor | float = 0.0,
    reduced_scale: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor]:
    r"""The posterior under the reduced prior, :math:`\mathcal N(\tilde m, 1 / \tilde P)`.

    Arguments and errors as for ``model_reduction``.

    Returns location and scale, of the broadcast shape; for a spike of width zero, ``reduced_loc``
    and 0.

    Source: as for ``model_reduction``.

    >>> import torch
    >>> loc, scale = reduced_posterior(torch.tensor(0.3), 0.1, 1.0, reduced_scale=0.01)
    >>> round(float(loc), 4), round(float(scale), 4)
    (0.003, 0.01)
    """
    scale, prior_scale, reduced_scale = _scales(loc, scale, prior_scale, reduced_scale)
    wide, narrow = (reduced_scale / scale).square(), (reduced_scale / prior_scale).square()
    growth = _growth(wide, narrow)
    pull = wide * (loc - reduced_loc) - narrow * (prior_loc - reduced_loc)
    new = reduced_loc + pull / (1 + growth)
    return new, (reduced_scale / (1 + growth).sqrt()).expand_as(new)


def group_reduction(loc: Tensor, covariance: Tensor, prior_scale: Tensor | float) -> Tensor:
    r"""The change of log evidence if a group of weights is pruned, from their joint posterior.

    With the marginal posterior :math:`\mathcal N(m, S)` of the d weights of the group under
    independent priors :math:`\mathcal N(0, s_{p,j}^2)`,

    .. math::
        \Delta F = \sum_j \log s_{p,j} - \tfrac12 \log |S| - \tfrac12 m^\top S^{-1} m .

    It is exact if the posterior is, however correlated the weights are.

    loc:         m, (..., d) floating point.
    covariance:  S, (..., d, d).
    prior_scale: one standard deviation, or (..., d).

    Returns nats, (...).

    Raises ValueError if a prior scale is not positive, and if a covariance is not positive
    definite.

    Source: the Savage-Dickey ratio, Dickey (1971), for normal densities.

    >>> import torch
    >>> covariance = torch.tensor([[0.02, 0.01], [0.01, 0.02]])
    >>> group_reduction(torch.zeros(2), covariance, 1.0)
    tensor(4.0559)
    """
    prior_scale = torch.as_tensor(prior_scale, dtype=loc.dtype, device=loc.device)
    _refuse_scale("prior_scale", prior_scale)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed.any() or not covariance.isfinite().all():
        raise ValueError(
            "a covariance is not positive definite: give the covariance of a posterior"
        )
    log_density_ratio = prior_scale.log().expand_as(loc) - factor.diagonal(dim1=-2, dim2=-1).log()
    white = torch.linalg.solve_triangular(factor, loc.unsqueeze(-1), upper=False).squeeze(-1)
    return (log_density_ratio - 0.5 * white.square()).sum(-1)


def reductions(bnn: Lifted, *, rows: bool = False) -> dict[str, Tensor]:
    r"""The change of log evidence for every weight of a lifted network, if it alone is pruned.

    .. math:: \Delta F_j = \log \frac{s_p}{s_j} - \frac{m_j^2}{2 s_j^2}

    rows: return one number for each row of a weight, that is for all inputs of one unit or channel:
          the sum over its weights.

    Returns nats by target, detached: (out, in, *kernel), or (out,) for rows. Weights frozen at zero
    have 0. Gates are left out.

    Raises ValueError if there is no weight among the targets, or if a method has no normal
    posterior under a normal prior (``Method.normal_posterior``).

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(3, 2), ps.Gaussian(posterior="normal"))
    >>> {name: tuple(change.shape) for name, change in reductions(bnn, rows=True).items()}
    {'weight': (2,)}
    """
    found = {}
    masks = {entry.target.key: entry.mask for entry in bnn.guide.entries}
    for key, normal in normal_posteriors(bnn).items():
        change = model_reduction(*normal).masked_fill(~masks[key], 0.0)
        found[key] = change.flatten(1).sum(1) if rows and change.dim() > 1 else change
    return found


def normal_posteriors(bnn: Lifted) -> dict[str, tuple[Tensor, Tensor, Tensor | float]]:
    """Location, scale and prior scale of every weight of a lifted network, by target, detached.

    Gates are left out. All have the target's shape, except a prior scale that is one number.

    Raises ValueError as ``reductions`` does, and if a posterior has NaN.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(3, 2), ps.Gaussian(posterior="normal"))
    >>> loc, scale, prior_scale = normal_posteriors(bnn)["weight"]
    >>> tuple(scale.shape), prior_scale
    ((2, 3), 1.0)
    """
    found = {}
    with torch.no_grad():
        for entry in bnn.guide.entries:
            target = entry.target
            if target.kind != "weight":
                continue
            normal = entry.method.normal_posterior(target, entry.posterior())
            if normal is None:
                raise ValueError(
                    f"{entry.method!r} has no normal posterior under a normal prior over "
                    f"{target.key!r}, which model reduction needs: use a method that has one, "
                    "such as "
                    "Gaussian(posterior='normal'), or write its normal_posterior"
                )
            loc, scale, prior_scale = normal
            if loc.isnan().any() or scale.isnan().any():
                raise ValueError(
                    f"the posterior of {target.key!r} contains NaN, so training has "
                    "diverged: train again with a lower learning rate"
                )
            found[target.key] = loc.detach(), scale, prior_scale
    if not found:
        raise ValueError(
            "the lifted network has no weights among its targets: lift weights, "
            "ps.weights(net), to reduce them"
        )
    return found


def _scales(
    loc: Tensor, scale: Tensor | float, prior_scale: Tensor | float, reduced_scale: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    one, two, three = (
        torch.as_tensor(value, dtype=loc.dtype, device=loc.device)
        for value in (scale, prior_scale, reduced_scale)
    )
    _refuse_scale("scale", one)
    _refuse_scale("prior_scale", two)
    if not bool(((three >= 0) & three.isfinite()).all()):
        raise ValueError("reduced_scale must be 0 (a spike of no width) or more, and finite")
    return one, two, three


def _refuse_scale(name: str, scale: Tensor) -> None:
    if not bool(((scale > 0) & scale.isfinite()).all()):
        raise ValueError(f"{name} must be positive and finite in every element")


def _growth(wide: Tensor, narrow: Tensor) -> Tensor:
    """The reduced posterior's precision divided by the reduced prior's, minus 1."""
    growth = wide - narrow
    if not bool((growth > -1).all()):
        raise ValueError(
            "the reduced prior is wider than the prior, so its posterior would not have a "
            "positive precision. Reduce to a narrower one"
        )
    return growth
