"""What prioritized replay costs and gains: ``python scripts/replay COMMAND``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from launcher import launch

    launch("replay", ("speed", "memory", "blind_cliffwalk"))
