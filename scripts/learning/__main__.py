"""Whether the algorithms learn: ``python scripts/learning COMMAND``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from launcher import launch

    launch("learning", ("regressions", "cartpole", "accelerated", "compare_settings", "draw_importances", "adam_eps"))
