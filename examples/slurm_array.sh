#!/usr/bin/env bash
# A suite as a Slurm array: sbatch examples/slurm_array.sh turbo-vbi
#
# All tasks run one and the same command. Each run is claimed by one of them; a task that ends or is
# killed leaves its run to the next. The folder must be shared, on a file system with locks.
#SBATCH --job-name=pyrosparse
#SBATCH --array=1-8
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail
suite="${1:?usage: sbatch slurm_array.sh SUITE}"
export PYROSPARSE_DATA="${PYROSPARSE_DATA:-$HOME/data}"
folder="${PYROSPARSE_RUNS:-$PWD/runs/bench}"
exec pyrosparse bench "$suite" --results "$folder/$suite.jsonl" --scratch "$folder/$suite"
