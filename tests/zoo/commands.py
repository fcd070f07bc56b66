"""
Runs of the command ``sb3-distrl``, in this process, which is quick, or as a user has them: in a process of its own.

With SB3_DISTRL_PYTHON, the path of a Python, what is installed there runs in these processes instead of the checkout.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import huggingface_sb3
import psutil
import pytest
import rl_zoo3.enjoy
import rl_zoo3.train
from huggingface_hub import repocard
from matplotlib import pyplot as plt

from sb3_distrl.zoo import cli, register

register()

PYTHON = os.environ.get("SB3_DISTRL_PYTHON", sys.executable)
SCRIPT = str(Path(PYTHON).with_name("sb3-distrl"))
TIMEOUT = 1200.0  # of a machine under load
# What could show the checkout, a screen, or another configuration, to the commands
LEFT_OUT = ("PYTHONPATH", "DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND", "SDL_VIDEODRIVER")


def environment(**more: str) -> dict[str, str]:
    """
    :param more: variables to set
    :return: those of a user without a screen; commands compute on one thread, as the tests do
    """
    inherited = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    return {**inherited, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **more}


def python(code: str, folder: Path) -> str:
    """
    :param code: to run
    :param folder: to run it in
    :return: what it printed
    """
    result = subprocess.run(
        [PYTHON, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def sb3_distrl(folder: Path, *arguments: str, code: int = 0, script: bool = False, **variables: str) -> str:
    """
    :param folder: to run in
    :param arguments: of the command line
    :param code: exit status that is expected
    :param script: whether to run the console script
    :param variables: of the environment
    :return: what was printed, errors at the end
    """
    command = [SCRIPT] if script else [PYTHON, "-m", "sb3_distrl.zoo"]
    result = subprocess.run(
        [*command, *arguments], cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert result.returncode == code, f"{arguments} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


@contextmanager
def undone() -> Iterator[pytest.MonkeyPatch]:
    """What commands change in other modules, and leave to the end of their process, is changed back."""
    algorithms = dict(rl_zoo3.ALGOS)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", os.environ["PATH"])
            for module in (rl_zoo3.train, rl_zoo3.enjoy):
                patch.setattr(module, "argparse", argparse)
            for owner, name in (
                (subprocess, "call"),
                (plt, "show"),
                (huggingface_sb3, "load_from_hub"),
                (repocard, "metadata_save"),
            ):
                patch.setattr(owner, name, getattr(owner, name))
            yield patch
    finally:
        rl_zoo3.ALGOS.update(algorithms)


def print_warning(*args: Any) -> None:
    """As Python does where nobody asks for anything else; pytest collects warnings, and makes errors of some."""
    print(warnings.formatwarning(*args[:4]), file=sys.stderr)


def run_here(folder: Path, *arguments: str) -> tuple[str, int]:
    """
    :param folder: to run in
    :param arguments: of the command line, which runs in this process
    :return: what was printed, errors at the end, and the exit status
    """
    output, errors, status = StringIO(), StringIO(), 0
    plt.switch_backend("agg")
    with undone() as patch, redirect_stdout(output), redirect_stderr(errors), warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", ResourceWarning)  # as Python does
        patch.setattr(warnings, "showwarning", print_warning)
        patch.chdir(folder)
        for name in ("argv", "orig_argv"):
            patch.setattr(sys, name, ["sb3-distrl", *arguments])
        try:
            cli.main()
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        finally:
            plt.close("all")
    return output.getvalue() + errors.getvalue(), status


def in_process(folder: Path, *arguments: str, code: int = 0) -> str:
    """
    :param folder: to run in
    :param arguments: of the command line, which runs in this process
    :param code: exit status that is expected
    :return: what was printed, errors at the end
    """
    printed, status = run_here(folder, *arguments)
    assert status == code, f"{arguments} ended with {status}:\n{printed}"
    return printed


def train_here(patch: pytest.MonkeyPatch) -> None:
    """
    Have scripts that start sb3-distrl by ``subprocess.run`` run it in this process, one at a time.

    :param patch: until it is undone
    """

    in_a_process = subprocess.run

    def run(command: list[str], stdout: Any = None, check: bool = False, **kwargs: Any) -> subprocess.CompletedProcess:
        if command[:3] != [sys.executable, "-m", "sb3_distrl.zoo"]:
            return in_a_process(command, stdout=stdout, check=check, **kwargs)
        printed, status = run_here(Path.cwd(), *command[3:])
        if hasattr(stdout, "write"):
            stdout.write(printed)
        assert not (check and status), printed
        return subprocess.CompletedProcess(command, status)

    patch.setattr(subprocess, "run", run)


def mistake(folder: Path, *arguments: str, **variables: str) -> str:
    """
    :param folder: to run in
    :param arguments: of a command line with a mistake
    :param variables: of the environment, with which it needs a process of its own
    :return: the line that says what is wrong
    """
    run = sb3_distrl if variables else in_process
    printed = run(folder, *arguments, code=2, **variables)
    assert "Traceback" not in printed, printed
    line = printed.strip().splitlines()[-1]
    assert line.startswith("sb3-distrl"), printed
    return line


def listen() -> None:
    """Take Ctrl-C as a command in a terminal does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Running:
    """
    A command that is still running, in a process group of its own, as in a terminal.

    :param folder: to run in
    :param arguments: of the command line
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.printed_to = folder / "printed.txt"
        with self.printed_to.open("w") as file:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "sb3_distrl.zoo", *arguments],
                cwd=folder,
                env=environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=listen,  # where the tests run in the background, it would be deaf
            )

    @property
    def printed(self) -> str:
        return self.printed_to.read_text()

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """:param condition: to become true while the command runs"""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < end, self.printed
            time.sleep(0.05)

    def interrupt(self, n_workers: int = 0) -> None:
        """
        Do what Ctrl-C in a terminal does, and wait for the end.

        :param n_workers: processes of the command that are to be gone before the command itself notices, as is often so where
            it is busy with a gradient step
        """
        main = psutil.Process(self.process.pid)
        n_processes = len(main.children(recursive=True))
        if n_workers:
            main.suspend()
        os.killpg(self.process.pid, signal.SIGINT)
        if n_workers:
            end = time.monotonic() + 1
            while len(main.children(recursive=True)) > n_processes - n_workers and time.monotonic() < end:
                time.sleep(0.05)
            main.resume()
        self.process.wait(TIMEOUT)

    def close(self) -> None:
        """Leave no process behind."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def saved(model: Path) -> dict[str, Any]:
    """
    :param model: file that SB3 saved
    :return: its attributes, as far as they are plain
    """
    with zipfile.ZipFile(model) as archive:
        return json.loads(archive.read("data"))
