"""The compact network as a graph, with its summary."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from pyrosparse.compaction.account import Account


class CompactNet(fx.GraphModule):
    """A network made by ``compact``: an ordinary module, with the names of the original's layers.

    It can be trained, moved, pickled, copied, traced and exported like any other module;
    ``print(net.code)`` shows its forward.

    >>> import copy, torch
    >>> from pyrosparse.compaction import compact
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> small = compact(net, example=torch.ones(1, 2))
    >>> isinstance(copy.deepcopy(small).account, Account)
    True
    """

    account: Account

    def __init__(self, root: nn.Module | dict[str, Any], graph: fx.Graph, account: Account) -> None:
        super().__init__(root, graph, "CompactNet")
        self.account = account

    def __deepcopy__(self, memo: dict[int, Any]) -> CompactNet:
        new: CompactNet = super().__deepcopy__(memo)  # type: ignore[assignment]
        new.account = self.account
        return new

    def __reduce__(self) -> Any:
        return _rebuild, (*super().__reduce__(), self.account)


def _rebuild(build: Any, parts: Any, account: Account) -> CompactNet:
    plain = build(*parts)
    return CompactNet(plain, plain.graph, account)
