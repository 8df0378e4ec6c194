"""Makes the demo's recording: `make cassettes`. The same bytes each time; what it writes is never edited.

The model is a local endpoint of Gemini's wire format that follows a script, asked through the real google-genai package.
The tools that a model is offered differ between sandbox and host, so both are recorded, one after the other, in one file.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import story
from terminal import Failed, Terminal

from tests.engines.wire_gemini import KEY, Answer, Json, serving

MODEL = "gemini-2.5-flash"


def turn(tokens: tuple[int, int], text: str, *calls: tuple[str, Json]) -> Answer:
    """Return what the model says: text, and calls."""
    parts: list[Json] = [{"text": text}] if text else []
    parts += [{"functionCall": {"name": name, "args": args}} for name, args in calls]
    usage = {"promptTokenCount": tokens[0], "candidatesTokenCount": tokens[1], "totalTokenCount": sum(tokens)}
    return Answer(pieces=[parts], usage=usage, model=MODEL)


SCRIPT = (
    turn((1_904, 27), "I look at what is there.", ("list_files", {})),
    turn(
        (2_010, 58),
        "The failing test and what it tests:",
        ("read_file", {"path": "tests/test_median.py"}),
        ("read_file", {"path": "stats/median.py"}),
    ),
    turn(
        (2_391, 121),
        "For four values `len // 2` is the third of them; the docstring asks for the mean of the middle two.",
        ("edit_file", {"path": "stats/median.py", "edits": [story.EDIT]}),
    ),
    turn(
        (2_560, 74),
        "",
        (
            "finish",
            {
                "summary": "median() took the upper of the two middle values for an even number of them; it returns their "
                "mean now. The tests are as they were."
            },
        ),
    ),
)


def record(cassette: Path) -> None:
    """Write the recording anew.

    Raises:
        Failed: the sandbox does not work here, or a run did not go as it should.
    """
    cassette.parent.mkdir(parents=True, exist_ok=True)
    cassette.unlink(missing_ok=True)
    for executor in ("sandbox", "host"):
        root = Path(tempfile.mkdtemp(prefix="protocol-runner-record-")).resolve()
        try:
            (root / "home").mkdir()
            term = Terminal(root / "home")
            for setting in (
                ("user.name", "Alice"),
                ("user.email", "alice@example.test"),
                ("init.defaultBranch", "main"),
            ):
                term.run("git", "config", "--global", *setting, hide=True)
            story.prepare(term, root)
            with serving(*SCRIPT) as wire:
                term.env |= {
                    "RUNNER_EXECUTOR": executor,
                    "RUNNER_ENGINE": f"gemini:{MODEL}",
                    "GEMINI_API_KEY": KEY,
                    "GOOGLE_GEMINI_BASE_URL": wire.url,
                    "NO_PROXY": "*",
                }
                term.run("runner", "new", "--plan", "../fix", hide=True)
                term.run("runner", "step", "1", "--record", str(cassette), hide=True)
                if wire.wrong or len(wire.bodies) != len(SCRIPT):
                    raise Failed(f"{len(wire.bodies)} requests; {wire.wrong}")
        finally:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    try:
        record(Path(sys.argv[1]) if len(sys.argv) > 1 else story.CASSETTE)
    except Failed as error:
        sys.exit(f"error: {error}")
