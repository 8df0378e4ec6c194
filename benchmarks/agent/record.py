"""Makes `answers.jsonl`: `make cassettes`. The same bytes each time; what it writes is never edited.

The answers are written here, with the solution known, and come over a local endpoint of Gemini's wire format through the real
google-genai package. They are no model's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.agent.__main__ import ANSWERS
from benchmarks.agent.running import carry_out
from benchmarks.agent.tasks import TASKS, Task
from tests.engines.wire_gemini import KEY, Answer, Json, serving

MODEL = "gemini-2.5-flash"


def turn(*calls: tuple[str, Json]) -> Answer:
    """Return a turn that calls tools."""
    parts = [{"functionCall": {"name": name, "args": arguments}} for name, arguments in calls]
    return Answer(pieces=[parts], model=MODEL)


def script(task: Task) -> tuple[Answer, ...]:
    """Return the answers that solve a task."""
    path = f"{task.package}/{task.file}"
    return (
        turn(("read_file", {"path": f"test_{task.package}.py"}), ("read_file", {"path": path})),
        turn(("edit_file", {"path": path, "edits": [{"old": task.wrong, "new": task.right}]})),
        turn(("finish", {"status": "done", "summary": f"the bug was in {path}"})),
    )


def record(answers: Path) -> None:
    """Write the answers anew, for sandbox and host, whose tools differ."""
    answers.unlink(missing_ok=True)
    for executor in ("sandbox", "host"):
        for task in TASKS:
            with serving(*script(task)) as wire:
                env = {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": wire.url, "NO_PROXY": "*"}
                done = carry_out(task, f"gemini:{MODEL}", executor, env=env, more=("--record", str(answers)))
                if not done.solved or wire.wrong or len(wire.bodies) != 3:
                    raise SystemExit(f"{task.name}, {executor}: {done.said}\n{wire.wrong}")


if __name__ == "__main__":
    record(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ANSWERS)
