"""How fast the library is: ``python scripts/speed COMMAND``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from launcher import launch

    launch("speed", ("gradient_steps", "floor", "profile_step", "collection", "overlap", "pong"))
