"""What comes after the suite `turbo-vbi`: its networks' times, their robustness, and figures.

    pyrosparse bench turbo-vbi --only '*lenet5-turbo-vbi-1.19-seed0' --scratch runs/turbo
    python docs/results/turbo_vbi.py --scratch runs/turbo

takes up the finished run of seed 0 at 1.19 % from the scratch folder (where there is none it makes
it), and writes beside itself ``turbo-vbi-networks.md``, a table of times and one of
accuracies under attack, and to ``docs/figures`` the figures ``turbo-vbi-*``: kernels, convergence,
messages and the attack.
"""

from __future__ import annotations

import argparse
import copy
import datetime
from pathlib import Path
from typing import Any

import torch

import pyrosparse as ps
from pyrosparse import bench
from pyrosparse.lifting.lift import lift
from pyrosparse.plots import plots
from pyrosparse.recipes import Result
from pyrosparse.util import machine
from pyrosparse.util.files import write_atomically

EPSILONS = (0.0, 0.01, 0.02, 0.05, 0.1)


def finished(scratch: Path) -> Result:
    """The run of seed 0 at 1.19 %, from its checkpoints."""
    job = next(j for j in bench.load("turbo-vbi").jobs if j.id.endswith("turbo-vbi-1.19-seed0"))
    return job.setup.run(folder=scratch / job.id, pool=scratch, dense=False, progress=False)


def times(result: Result) -> list[str]:
    """The time of a forward pass, as Markdown."""
    lines = [
        "| form | batch 1, ms | speed-up | batch 128, ms | speed-up |",
        "| :-- | --: | --: | --: | --: |",
    ]
    masks = {key: result.net.get_parameter(key) != 0 for key in result.prunable}
    plain = copy.deepcopy(result.net).to(memory_format=torch.contiguous_format)
    table = ps.sparse.acceleration(plain, masks, result.data.train.x[:1].contiguous())
    return [*lines, *(f"| {' | '.join(row).replace(' ms', '')} |" for row in table.rows())]


def attacked(result: Result, epochs: int) -> list[Any]:
    """Accuracies under attack, before and after adversarial fine-tuning."""
    data = result.data
    before = {"dense": result.original, "Turbo-VBI": result.net}
    after = {}
    for name, net in before.items():
        tuned = copy.deepcopy(net)
        masks = {t.key: tuned.get_parameter(t.key) != 0 for t in ps.weights(tuned)}
        ps.robustness.adversarial_fine_tune(
            tuned,
            masks,
            data.train,
            epsilon=0.1,
            epochs=epochs,
            bounds=data.bounds,
            scale=(1e-4 * len(data.train)) ** -0.5,
            batch_size=128,
            progress=False,
        )
        after[name] = tuned
    return ps.robustness.robustness_rows(
        before, data.test, EPSILONS, fine_tuned=after, bounds=data.bounds
    )


def attack_table(rows: list[Any]) -> list[str]:
    """Accuracies under attack, as Markdown."""
    lines = [
        "| network | " + " | ".join(f"{epsilon:g}" for epsilon in EPSILONS) + " |",
        "| :-- |" + " --: |" * len(EPSILONS),
    ]
    for name, tuned in dict.fromkeys((row.network, row.fine_tuned) for row in rows):
        values = [r.accuracy for r in rows if (r.network, r.fine_tuned) == (name, tuned)]
        label = f"{name}, adversarially fine-tuned" if tuned else name
        lines.append(f"| {label} | " + " | ".join(f"{100 * v:.1f}" for v in values) + " |")
    return lines


def message_rounds(result: Result, exchanges: int = 8) -> list[dict[str, Any]]:
    """The messages at the last hidden layer while the prior's exchanges settle, on the pretrained
    network: SVI steps between them move the weights."""
    data = result.data.train
    net = copy.deepcopy(result.original)
    bnn = lift(net, ps.GammaSpikeAndSlab())
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    turbo = ps.prune.TurboVBI(ps.classifier(bnn, len(data)), bnn, optimizer)
    rounds = []
    generator = torch.Generator().manual_seed(0)
    for iteration in range(1, exchanges + 1):
        for step, batch in enumerate(data.batches(128, generator)):
            if step == 100:
                break
            turbo.step(*batch)
        turbo.exchange()
        assert turbo.module_b is not None
        rounds.append({"iteration": iteration, **turbo.module_b.snapshot("fc3.weight")})
    return [rounds[0], rounds[1], rounds[3], rounds[-1]]


def main(scratch: Path, folder: Path = Path(__file__).parent, epochs: int = 3) -> None:
    torch.set_num_threads(1)
    result = finished(scratch)
    rows = attacked(result, epochs)
    lines = [
        "Time of a forward pass on the CPU, best of three medians:",
        "",
        *times(result),
        "",
        "Test accuracy in % on 10,000 images under the fast gradient sign method, by epsilon in",
        f"units of a pixel's range; fine-tuned for {epochs} epochs at epsilon 0.1:",
        "",
        *attack_table(rows),
        "",
        f"Seed 0; pyrosparse {ps.__version__}, torch {torch.__version__}; {machine.describe()}, "
        f"1 thread; {datetime.datetime.now(datetime.UTC).date().isoformat()}.",
    ]
    write_atomically(folder / "turbo-vbi-networks.md", "\n".join(lines) + "\n")
    support = next(stage.history for stage in result.stages if stage.name == "support")
    history = [{"iteration": e["epoch"], **e} for e in support]
    pair = result.original, result.net
    figures = {
        "kernels": ps.plots.kernels_before_and_after(*(n.conv1.weight for n in pair)),
        "convergence": ps.plots.convergence(history),
        "attack": ps.plots.accuracy_under_attack(rows),
    }
    for name, figure in figures.items():
        write_atomically(folder.parent / "figures" / f"turbo-vbi-{name}.svg", plots.svg(figure))
    messages = ps.plots.messages(message_rounds(result))  # images: smaller as one
    write_atomically(folder.parent / "figures" / "turbo-vbi-messages.png", plots.png(messages))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scratch", type=Path, default=Path("runs/bench/scratch"))
    parser.add_argument("--epochs", type=int, default=3, help="of adversarial fine-tuning")
    options = parser.parse_args()
    main(options.scratch, epochs=options.epochs)
