"""Each request of ours against GitHub's own REST description (npm `@octokit/openapi`), under Prism: `make forge`.

Prism refuses a request that the description does not allow, and answers with GitHub's own examples, which the adapter has to be
able to read. It lets unknown query parameters through; those are looked up in the description here.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from runner.forge.base import Access, Identity, RequestState, Status, StatusState
from runner.forge.github import GitHub
from runner.forge.place import configured
from tests.forge.github_front import NODE_FOLDER, ROUTES, _free_port
from tests.forge.grounds import TOKEN, Hours
from tests.forge.serving import Answer, Asked, Server

pytestmark = pytest.mark.peers
DESCRIPTION = NODE_FOLDER / "@octokit/openapi/generated/api.github.com.json"
OID = "6dcb09b5b57875f334f61aebed695e2e4193db5e"


def excerpt() -> dict[str, Any]:
    """Return the description of the paths that we use; a body's field that is not named there is then refused."""
    whole: dict[str, Any] = json.loads(DESCRIPTION.read_text())
    paths = {}
    for path, item in whole["paths"].items():
        here = re.sub(r"\{(owner|repo)\}", lambda m: {"owner": "owner", "repo": "shop"}[m[1]], path)
        here = re.sub(r"\{(ref|sha)\}", OID, re.sub(r"\{\w*(number|id)\}", "1", here))
        here = re.sub(r"\{\w+\}", "x", here)
        methods = {m.lower() for m, pattern, _ in ROUTES if pattern.fullmatch(here)}
        if not methods:
            continue
        paths[path] = {key: value for key, value in item.items() if key in methods | {"parameters"}}
        for method in methods & item.keys():
            schema = (
                item[method].get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            )
            if "properties" in schema:
                schema["additionalProperties"] = False
    examples = whole["components"]["examples"]
    examples["branch-get"]["value"]["protected"] = True  # so that the adapter asks how
    for item in examples["activity-items"]["value"]:
        # GitHub's example has the names of before; its schema, beside it, has these.
        item |= {"timestamp": item.pop("pushed_at"), "activity_type": "push", "actor": item.pop("pusher")}
        del item["push_type"]
    return {**whole, "paths": paths}


class Prism(Server):
    """Prism, and what it has against our requests."""

    def __init__(self, folder: Path) -> None:
        self.description = excerpt()
        (folder / "github.json").write_text(json.dumps(self.description))
        self.objections: list[str] = []
        self.upstream = _free_port()
        argv: list[str | Path] = [NODE_FOLDER / "node/bin/node", NODE_FOLDER / "@stoplight/prism-cli/dist/index.js"]
        argv += ["mock", "-h", "127.0.0.1", "-p", str(self.upstream), folder / "github.json"]
        with (folder / "prism.log").open("wb") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
        deadline = time.monotonic() + 90
        while b"is listening" not in (folder / "prism.log").read_bytes():
            told = (folder / "prism.log").read_text()
            assert time.monotonic() < deadline and self.process.poll() is None, told
            time.sleep(0.1)
        super().__init__()

    def close(self) -> None:
        super().close()
        self.process.kill()
        self.process.wait()

    def handle(self, asked: Asked) -> Answer:
        path = asked.path.removeprefix("/api/v3")
        self._look_up(asked, path)
        line = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=30)
        body = None if asked.body is None else json.dumps(asked.body).encode()
        query = f"?{urlencode(asked.query)}" if asked.query else ""
        line.request(
            asked.method, path + query, body, {"Content-Type": "application/json", "Accept": "application/json"}
        )
        answer = line.getresponse()
        data = answer.read()
        line.close()
        if answer.status >= 400:
            self.objections.append(f"{asked.method} {path}: {answer.status} {data.decode()[:500]}")
        return Answer(answer.status, data)  # without the example's Link, which names another list

    def _look_up(self, asked: Asked, path: str) -> None:
        for described, item in self.description["paths"].items():
            if asked.method.lower() in item and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", described), path):
                listed = [*item.get("parameters", []), *item[asked.method.lower()].get("parameters", [])]
                names = {self._resolved(each)["name"] for each in listed}
                unknown = asked.query.keys() - names
                if unknown:
                    self.objections.append(f"{asked.method} {described}: no parameters {sorted(unknown)}")

    def _resolved(self, value: dict[str, Any]) -> dict[str, Any]:
        found: Any = value
        while "$ref" in found:
            at: Any = self.description
            for part in found["$ref"].removeprefix("#/").split("/"):
                at = at[part]
            found = at
        return dict(found)


@pytest.fixture(scope="module")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prism]:
    running = Prism(tmp_path_factory.mktemp("prism"))
    try:
        yield running
    finally:
        running.close()


def test_each_request_is_as_github_describes_it_and_its_examples_are_read(prism: Prism) -> None:
    place = configured(f"github {prism.url}/owner/shop", None)
    assert place is not None
    forge = GitHub(place, TOKEN, Hours().patience(), write_pause=0)

    me = forge.me()
    assert (me.login, me.id) == ("octocat", 1)
    there = forge.request_of("new-topic", "master")
    assert there is not None and there.state is RequestState.OPEN and there.branch == "new-topic"
    assert forge.propose(branch="new-topic", base="master", title="T", body="b").number == there.number
    assert forge.propose(branch="not-there-yet", base="main", title="T", body="b").state is RequestState.OPEN
    assert forge.mark_ready(there.number).number == there.number
    (comment,) = forge.comments(1)
    assert comment.by == me
    assert forge.keep_comment(1, "k", "words").id == comment.id
    # The example is a comment of ours: with the marker it is edited.
    forge._comments = lambda number: (type(comment)(**{**_values(comment), "body": "<!-- runner: k -->\nold"}),)  # type: ignore[method-assign]
    forge.keep_comment(1, "k", "words")
    status = Status(context="runner/step", state=StatusState.PENDING, text="waits", url="https://example.test/1")
    assert forge.report(OID, [status], branch="b") == (status,)
    assert forge.checks(OID)
    assert forge.reviews(1)
    assert forge.pushes("new-topic")
    assert forge.commits(1)
    assert forge.standing(Identity(host=place.host, id=1, login="octocat")).access is Access.ADMIN
    settings = forge.settings("main")
    assert settings.default_branch and settings.protection.protected
    list(forge._line.pages(f"{forge._repo}/issues/1/events", {}))
    forge._line.ask("GET", f"{forge._repo}/issues/1")

    assert prism.objections == []
    asked = {f"{each.method} {each.path.removeprefix('/api/v3')}" for each in prism.asked}
    missed = [
        f"{m} {p.pattern}"
        for m, p, _ in ROUTES
        if not any(p.fullmatch(a.split(" ")[1]) and a.startswith(f"{m} ") for a in asked)
    ]
    assert missed == ["POST /graphql"]


def test_prism_would_object(prism: Prism) -> None:
    place = configured(f"github {prism.url}/owner/shop", None)
    assert place is not None
    forge = GitHub(place, TOKEN, Hours().patience(), write_pause=0)
    before = list(prism.objections)
    for body in ({"title": "no head"}, {"title": "T", "head": "h", "base": "b", "reviewer": "x"}):
        with pytest.raises(Exception, match="GitHub refuses"):
            forge._line.ask("POST", f"{forge._repo}/pulls", body=body)
    forge._line.ask("GET", f"{forge._repo}/pulls", query={"branch": "x"})
    told = prism.objections[len(before) :]
    prism.objections[:] = before
    assert len(told) == 3 and "no parameters ['branch']" in told[2]


def _values(comment: Any) -> dict[str, Any]:
    return {name: getattr(comment, name) for name in ("id", "by", "body", "url", "time", "edited")}
