"""`python -m runner`, and what the programs `runner` and `git-runner` run."""

import os

from runner.cli import main as commands


def main() -> None:
    """Run the command line. Ctrl-C before it handles that, as its modules are read, ends it without a word, as it does git."""
    try:
        commands.main()
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    main()
