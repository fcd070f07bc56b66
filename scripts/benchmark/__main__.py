"""Whether the learning curves match those of the papers: ``python scripts/benchmark COMMAND``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from launcher import launch

    launch("benchmark", ("run", "report", "random_policy", "dopamine_step"))
