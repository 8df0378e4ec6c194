"""Makes the cassettes of the conformance suite: `python -m tests.engines.cassettes [FOLDER]`, byte for byte the same again."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.engines.benches import CASSETTES, record
from tests.engines.scenarios import STORED


def make(folder: Path) -> None:
    """Write every cassette anew."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.jsonl"):
        old.unlink()
    for name in STORED:
        record(name, folder / f"{name}.jsonl")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else CASSETTES)
