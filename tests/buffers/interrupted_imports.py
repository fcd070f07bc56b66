"""
Ctrl-C while numba is imported: ``python -m tests.buffers.interrupted_imports FOLDER``, in a process that has not imported it.

For each of some modules that the import comes to, a forked process gets SIGINT there, and then learns.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sb3_distrl import Rainbow
from sb3_distrl.buffers.sum_tree import compiled
from tests.common.settings import make

POINTS = ["numba", "numba.core.types", "numba.core.typing", "numba.np.ufunc", "llvmlite.binding", "numba.core.caching"]


class Interrupt:
    """Sends SIGINT to this process when the given module is looked for, the first time."""

    def __init__(self, module: str) -> None:
        self.module, self.done = module, False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == self.module and not self.done:
            self.done = True
            os.kill(os.getpid(), signal.SIGINT)


def check(point: str, folder: Path) -> None:
    model = make(Rainbow, learning_starts=0)
    interrupt = Interrupt(point)
    sys.meta_path.insert(0, interrupt)
    try:
        model.learn(1000)
        raise AssertionError("it was not interrupted")
    except KeyboardInterrupt:
        assert interrupt.done
    model.learn(10)
    model.save_checkpoint(folder / "checkpoint")
    make(Rainbow, learning_starts=0).learn(10)
    module: Any = compiled()
    assert model._n_updates > 0
    assert len(module.update.signatures) == len(module.draw.signatures) == 1, "nothing is compiled after the start"


if __name__ == "__main__":
    assert "numba" not in sys.modules
    processes = {}
    for each in POINTS:
        processes[each] = multiprocessing.get_context("fork").Process(target=check, args=(each, Path(sys.argv[1])))
        processes[each].start()
        processes[each].join()
    failed = [each for each, process in processes.items() if process.exitcode != 0]
    sys.exit(f"failed after an interrupt at {failed}" if failed else 0)
