"""Train in processes that are killed at random moments; a script for ``test_killed_run.py``.

    python -m tests.infer.killed_run FOLDER KILLS SEED

writes FOLDER/whole.safetensors of an uninterrupted run, and FOLDER/killed.safetensors of one that
was killed up to KILLS times, each the run's last checkpoint; prints how many kills hit a run under
way. A run that ends before it was killed twice begins again, and is killed sooner.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits

import pyrosparse as ps
from pyrosparse.infer import checkpoint

EPOCHS = 10


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels[:120] / 16).float(), torch.tensor(labels[:120])


def train(path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(64, 12), torch.nn.BatchNorm1d(12), torch.nn.ReLU(), torch.nn.Linear(12, 10)
    )
    bnn = ps.lift(net, ps.Gaussian(posterior="normal", initial_scale=0.05))
    x, y = digits()
    pruner = ps.prune.BayesFactorPruner("random", 0.6, threshold=-1e9)
    ps.fit(
        ps.classifier(bnn, len(y)),
        bnn.guide,
        (x, y),
        epochs=EPOCHS,
        batch_size=20,
        learning_rate=0.01,
        schedule=ps.infer.schedules.cosine(),
        kl_warmup=3,
        callbacks=[pruner],
        validation=(x, y),
        checkpoint=path,
        metrics=path.with_suffix(".jsonl"),
        progress=False,
    )


def start(path: Path) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            train(path)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def kill(path: Path, kills: int, longest: float, chance: random.Random) -> int:
    """Kill a run so many times, each at most so many seconds after its next checkpoint; returns how
    many kills hit it before it had finished."""
    hits = 0
    for _ in range(kills):
        last = stamp(path)
        pid = start(path)
        ended = False
        while stamp(path) == last and not ended:
            time.sleep(0.001)
            ended = os.waitpid(pid, os.WNOHANG) != (0, 0)
        time.sleep(chance.uniform(0.0, longest))
        if checkpoint.load(path)["finished"]:
            if not ended:
                os.waitpid(pid, 0)
            break
        assert not ended, "the process ended before its run did"
        os.kill(pid, signal.SIGKILL)
        hits += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    return hits


def main(folder: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    whole, killed = folder / "whole.safetensors", folder / "killed.safetensors"
    train(folder / "warm.safetensors")  # so that forked processes start at once
    began = time.monotonic()
    assert os.waitpid(start(whole), 0)[1] == 0
    longest = 1.5 * (time.monotonic() - began) / EPOCHS
    hits = kill(killed, kills, longest, chance)
    while hits < 2:
        for path in (killed, killed.with_suffix(".jsonl")):
            path.unlink()
        longest /= 2
        hits = kill(killed, kills, longest, chance)
    assert os.waitpid(start(killed), 0)[1] == 0
    print(hits)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
