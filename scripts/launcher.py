"""How each folder of scripts runs its commands: ``python scripts/FOLDER COMMAND [options]``."""

import importlib
import sys


def launch(folder: str, commands: tuple[str, ...]) -> None:
    """
    Run the command that the command line names, with what follows as its arguments.

    :param folder: of the commands
    :param commands: their modules, each with a ``main(arguments)``
    :raises SystemExit: with the usage, for any other command
    """
    command = sys.argv[1] if len(sys.argv) > 1 else None
    if command not in commands:
        raise SystemExit(f"usage: python scripts/{folder} {{{','.join(commands)}}} [options]")
    sys.argv[0] = f"python scripts/{folder} {command}"  # what argparse prints
    importlib.import_module(f"{folder}.{command}").main(sys.argv[2:])
