"""Locks between processes."""

import subprocess
import sys
import time
from pathlib import Path

from pyrosparse.locks import locked

HOLD = """
import sys, time
from pyrosparse.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_another_process_waits_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file), "60"], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        waiter = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(file), "0"], stdout=subprocess.PIPE, text=True
        )
        assert waiter.stdout is not None
        with waiter:
            time.sleep(0.2)
            assert waiter.poll() is None
            holder.kill()
            assert waiter.stdout.readline() == "held\n"
    with locked(file):
        pass
