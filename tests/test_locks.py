"""Locks between processes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyrosparse.util.locks import locked, locked_folder

HOLD = """
import sys, time
from pyrosparse.util.locks import locked
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


def test_who_does_not_wait_is_told_so_and_who_has_it_may_ask_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    command = [sys.executable, "-c", HOLD, str(file), "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(BlockingIOError, match=r"another process is using .*file"),
            locked(file, wait=False),
        ):
            pass
        holder.kill()
    with locked(file), locked(file, wait=False):
        pass


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / ".file.lock").symlink_to(precious)
    with (
        pytest.raises(OSError, match=r"cannot lock .*file.*\.file\.lock no link"),
        locked(tmp_path / "file"),
    ):
        pass
    assert precious.read_text() == "precious"


def test_the_lock_of_a_folder_survives_the_folder(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "run"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run").rmdir()
    assert [file.name for file in tmp_path.iterdir()] == [".run.lock"]


def test_nothing_of_ours_needs_fcntl() -> None:
    script = (
        "import sys, torch, pyro, joblib, typer, rich, filelock\n"
        "sys.modules['fcntl'] = None\n"
        "for name in [n for n in sys.modules if n.startswith('filelock')]: del sys.modules[name]\n"
        "import pyrosparse.cli, pyrosparse.bench, pyrosparse.util.locks\n"
        "import tempfile\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    with pyrosparse.util.locks.locked(folder + '/a'): pass\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
