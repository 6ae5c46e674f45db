"""What determines a compression run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from pyrosparse import data as data_sets
from pyrosparse import networks
from pyrosparse.compress import mask_settings
from pyrosparse.compress.families import (
    EVIDENCE,
    GATING,
    MASKING,
    METHODS,
    OPTIONS,
    TURBO,
    options_of,
)
from pyrosparse.compress.methods import beta_bernoulli, pruner, reduction_pruner, turbo
from pyrosparse.compress.numbers import check_numbers
from pyrosparse.data.pixels import Normalisation
from pyrosparse.errors import unknown_name

# Gates move by the gate rate a step: few data need more epochs for as many steps.
_EPOCHS, _STEPS = 30, 2000
_PRETRAINING_EPOCHS, _PRETRAINING_STEPS = 20, 1000
_EVIDENCE_STEPS = 4000
_TURBO_EPOCHS, _TURBO_STEPS = 40, 4000
_FINE_TUNING_EPOCHS, _FINE_TUNING_STEPS = 30, 2000
_WEIGHT_DECAY = 1e-4

# Any, for the type checker's sake: there is a value after ``__post_init__`` or ``for_data``.
_OWN: Any = None


@dataclass(frozen=True)
class Settings:
    """All that determines a compression run; JSON values.

    An option that is None becomes the method's own value, or stays None where the method does not
    take it.

    network, network_options: a name of ``networks.names()``, or ``torchvision:<model>``, and what
                   its function takes.
    dataset:       a name of ``data.names()`` or a folder of images.
    size:          height and width, or one number for both, to which the images of a folder are
                   resized; by default they have one size already.
    normalise:     of the images, as in ``data.load``.
    method:        a name of ``METHODS``.
    validation:    the share of the training data that is held out.
    seed:          of the initial weights, the order of data and everything else random.
    device:        what all is computed on, as torch names it: ``cpu``, ``cuda``, ``cuda:1``.
    epochs:        30; where gates are trained 30 too, and more where that makes less than 2000
                   steps; for the evidence 30, and for Turbo-VBI 40, and more where that makes
                   less than 4000 steps.
    batch_size:    64; with gates and for the evidence 100; for Turbo-VBI 128.
    learning_rate: of Adam, on the weights; 1e-3, with gates 2e-3 (falling to 1 % of it), for
                   Turbo-VBI 1.5e-3.
    scale:         standard deviation of the Gaussian prior; 1, with gates (1e-4 n)^-1/2 for n
                   training data, which is a weight decay of 1e-4; for the evidence 0.3. With
                   Turbo-VBI it is the prior before and after, and is as with gates.

    Of pruning (``none`` takes them too, and does without):

    sparsity:   the fraction of the weights that goes, in [0, 1); 0.9.
    ramp:       the sparsity rises from 0 along a cubic over this share of training; 0 prunes
                to all of it from the first epoch; 0.6.
    freeze:     pruned weights stay zero; otherwise they regrow between rounds.
    threshold, likelihood, per_datum: the gate, as for ``BayesFactorPruner``; nats.

    Of gates (``beta-bernoulli``, ``dependent-beta-bernoulli``):

    pretrain:    epochs of training before, where no weights are given to start from; 20,
                 and more where that makes less than 1000 steps.
    kl_scale:    gamma, the weight of the gates' KL divergence: one number, or numbers by glob on
                 the names of gates, as for ``BetaBernoulli``; 1.
    kl_warmup:   epochs in which the weight of the KL divergence rises from 0; a fifteenth of all.
    gate_rate:   the learning rate of the gates; 0.05.
    temperature, pi, initial: as for ``BetaBernoulli``; 0.3, collapsed, 0.95.
    second_epochs: of the dependent gates; as many as in the first stage.

    Of Turbo-VBI (``turbo-vbi``, ``independent-support``), with ``pretrain``:

    kl_scale:    of the weights' KL divergence, beside a likelihood of n data; min(1, n / weights).
    active:      the share of the weights that is active at the end, in (0, 1); 0.02.
    unit_cost:   in nats, what must speak for a unit if it is to stay: one number, or numbers by
                 glob on the names of layers, as for ``UnitFactor``; 0.
    least_units: how many units a layer keeps: one number, or numbers by glob on the names of
                 layers; 4.
    fine_tune:   epochs for what is left, without the prior's spike; 30, and more where that makes
                 less than 2000 steps.

    Of pruning by the evidence (``model-reduction``; ``mean-field`` does without):

    fraction, rows: as for ``ReductionPruner``; 0.5, single weights.
    warmup:         epochs before the first batch goes; a quarter of all.

    Of masks (``gibbs`` and what it is compared with): 200 epochs in batches of 128, at a rate of
    1e-3; scale is (2e-4 n)^-1/2, the weight decay of the authors' code. More or fewer epochs
    stretch all of it.

    sparsity:   the fraction of the weights, kernels or filters that goes; 0.9.
    structure:  ``weight``, ``kernel`` or ``filter``, as for ``Gibbs``.
    coupling:   c, as for ``Gibbs``.
    beta_start, beta_end: the inverse temperature at the start, and when it has risen; 0.7 and 1e4,
                of filters 0.003 and 1.
    annealed:   the share of training in which it rises, in (0, 1]; 0.64.
    rate_schedule: the learning rate falls in ``steps``, to a tenth after 0.4, 0.6 and 0.8 of
                training, or along a ``cosine`` to 1 %; steps.
    relative, final: as for ``Gibbs``; no, draw. With relative, c and beta are by default those that
                mean the same for weights of the variance 2 / 576.
    augment:    training images are shifted by up to a tenth, anew in every epoch; where a tenth of
                them is a pixel or more.
    flip:       and mirrored left to right; where the data set says that a mirror image keeps its
                class, as ``DataSet.flip``.

    Raises ValueError on unknown names, options out of range and options of another method.

    >>> Settings(method="magnitude").sparsity
    0.9
    >>> Settings(sparsity=0.9)
    Traceback (most recent call last):
    ValueError: beta-bernoulli has no option sparsity: it is one of gibbs, dense, ...
    """

    network: str = "fcn"
    network_options: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = "digits"
    size: tuple[int, int] | None = None
    normalise: Normalisation = "standard"
    method: str = "beta-bernoulli"
    validation: float = 0.1
    seed: int = 0
    device: str = "cpu"
    epochs: int = _OWN
    batch_size: int = _OWN
    learning_rate: float = _OWN
    scale: float = _OWN
    sparsity: float = _OWN
    ramp: float = _OWN
    freeze: bool = _OWN
    threshold: float = _OWN
    likelihood: Literal["mean", "sum"] = _OWN
    per_datum: bool = _OWN
    pretrain: int = _OWN
    kl_scale: float | Mapping[str, float] = _OWN
    kl_warmup: int = _OWN
    gate_rate: float = _OWN
    temperature: float = _OWN
    pi: Literal["sampled", "collapsed"] = _OWN
    initial: float = _OWN
    second_epochs: int = _OWN
    fraction: float = _OWN
    rows: bool = _OWN
    warmup: int = _OWN
    active: float = _OWN
    unit_cost: float | Mapping[str, float] = _OWN
    least_units: int | Mapping[str, int] = _OWN
    fine_tune: int = _OWN
    structure: Literal["weight", "kernel", "filter"] = _OWN
    coupling: float = _OWN
    beta_start: float = _OWN
    beta_end: float = _OWN
    annealed: float = _OWN
    rate_schedule: Literal["steps", "cosine"] = _OWN
    relative: bool = _OWN
    final: Literal["draw", "mode", "magnitude"] = _OWN
    augment: bool = _OWN
    flip: bool = _OWN

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS)
        networks.describe(self.network)
        data_sets.check_name(self.dataset)
        object.__setattr__(self, "size", _pair(self.size))
        if self.size is not None and self.dataset in data_sets.names():
            raise ValueError(
                f"only folders of images are resized; {self.dataset} has its size: leave size out"
            )
        own = options_of(self.method)
        for name in OPTIONS - own.keys():
            if getattr(self, name) is not None:
                others = ", ".join(method for method in METHODS if name in options_of(method))
                raise ValueError(
                    f"{self.method} has no option {name}: it is one of {others}; leave it out, or "
                    "choose another method"
                )
        for name, value in own.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_numbers(self)
        if self.gated:
            beta_bernoulli(self)
        elif self.method in EVIDENCE:
            reduction_pruner(self)
        elif self.method in TURBO:
            turbo(self)
        elif self.masked:
            mask_settings.check(self)
        else:
            pruner(self)

    @property
    def gated(self) -> bool:
        """Whether the method closes gates on units; otherwise it sets weights to zero."""
        return self.method in GATING

    @property
    def starts_trained(self) -> bool:
        """Whether the method begins with a trained network."""
        return "pretrain" in options_of(self.method)

    @property
    def masked(self) -> bool:
        """Whether the method is Gibbs pruning, or what it is compared with."""
        return self.method in MASKING

    @property
    def unpruned(self) -> Settings:
        """The same training with nothing taken away; itself where nothing is taken, or the method
        begins with a trained network.

        >>> Settings(method="magnitude").unpruned.method
        'none'
        """
        if self.starts_trained:
            return self
        method = "dense" if self.masked else "mean-field" if self.method in EVIDENCE else "none"
        return replace(self, method=method)

    @property
    def label(self) -> str:
        """The method, with the structure of what it removes: ``gibbs-kernel``."""
        parts = [self.method]
        if self.method != "dense" and self.structure not in (None, "weight"):
            parts.append(self.structure)
        if self.method == "gibbs" and self.relative:
            parts.append("relative")
        return "-".join(parts)

    @property
    def level(self) -> float | None:
        """What tells the runs of a method apart: the sparsity, or gamma (where it has several
        values, the last), the prior's scale, or the share of active weights; None for the
        unpruned network."""
        if self.method in ("none", "dense"):
            return None
        if self.method in EVIDENCE:
            return self.scale
        if self.method in TURBO:
            return self.active
        if not self.gated:
            return self.sparsity
        if isinstance(self.kl_scale, Mapping):
            return list(self.kl_scale.values())[-1]
        return self.kl_scale

    def for_data(self, n: int, *, augment: bool = True, flip: bool = False) -> Settings:
        """The same with values for all that depends on the data: on the number n of training data,
        and on whether they are images to shift, and to flip.

        >>> Settings().for_data(54_000).epochs, Settings().for_data(1294).epochs
        (30, 154)
        """
        if self.masked:
            augment = augment if self.augment is None else self.augment
            return replace(
                self,
                scale=mask_settings.scale_for(n) if self.scale is None else self.scale,
                augment=augment or bool(self.flip),
                flip=(augment and flip) if self.flip is None else self.flip,
            )
        steps = math.ceil(n / self.batch_size)
        if self.method in EVIDENCE:
            epochs = self.epochs or max(_EPOCHS, math.ceil(_EVIDENCE_STEPS / steps))
            warmup = math.ceil(epochs / 4) if self.warmup is None else self.warmup
            return replace(self, epochs=epochs, warmup=warmup)
        if not self.starts_trained:
            return self
        pretraining = max(_PRETRAINING_EPOCHS, math.ceil(_PRETRAINING_STEPS / steps))
        pretrain = pretraining if self.pretrain is None else self.pretrain
        scale = (_WEIGHT_DECAY * n) ** -0.5 if self.scale is None else self.scale
        if self.method in TURBO:
            fine_tuning = max(_FINE_TUNING_EPOCHS, math.ceil(_FINE_TUNING_STEPS / steps))
            return replace(
                self,
                epochs=self.epochs or max(_TURBO_EPOCHS, math.ceil(_TURBO_STEPS / steps)),
                pretrain=pretrain,
                fine_tune=fine_tuning if self.fine_tune is None else self.fine_tune,
                scale=scale,
            )
        dependent = "second_epochs" in options_of(self.method)
        epochs = self.epochs or max(_EPOCHS, math.ceil(_STEPS / steps))
        return replace(
            self,
            epochs=epochs,
            pretrain=pretrain,
            second_epochs=self.second_epochs or (epochs if dependent else _OWN),
            kl_warmup=round(epochs / 15) if self.kl_warmup is None else self.kl_warmup,
            scale=scale,
        )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """The settings of which ``dataclasses.asdict`` once gave these values; those that there
        were not yet are as by default, those that there are no more are left out.

        >>> Settings.of({"method": "none", "epochs": 3, "of old": 1}).epochs
        3
        """
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def _pair(size: Any) -> tuple[int, int] | None:
    """Height and width, where one number is both."""
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and 1 <= side < 2**15 for side in pair):
        raise ValueError(f"size is a height and a width in pixels, 1 or more; got {size!r}")
    return pair
