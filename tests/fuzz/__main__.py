"""`make fuzz`: atheris tries to break each target, led by which lines an input reaches; and what it found becomes the corpus.

`run` goes on from the corpus and from what earlier runs left in build/fuzz/, and ends with 1 where a target failed: the input
stands beside the report. `keep` copies into the corpus what goes a way that no file there goes. Only `one` needs atheris.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
FOUND = ROOT / "build" / "fuzz"
LONGEST_INPUT = 4096  # bytes
TIMEOUT = 5  # seconds for one input
MEMORY = 2048  # MiB
NAMES = sorted(folder.name for folder in CORPUS.iterdir())


def run(names: list[str], seconds: int, seed: int | None) -> int:
    """Fuzz the targets one after the other, `seconds` in all; return the exit code. `seed`: the same inputs in the same order."""
    failed = []
    each = max(1, seconds // len(names))
    for name in names:
        print(f"== fuzz {name}: {each} s", flush=True)
        (FOUND / name).mkdir(parents=True, exist_ok=True)
        given = [name, str(each), *([str(seed)] if seed is not None else [])]
        env = {**os.environ, **({"PYTHONHASHSEED": "0"} if seed is not None else {})}
        done = subprocess.run([sys.executable, "-m", "tests.fuzz", "one", *given], cwd=ROOT, env=env, check=False)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"error: {', '.join(failed)}: see above; an input is named after `Test unit written to`", file=sys.stderr)
        print(
            "next: copy it to tests/fuzz/corpus/TARGET/, where `make test` fails on it, and mend that", file=sys.stderr
        )
    return 1 if failed else 0


def one(name: str, seconds: int, seed: int | None) -> None:
    """Fuzz one target and end the process as libFuzzer does; `seed`: as for `run`."""
    import atheris

    # Each file that is imported in here gets its counters.
    with atheris.instrument_imports(include=["runner", "yaml", "json", "tests.fuzz"]):
        from tests.fuzz.targets import TARGETS, WORDS

    target = TARGETS[name]
    (FOUND / name / "good").write_bytes(target.good)
    words = {word for word in [*WORDS, *target.good.splitlines(keepends=True)] if 0 < len(word) <= 64}
    dictionary = FOUND / f"{name}.words"
    dictionary.write_text("".join(f'"{"".join(f"{chr(92)}x{byte:02x}" for byte in word)}"\n' for word in sorted(words)))

    def once(data: bytes) -> None:
        target.fuzz(data)

    limits = [
        f"-max_total_time={seconds}",
        f"-timeout={TIMEOUT}",
        f"-rss_limit_mb={MEMORY}",
        f"-max_len={LONGEST_INPUT}",
        *([f"-seed={seed}"] if seed is not None else []),
    ]
    places = [f"-dict={dictionary}", f"-artifact_prefix={FOUND}/{name}-", str(FOUND / name), str(CORPUS / name)]
    atheris.Setup([name, *limits, "-print_final_stats=1", *places], once)
    atheris.Fuzz()


def keep(names: list[str], most: int) -> None:
    """Copy into each target's corpus what adds a way, at most `most` new files a target; the shortest come first."""
    from tests.fuzz.targets import TARGETS

    for name in names:
        there = sorted((CORPUS / name).iterdir())
        found = (FOUND / name).iterdir() if (FOUND / name).is_dir() else []
        gone: set[tuple[str, int, int]] = set()
        for data in [TARGETS[name].good, *(file.read_bytes() for file in there)]:
            gone |= ways(name, data)
        new = 0
        for data in sorted((file.read_bytes() for file in found), key=lambda data: (len(data), data)):
            if new < most and not (been := ways(name, data)) <= gone:
                gone |= been
                new += 1
                (CORPUS / name / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        print(f"{name}: {new} new beside {len(there)}")


def ways(name: str, data: bytes) -> set[tuple[str, int, int]]:
    """Return the steps from line to line that the runner's code takes on an input."""
    from tests.fuzz.targets import TARGETS

    been: set[tuple[str, int, int]] = set()
    package = str(ROOT / "runner")

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        file, last = frame.f_code.co_filename, 0
        if not file.startswith(package):
            return None

        def step(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal last
            if event == "line":
                been.add((file, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        TARGETS[name].fuzz(data)
    finally:
        sys.settrace(None)
    return been


def known(name: str) -> str:
    """Return the name of a target."""
    if name not in NAMES:
        raise argparse.ArgumentTypeError(f"there is no target {name}")
    return name


def main(words: Iterable[str]) -> int:
    """Do what the words say."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="fuzz the readers of hostile bytes")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, number, help_ in (
        ("run", "seconds", "fuzz, all targets or those that are named"),
        ("keep", "most", "add what was found to the corpus"),
    ):
        sub = commands.add_parser(command, help=help_)
        sub.add_argument(f"--{number}", type=int, default={"seconds": 60, "most": 20}[number])
        if command == "run":
            sub.add_argument("--seed", type=int, help="the same inputs in the same order, from the same corpus")
        sub.add_argument("names", nargs="*", type=known, metavar="TARGET", help=", ".join(NAMES))
    single = commands.add_parser("one")
    single.add_argument("name", type=known)
    single.add_argument("seconds", type=int)
    single.add_argument("seed", type=int, nargs="?")
    given = parser.parse_args(list(words))
    if given.command == "one":
        one(given.name, given.seconds, given.seed)
        return 0
    if given.command == "keep":
        keep(given.names or NAMES, given.most)
        return 0
    return run(given.names or NAMES, given.seconds, given.seed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
