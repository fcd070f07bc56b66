"""Suites of trainings: python scripts/benchmark run SUITE, and then report SUITE."""

import importlib
import sys
from pathlib import Path

COMMANDS = ("run", "report", "random_policy")

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        raise SystemExit(f"usage: python scripts/benchmark {{{','.join(COMMANDS)}}} SUITE [options]")
    importlib.import_module(f"benchmark.{sys.argv[1]}").main(sys.argv[2:])
