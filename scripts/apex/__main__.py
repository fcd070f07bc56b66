"""What is gained by actors: ``python scripts/apex COMMAND``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from launcher import launch

    launch("apex", ("scaling", "two_hosts"))
