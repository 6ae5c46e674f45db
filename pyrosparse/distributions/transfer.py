"""Chains of lines of binary nodes, exactly: the transfer matrix, one site after another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyrosparse.distributions.binary_states import binary_states
from pyrosparse.sum_product.transition import Transition


@dataclass(frozen=True)
class LineChain:
    r"""T lines of n binary nodes each, every site coupled to the same site of the line before.

    .. math::
        p(s) \propto \prod_t e^{u_t \cdot s_t}\, w(s_t)
            \prod_i p(s_{1,i}) \prod_{t > 1} \prod_i p(s_{t,i} \mid s_{t-1,i})

    where w is a Markov chain along the line, or 1. A line has 2^n states; the transfer matrix
    between lines is a product over sites, so that a line costs n 2^n and not 4^n.

    across: the transition from line to line.
    within: the transition along a line; None for w = 1.
    """

    across: Transition
    within: Transition | None

    def log_messages(self, field: Tensor) -> tuple[list[Tensor], Tensor]:
        """Log weight of the first t lines by the state of line t, T tensors (..., 2^n) of which
        each is normalised; and the log of the sum over all supports, (...).

        field: u, (..., T, n)."""
        states = binary_states(field.shape[-1], field)
        along = self.within.log_chain(states, -1) if self.within else 0.0
        messages: list[Tensor] = []
        total = field.new_zeros(())
        for line in field.unbind(-2):
            if messages:
                past = self._step(messages[-1], field.shape[-1])
            else:
                past = self.across.log_start(states).sum(-1)
            message = past + along + line @ states.t()
            # Normalised line by line: float32 would lose the states' differences in a long sum.
            scale = message.logsumexp(-1, keepdim=True)
            messages.append(message - scale)
            total = total + scale.squeeze(-1)
        return messages, total

    def sample(self, field: Tensor, sample_shape: torch.Size) -> Tensor:
        """Exact supports, (*sample_shape, ..., T, n), for a field (..., T, n): the messages
        forward, then lines drawn from the last to the first."""
        states = binary_states(field.shape[-1], field)
        lines: list[Tensor] = []
        for message in reversed(self.log_messages(field)[0]):
            logits = message.expand(sample_shape + message.shape)
            if lines:
                # ln p(next | state) is linear in the state, site by site.
                zero = self.across.log_step(torch.zeros_like(lines[-1]), lines[-1])
                one = self.across.log_step(torch.ones_like(lines[-1]), lines[-1])
                logits = logits + (one - zero) @ states.t()
            flat = (logits - logits.amax(-1, keepdim=True)).exp().view(-1, len(states))
            lines.append(states[flat.multinomial(1).view(logits.shape[:-1])])
        return torch.stack(lines[::-1], dim=-2)

    def _step(self, message: Tensor, sites: int) -> Tensor:
        """A message to the next line, (..., 2^n)."""
        value = message.new_tensor([0.0, 1.0])
        table = self.across.log_step(value[:, None], value)
        for site in range(sites):
            pairs = message.unflatten(-1, (-1, 2, 2**site))
            zero, one = pairs.unbind(-2)
            message = torch.stack(
                [torch.logaddexp(zero + table[0, s], one + table[1, s]) for s in (0, 1)], dim=-2
            ).flatten(-3)
        return message
