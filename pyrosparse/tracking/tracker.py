"""A callback that sends the numbers of each epoch to a service that stores and plots them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pyrosparse.infer.callback import Callback
from pyrosparse.infer.run import Fit


class Tracker(Callback):
    """Logs every number of ``Fit.history``, epoch by epoch.

    Subclass it and write ``log``. In a stage of a recipe the numbers have its name as a prefix:
    ``fine-tuning/loss``. An entry is complete when the validation and the other callbacks have
    added to it. Therefore it is sent at the end of the next epoch, and the last one at the end of
    training: put a tracker last among the callbacks. A resumed run continues with the first entry
    that its checkpoint does not record as sent.

    >>> class Printed(Tracker):
    ...     def log(self, metrics, epoch):
    ...         print(epoch, sorted(metrics))
    >>> import torch
    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian())
    >>> data = torch.ones(9, 4), torch.arange(9) % 3
    >>> model = ps.classifier(bnn, 9)
    >>> run = ps.fit(model, bnn.guide, data, epochs=1, callbacks=[Printed()], progress=False)
    1 ['epoch', 'kl_scale', 'learning_rate', 'loss', 'step']
    """

    def __init__(self) -> None:
        self._sent = 0

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Send the numbers of one epoch, counted from 1."""
        raise NotImplementedError

    def on_start(self, run: Fit) -> None:
        if not run.history:  # the next stage of a recipe
            self._sent = 0

    def on_epoch_end(self, run: Fit) -> None:
        self._send(run, run.history[:-1])

    def on_end(self, run: Fit) -> None:
        self._send(run, run.history)

    def state_dict(self) -> dict[str, Any]:
        return {"sent": self._sent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sent = state["sent"]

    def _send(self, run: Fit, entries: list[dict[str, Any]]) -> None:
        for entry in entries[self._sent :]:
            prefix = f"{run.stage}/" if run.stage else ""
            self.log({prefix + name: value for name, value in numbers(entry)}, entry["epoch"])
            self._sent += 1


def numbers(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers in an entry of a history; those in a mapping as ``name/key``.

    >>> dict(numbers({"loss": 2.0, "units": {"fc1.input": 9}, "structure": "3-2", "pruned": True}))
    {'loss': 2.0, 'units/fc1.input': 9, 'pruned': 1}
    """
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{key}", one) for key, one in numbers(value))
        elif isinstance(value, bool):
            yield name, int(value)
        elif isinstance(value, (int, float)):
            yield name, value
