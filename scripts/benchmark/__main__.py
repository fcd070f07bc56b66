"""python scripts/benchmark run SUITE, and then report SUITE."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmark.run import main

    main()
