"""docs/howto: every command of each page, typed on a small project with a remote; a model follows a script."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.docs.test_tutorial import turn
from tests.docs.typed import ROOT, Typist, blocks, environment
from tests.engines.scenarios import Asked, Said
from tests.engines.wire_gemini import KEY, Json, Raw, Reply, Wire, serving
from tests.engines.wires import ChatWire, event
from tests.people import Person, person

PAGES = [*sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs/howto").glob("*.md")), "docs/editors.md"]
APP = "def add(a, b):\n    return a - b\n"
TEST = """import unittest
from app import add


class T(unittest.TestCase):
    def test(self):
        self.assertEqual(add(1, 2), {})
"""
PROJECT = {
    "requirements.lock": "requests==2.32.0\n",
    "scripts/update.sh": "echo requests==2.32.5 > requirements.lock\n",
    "scripts/publish.sh": "echo published\n",
}
END: tuple[str, Json] = ("finish", {"status": "done", "summary": "It is done."})
NEWS: tuple[str, Json] = ("write_file", {"path": "NEWS.md", "content": "Nothing new.\n"})


@dataclass(frozen=True, slots=True)
class Scene:
    """What a page needs: more files of the project, what the model says, and in whose format."""

    files: dict[str, str] = field(default_factory=dict)
    script: tuple[tuple[tuple[str, Json], ...], ...] = ()
    chat: bool = False


def fix(path: str) -> tuple[tuple[tuple[str, Json], ...], ...]:
    """An agent that reads a file, corrects it and is done."""
    edits = [{"old": "return a - b", "new": "return a + b"}]
    return ((("read_file", {"path": path}),), (("edit_file", {"path": path, "edits": edits}),), (END,))


SCENES = {
    "failing-test": Scene({"app.py": APP, "test_app.py": TEST.format(3)}, fix("app.py")),
    "weekly-update": Scene({"app.py": APP, "test_app.py": TEST.format(-1)}, ((END,),)),
    "release": Scene(),
    "editors": Scene(),
    "two-reviewers": Scene({}, ((NEWS,), (END,))),
    "private-models": Scene({}, ((), (NEWS,), (END,)), chat=True),
    "monorepo": Scene(
        {"packages/shop/app.py": APP, "packages/shop/test_app.py": TEST.format(3), "packages/billing/tax.py": ""},
        fix("packages/shop/app.py"),
    ),
}


def replies(scene: Scene) -> list[Reply]:
    """What the model says, in the format of its server."""
    if not scene.chat:
        return [turn("", *calls) for calls in scene.script]
    said = [
        Said(
            text=() if calls else ("Hello.",),
            calls=tuple(Asked(name=name, arguments=given, id=f"c{at}") for name, given in calls),
        )
        for at, calls in enumerate(scene.script)
    ]
    return [Raw(data=b"".join(map(event, ChatWire.stream(one, at)))) for at, one in enumerate(said)]


def share(folder: Path, files: dict[str, str], people: list[Person]) -> Path:
    """Make the remote: a project with these files; keys of people are listed, if there are some."""
    listed = {".protocols/allowed_signers": "".join(one.line() for one in people)} if people else {}
    source, shared = folder / "source", folder / "shared.git"
    for path, text in {**PROJECT, **files, **listed}.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)
    who = ("-c", "user.name=Maintainer", "-c", "user.email=maintainer@example.test")
    for words in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        ["commit", "-qm", "start"],
        ["clone", "-q", "--bare", ".", shared],
    ):
        subprocess.run(["git", *who, *words], cwd=source, check=True)
    return shared


def typist(folder: Path, env: dict[str, str], shared: Path) -> Typist:
    """Somebody in their clone."""
    home = Path(env["HOME"])
    subprocess.run(["git", "clone", "-q", shared, home / "your-project"], env=env, check=True)
    return Typist(home / "your-project", env)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_how_to_print_what_it_shows(page: str, tmp_path: Path) -> None:
    scene = SCENES[Path(page).stem]
    several = Path(page).stem == "two-reviewers"
    people = [person(tmp_path, name) for name in ("alice", "bob", "carol")] if several else []
    shared = share(tmp_path, scene.files, people)
    with serving(*replies(scene), wire_of=ChatWire if scene.chat else Wire) as wire:
        model = {"VLLM_API_KEY": KEY} if scene.chat else {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": wire.url}
        env = {**environment(tmp_path), **model, "RUNNER_EXECUTOR": "host", "NO_PROXY": "*"}
        (Path(env["HOME"]) / ".ssh").mkdir(mode=0o700)
        env_of = {one.name: {**env, **one.env} for one in people}
        reader = typist(tmp_path, env_of.get("alice", env), shared)
        others = {name: typist(tmp_path, one, shared) for name, one in env_of.items() if name != "alice"}
        for block in blocks(page):
            who = next((other for name, other in others.items() if name in block.how), reader)
            who.type(replace(block, code=block.code.replace("_URL=…", f"_URL={wire.url}/v1")))
        assert not wire.wrong and len(wire.bodies) == len(scene.script)
    for mapped in (reader.folder / ".vscode").glob("*.schema.json"):  # as the page maps them
        assert json.loads(mapped.read_text())["title"] == f"protocol-runner: {mapped.name.partition('.')[0]}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_how_to_is_typed(page: str) -> None:
    assert (ROOT / page).read_text().count("```sh\n") == len(blocks(page))
