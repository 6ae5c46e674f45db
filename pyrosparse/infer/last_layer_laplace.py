"""A normal posterior of the last layer around its maximum: the Laplace approximation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pyrosparse.evidence.batches import inputs_and_targets
from pyrosparse.evidence.traces import evaluation_mode
from pyrosparse.lifting.guide import Entry
from pyrosparse.lifting.lift import Lifted
from pyrosparse.methods.gaussian import Gaussian
from pyrosparse.models import classifier, regressor


class LastLayerLaplace:
    r"""The Laplace approximation of a network's last layer; all other weights stay points.

    .. math:: w_L \sim \mathcal N(\hat w_L, P^{-1}), \qquad
        P = -\sum_i \nabla^2 \log p(y_i \mid f(x_i; \hat w)) + \operatorname{diag}(s^{-2})

    The package laplace-torch (extra ``laplace``) computes the Hessian. It is exact in the last
    layer, whose weights enter the outputs linearly.

    model:     ``ps.classifier``, or ``ps.regressor`` with known noise, of a lifted network that was
               trained with ``ps.Gaussian(scale=s)``, posterior ``point``, on all its weights and
               biases: ``ps.weights(net, "*")``. It does not change.
    data:      the training data: ``Examples``, (x, y), or a ``DataLoader`` of such batches.
    structure: structure of P for the d parameters of the last layer: ``full``, d^2 numbers and d^3
               operations; ``kron``, a Kronecker product of a matrix of inputs and one of outputs,
               which is an approximation; or ``diag``.
    batch_size: the batch size for the Hessian, if the data are tensors.

    It is a guide: ``ps.predict(model, x, guide=laplace)``. Its auxiliary site ``laplace``, (d,), is
    standard normal, and the last layer's weights are a linear function of it.

    layer: the name of the last layer.

    Raises ImportError without laplace-torch; TypeError for other models; ValueError if a site is
    not a weight with a point posterior under ``ps.Gaussian``, if weights of the last layer are
    frozen, and if the network's output is not the output of a linear layer.

    Source: Daxberger et al. (2021), "Laplace redux: effortless Bayesian deep learning", sections 2
    and 3.1.

    >>> import pyrosparse as ps
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> bnn = ps.lift(net, ps.Gaussian(scale=1.0), ps.weights(net, "*"))
    >>> data = (torch.randn(20, 4), torch.zeros(20, dtype=torch.int64))
    >>> model = ps.classifier(bnn, 20)
    >>> run = ps.fit(model, bnn.guide, data, epochs=5, progress=False)
    >>> laplace = LastLayerLaplace(model, data)  # doctest: +SKIP
    >>> len(ps.predict(model, data[0], guide=laplace, draws=10))  # doctest: +SKIP
    20
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        *,
        structure: Literal["full", "kron", "diag"] = "kron",
        batch_size: int = 1000,
    ) -> None:
        # Wrong arguments are reported before a missing package.
        if structure not in ("full", "kron", "diag"):
            raise ValueError(f"structure must be 'full', 'kron' or 'diag', got {structure!r}")
        kind, noise = likelihood(model)
        lifted = model.network
        if not isinstance(lifted, Lifted):
            raise TypeError(f"the model's network must be lifted, got {type(lifted).__name__}")
        for entry in lifted.guide.entries:
            _check_point(entry)
        data = _loader(data, batch_size, model)
        self.layer = last_layer(lifted.net, next(iter(data))[0])
        last = dict(lifted.net.get_submodule(self.layer).named_parameters())
        others = {id(entry.parameter()): entry for entry in lifted.guide.entries}
        if not all(id(parameter) in others for parameter in last.values()):
            raise ValueError(
                f"{self.layer} has parameters that are not lifted: lift all weights and biases, "
                "ps.lift(net, ps.Gaussian(scale=...), ps.weights(net, '*'))"
            )
        self._last = [others.pop(id(parameter)) for parameter in last.values()]
        if any(entry.frozen for entry in self._last):
            raise ValueError(
                f"weights of {self.layer} are frozen at zero, but this posterior would draw them: "
                "use the network before pruning, or do not prune the last layer"
            )
        precisions = [
            torch.full_like(parameter.detach().flatten(), float(entry.method.scale) ** -2)  # type: ignore[attr-defined]
            for parameter, entry in zip(last.values(), self._last, strict=True)
        ]
        if structure == "kron":  # it needs one number a tensor, the others one a weight
            precisions = [one[:1] for one in precisions]
        self._laplace = _laplace(
            lifted.net,
            kind,
            sigma_noise=noise,
            hessian_structure=structure,
            prior_precision=torch.cat(precisions),
            last_layer_name=self.layer,
        )
        with evaluation_mode(lifted.net):
            self._laplace.fit(data)
        self._mean = self._laplace.mean.detach()
        self._points = {
            entry.target.site: entry.parameter().detach().clone() for entry in others.values()
        }
        self._structure = structure

    @property
    def covariance(self) -> Tensor:
        """The covariance P^-1 of the last layer's parameters, flat in the order of
        ``named_parameters``, (d, d)."""
        root = self._times_root(torch.eye(len(self._mean)).to(self._mean))
        return root.T @ root

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        standard = dist.Normal(torch.zeros_like(self._mean), 1.0).to_event(1)
        z = pyro.sample("laplace", standard, infer={"is_auxiliary": True})
        drawn = self._mean + self._times_root(z[None])[0]
        # The density of the weights is that of z over the determinant of the root.
        log_density = 0.5 * self._laplace.log_det_posterior_precision
        start = 0
        for entry in self._last:
            shape = entry.target.shape
            size = math.prod(shape)
            value = drawn[start : start + size].view(shape)
            start += size
            law = dist.Delta(value, log_density=log_density, event_dim=value.dim())
            pyro.sample(entry.target.site, law)
            log_density = torch.zeros_like(log_density)
        for site, value in self._points.items():
            pyro.sample(site, dist.Delta(value, event_dim=value.dim()))

    def _times_root(self, z: Tensor) -> Tensor:
        """Rows (m, d) times a root of the covariance: standard normal rows become draws from
        N(0, P^-1)."""
        if self._structure == "kron":
            return self._laplace.posterior_precision.bmm(z, exponent=-0.5).reshape(z.shape)
        scale = self._laplace.posterior_scale
        return z @ scale.T if self._structure == "full" else z * scale


def likelihood(model: Any) -> tuple[str, float]:
    """The likelihood of a model by its name in laplace-torch, and the noise's standard deviation.

    Raises TypeError for other models.
    """
    plain = isinstance(model, classifier | regressor) and model.output is None
    if plain and isinstance(model, classifier) and model.class_dim in (-1, 1):
        return "classification", 1.0
    if plain and isinstance(model, regressor) and isinstance(model.noise, int | float):
        return "regression", float(model.noise)
    raise TypeError(
        "the Laplace approximation needs ps.classifier, or ps.regressor with known noise, "
        f"noise=0.1, of a network that gives a tensor; got {type(model).__name__}"
    )


def _check_point(entry: Entry) -> None:
    method = entry.method
    if not isinstance(method, Gaussian) or method.posterior != "point":
        raise ValueError(
            f"the Laplace approximation needs a point posterior and a Gaussian prior, but "
            f"{entry.target.key} has {type(method).__name__} with another posterior: lift with "
            "ps.lift(net, ps.Gaussian(scale=...), ps.weights(net, '*'))"
        )


def _loader(data: Any, batch_size: int, model: nn.Module) -> DataLoader[Any]:
    if isinstance(data, DataLoader) and not isinstance(next(iter(data)), Mapping):
        return data
    return DataLoader(TensorDataset(*inputs_and_targets(data, model)), batch_size=batch_size)


def last_layer(net: nn.Module, *inputs: Tensor) -> str:
    """The name of the linear layer that computes the network's output, for inputs (n, ...).

    Raises ValueError if there is no such layer.
    """
    gave: dict[str, Any] = {}
    handles = [
        module.register_forward_hook(lambda *call, name=name: gave.update({name: call[2]}))
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.no_grad(), evaluation_mode(net):
            output = net(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, own in gave.items():
        if own is output or (isinstance(output, Tensor) and torch.equal(own, output)):
            return name
    raise ValueError(
        "the network's output is not the output of a linear layer: remove the operations after "
        "the last layer, such as a softmax"
    )


def _laplace(net: nn.Module, kind: str, **options: Any) -> Any:
    try:
        from laplace import Laplace
    except ImportError as error:
        raise ImportError(
            f"the Laplace approximation needs the package laplace-torch ({error}): "
            "pip install 'pyrosparse[laplace]'"
        ) from error
    return Laplace(net, kind, subset_of_weights="last_layer", **options)
