"""`runner audit`: what stands on the page, that nothing in it is more than text, and that a browser thinks so too."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import Box, command
from tests.executor.minds import agent, finish, mind, say, write
from tests.people import governed, person

EVIL = (
    "</title></style></pre><script>document.title='ran'</script>"
    """<img src='http://127.0.0.1:PORT/x' onerror="document.title='ran'">"""
)
WORDLESS = '<svg onload="document.title=1"><a href="javascript:alert(1)">'
OURS = {
    "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "dl", "dt", "dd", "nav", "a", "main",
    "section", "div", "span", "code", "pre", "table", "caption", "thead", "tbody", "tr", "th", "td", "ul", "li", "footer",
    "details", "summary",
}  # fmt: skip
ATTRIBUTES = {
    "charset",
    "http-equiv",
    "content",
    "name",
    "class",
    "id",
    "href",
    "scope",
    "role",
    "tabindex",
    "aria-label",
    "lang",
}


class Page(HTMLParser):
    """What a parser that follows no policy makes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: dict[str, set[str]] = {}
        self.text: list[str] = []
        self.stack: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")
        self.stack += [tag] if tag != "meta" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def audit(box: Box, protocol: str, rc: int = 0, cwd: Path | None = None) -> str:
    """The page."""
    box.runner("audit", protocol, "-o", "page.html", cwd=cwd, rc=rc)
    return ((cwd or box.path) / "page.html").read_text()


def said(page: str) -> str:
    """Its text."""
    return " ".join(" ".join(Page(page).text).split())


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Box, str, int]:
    """A protocol in which everybody says what a browser could take for more than text; and the port that they name."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    evil = EVIL.replace("PORT", str(port))
    alice = person(tmp_path, "alice")
    box = governed(tmp_path / "repo", [alice])
    folder = box.plan({"01-a": agent("approval: before\noutputs: ['*.html']\n"), "02-b": ""}, title="x")
    quoted = evil.replace("'", "''")
    (folder / "plan.md").write_text(f"---\ntitle: '{quoted}'\n---\n{evil}\u200b\n")
    (folder / "02-b.md").write_text(
        f"---\ntitle: '{quoted}'\nkind: command\nrun: cat evil.html; cp evil.html '<b>.html'; exit $(($RUNNER_ATTEMPT < 2))\n"
        f"on_failure: {{retry: 1, then: fail}}\n---\n{evil}\n"
    )
    with mind(box, say(write("evil.html", evil + "\n"), text=evil), finish(evil, more=evil)):
        protocol = box.runner("new", "x", "--plan", folder, rc=0).out.strip()
        box.runner("run", protocol, rc=3)
        box.runner("approve", protocol, "-m", WORDLESS, "--yes", env=alice.env, rc=0)
        box.runner("run", protocol, rc=0)
    return box, protocol, port


def test_everything_stands_on_the_page(box: Box) -> None:
    with mind(box, say(write("lib.py", "LIMIT = 42\n")), finish("limited", n=1)):
        steps = {
            "01-limit": agent("outputs: [lib.py]\nqa: {checks: ['grep -q 42 lib.py']}\n"),
            "02-ask": "kind: human\n",
        }
        protocol = box.new(steps, title="Limit it")
        box.runner("run", protocol, rc=3)
    told = said(audit(box, protocol))
    digest = re.search(r'"transcript":"(sha256:[0-9a-f]+)"', box.log(protocol))
    assert digest is not None
    for part in (
        f"{protocol}: Limit it", "The record verifies: ", "approvals; unsigned: proves consistency, not who ran them.",
        "status running, revision", "trusted branch main at",
        f"runner verify {protocol}", "transitions are not signed", "What and why.", "01-limit: 01-limit",
        "grep -q 42 lib.py passed", '"n": 1', "200 40 $", f"limit gemini:gemini-2.5-flash {digest[1]} runs/limit.1.jsonl",
        "planned", "asked ask alice@example.test", "Do it.", "+LIMIT = 42", "lib.py | 1 +",
        "steps limit, ask", "grep -q 42 lib.py: passed, <1 s", "all fields attempt: 1",
    ):  # fmt: skip
        assert part in told, part
    assert f".protocols/{protocol}/log.md" not in told.rpartition("Difference")[2]


def test_a_squashed_protocol_shows_its_own_work_and_says_what_verify_says(box: Box) -> None:
    protocol = box.new({"01-a": command("echo its own > a.txt")})
    box.runner("run", protocol, rc=0)
    box.git("merge", "-q", "--squash", protocol)
    box.git("commit", "-qm", "squashed")
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("branch", "-qD", protocol)
    box.write("later.txt", "somebody else's\n")
    box.commit("later")
    verdict = box.runner("verify", protocol).code
    told = said(audit(box, protocol, rc=verdict))
    assert ("It cannot be verified here" if verdict == 5 else "The record verifies") in told
    assert "+its own" in told and "somebody else" not in told


@pytest.mark.no_agreement("the record is forged")
def test_a_record_that_does_not_verify_is_shown_as_that(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    tree = box.worktree(protocol)
    state = tree / f".protocols/{protocol}/state.json"
    state.write_text(state.read_text().replace('"A plan"', '"Another"'))
    box.commit("forge", cwd=tree)
    told = said(audit(box, protocol, rc=4))
    assert "The record does NOT verify: 1 finding." in told and "record-changed" in told
    state.write_text("{")
    (state.parent / "log.md").write_text("nothing")
    box.commit("worse", cwd=tree)
    assert "does NOT verify" in said(audit(box, protocol, rc=4))


def test_only_an_older_page_is_replaced(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    assert box.runner("audit", protocol, rc=0).out == f"{box.path / protocol}.html\n"
    box.runner("audit", protocol, rc=0)
    box.write("mine.html", "<p>mine\n")
    refused = box.runner("audit", protocol, "-o", "mine.html", rc=4)
    assert "something else has that name" in refused.err and (box.path / "mine.html").read_text() == "<p>mine\n"


def test_a_page_is_written_through_no_link_and_only_where_it_can_be(box: Box, tmp_path: Path) -> None:
    """A branch may have a link of the page's name; that it leads nowhere yet makes it no better."""
    protocol = box.new({"01-a": command("true")})
    (box.path / f"{protocol}.html").symlink_to(tmp_path / "elsewhere")
    assert "something else has that name" in box.runner("audit", protocol, rc=4).err
    assert not (tmp_path / "elsewhere").exists()
    assert "No such file" in box.runner("audit", protocol, "-o", "no/page.html", rc=2).err


@pytest.mark.slow
def test_nothing_that_anybody_said_is_more_than_text(hostile: tuple[Box, str, int]) -> None:
    box, protocol, port = hostile
    page = audit(box, protocol)
    parsed = Page(page)
    assert parsed.tags <= OURS and parsed.attributes.keys() <= ATTRIBUTES and parsed.stack == []
    assert all(link.startswith("#") for link in parsed.attributes["href"])
    policy = re.search(r'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert policy is not None and policy[1].startswith("default-src 'none'; style-src 'sha256-")
    evil = EVIL.replace("PORT", str(port))
    shown = "".join(parsed.text)
    # Title, heading, plan, step's title and words, result, transcript's effects, output's tail, difference.
    assert shown.count(evil) >= 7 and shown.count(WORDLESS) >= 1
    assert "\\u200b" in shown and "\u200b" not in page


@pytest.mark.slow
def test_a_browser_runs_nothing_of_it_and_asks_nobody(hostile: tuple[Box, str, int], tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("allowed: no chromium is installed")
    box, protocol, port = hostile
    audit(box, protocol)
    raw = EVIL.replace("PORT", str(port))
    box.write("control.html", f"<!doctype html><title>quiet</title><body>{raw}")
    asked: list[str] = []
    server = socket.create_server(("127.0.0.1", port))
    server.settimeout(0.2)
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            try:
                server.accept()[0].close()
                asked.append("somebody")
            except TimeoutError:
                pass

    listening = threading.Thread(target=listen)
    listening.start()
    words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    try:
        shown = {}
        for name in ("page", "control"):
            asked.clear()
            dom = subprocess.run(
                [*words, "--virtual-time-budget=3000", "--dump-dom", (box.path / f"{name}.html").as_uri()],
                capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, check=True,
            ).stdout  # fmt: skip
            shown[name] = ("<title>ran</title>" in dom, bool(asked))
    finally:
        over.set()
        listening.join()
        server.close()
    assert shown == {"page": (False, False), "control": (True, True)}


# --- in-toto ---------------------------------------------------------------------------------------------------------------


def test_each_completed_step_is_a_statement_that_holds_of_its_files(box: Box) -> None:
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement, statement_pb2

    with mind(box, say(write("lib.py", "LIMIT = 42\n")), finish("limited")):
        qa = "outputs: [lib.py]\nqa: {checks: ['grep -q 42 lib.py']}\n"
        protocol = box.new({"01-limit": agent(qa), "02-list": command("seq 3"), "03-ask": "kind: human\n"})
        box.runner("run", protocol, rc=3)
    out = box.runner("audit", protocol, "--attest", rc=0).out
    for line in out.splitlines():
        statement.Statement.copy_from_pb(json_format.Parse(line, statement_pb2.Statement())).validate()
        json_format.ParseDict(json.loads(line)["predicate"], provenance_pb2.Provenance())
    limit, listed = map(json.loads, out.splitlines())
    work = box.git("log", "-1", "--format=%H", protocol, "--", "lib.py").strip()
    made = hashlib.sha256(b"LIMIT = 42\n").hexdigest()
    assert limit["subject"] == [
        {"name": f"{protocol}/limit.1", "digest": {"gitCommit": work}}, {"name": "lib.py", "digest": {"sha256": made}},
    ]  # fmt: skip
    built, ran = limit["predicate"]["buildDefinition"], limit["predicate"]["runDetails"]
    assert built["externalParameters"] == {"protocol": protocol, "step": "limit", "attempt": 1, "kind": "agent"}
    assert built["internalParameters"] == {"engine": "gemini:gemini-2.5-flash", "executor": "host"}
    start, file, trusted = built["resolvedDependencies"]
    assert start["digest"]["gitCommit"] == box.git("rev-parse", f"{work}^").strip()
    words = box.git("show", f"{protocol}:{file['name']}")
    assert file["digest"]["sha256"] == hashlib.sha256(words.encode()).hexdigest()
    assert trusted["digest"]["gitCommit"] == box.git("rev-parse", "main").strip()
    transcript = box.git("show", f"refs/runner/history/{protocol}:{ran['byproducts'][0]['name']}")
    assert ran["byproducts"][0]["digest"]["sha256"] == hashlib.sha256(transcript.encode()).hexdigest()
    assert [one["name"] for one in ran["byproducts"][1:]] == ["check: outputs: lib.py", "check: grep -q 42 lib.py"]
    assert listed["subject"][0]["name"] == f"{protocol}/list.1" and ran["builder"]["id"] == "urn:protocol-runner:host"
    box.runner("audit", protocol, "--attest", "-o", "all.jsonl", rc=0)
    box.runner("audit", protocol, "--attest", "-o", "all.jsonl", rc=0)
    assert (box.path / "all.jsonl").read_text() == out


def test_without_the_library_it_is_named(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = box.new({"01-a": command("true")})
    monkeypatch.setitem(sys.modules, "in_toto_attestation.v1", None)
    assert "pip install 'protocol-runner[attest]'" in box.runner("audit", protocol, "--attest", rc=2).err


@pytest.mark.no_agreement("the record is forged")
def test_a_record_that_does_not_verify_gives_no_statement(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    box.runner("run", protocol, rc=0)
    state = box.worktree(protocol) / f".protocols/{protocol}/state.json"
    state.write_text(state.read_text().replace('"A plan"', '"Another"'))
    box.commit("forge", cwd=state.parent)
    told = box.runner("audit", protocol, "--attest", rc=4).out
    assert "_type" not in told and "does not verify" in told
