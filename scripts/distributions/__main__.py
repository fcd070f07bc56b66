"""Whether the distributions are correct, and what risk changes: ``python scripts/distributions COMMAND``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from launcher import launch

    launch("distributions", ("risky_choice", "calibration"))
