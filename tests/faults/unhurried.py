"""`python -m runner` whose batches end with their steps, however busy the machine is: else no two runs made the same calls."""

from __future__ import annotations

from runner.cli.main import main
from runner.store import batch

if __name__ == "__main__":
    batch.LONGEST = 3600.0
    main()
