"""One of many: `worker.py LOG STEPS PROTOCOL...` makes STEPS transitions in the clone that it is started in, whichever it can.

Each call is `runner step`, a process of its own. Its exit code and what it said to a person are a line of LOG.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time

DONE = re.compile(r"^\d+-\S+ +done", re.MULTILINE)  # a step's line
TOGETHER = 3  # protocols that everybody is after at a time
IDLE = 200  # rounds in which nothing could be done, after which it gives up


def main(log: str, steps: int, protocols: list[str]) -> None:
    """Pick one of the first few that are not done, again and again: the others pick from the same."""
    made, idle = 0, 0
    chance = random.Random(log)
    left = list(protocols)
    with open(log, "w") as file:
        while made < steps and left and idle < IDLE:
            protocol = chance.choice(left[:TOGETHER])
            argv = [sys.executable, "-m", "runner", "step", protocol, "--publish", "always"]
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            advanced = done.returncode == 0 and DONE.search(done.stderr) is not None
            file.write(json.dumps([protocol, done.returncode, advanced, done.stderr]) + "\n")
            file.flush()
            made, idle = made + advanced, 0 if advanced else idle + 1
            if done.returncode == 0 and not advanced:
                left.remove(protocol)  # all of it is done
            time.sleep(chance.random() * 0.3 * (not advanced))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
