"""On several processes and a cluster.

    python examples/tutorial_several_processes.py

The code of docs/tutorials/several-processes.md, which explains it.
`python docs/tutorials/scripts.py` writes this file from that page.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pyrosparse import bench

epochs = 20
hidden = 64


# One training on two processes
folders = (folder / "examples" for folder in (Path.cwd(), *Path.cwd().parents))
script = next(folder / "train_on_ranks.py" for folder in folders if folder.is_dir())
options = [str(script), "--epochs", str(epochs), "--hidden", str(hidden)]
one_thread = os.environ | {"OMP_NUM_THREADS": "1"}


def run(*command):
    """What a command prints; an error ends the page."""
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
print(run(sys.executable, *options))
print(run(*torchrun, "--nproc-per-node", "2", *options))


# A grid of runs, shared by two commands
folder = Path(tempfile.mkdtemp())
suite = folder / "tiny.toml"
suite.write_text(f"""
title = "Two recipes on digits"
source = "ours"
settings = {{ epochs = {epochs}, network_options = {{ hidden = [{hidden}] }} }}

[[grid]]
dataset = "digits"
recipe = ["magnitude", "bayesian-magnitude"]
sparsity = [0.5, 0.9]
""")
[job.id for job in bench.load(str(suite)).jobs]


results = folder / "tiny.jsonl"
command = [sys.executable, "-m", "pyrosparse.cli", "bench", str(suite)]
command += ["--results", str(results), "--scratch", str(folder / "scratch")]
both = [
    subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=one_thread) for _ in range(2)
]
outputs = [process.communicate()[0] for process in both]
for output in outputs:
    print(output)


lines = [json.loads(line) for line in results.read_text().splitlines()]
assert sorted(line["id"] for line in lines) == sorted(job.id for job in bench.load(str(suite)).jobs)
for cell in bench.table(bench.load(str(suite)), results):
    print(f"{cell.name}: accuracy {cell.accuracies[0]:.1f} %, sparsity {cell.sparsity:.0%}")
