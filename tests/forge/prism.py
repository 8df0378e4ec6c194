"""Prism, which holds requests to GitHub's own REST description (npm `@octokit/openapi`): `make forge` installs both.

It refuses a request that the description does not allow, and answers with GitHub's own examples. Unknown query parameters it lets
through; those are looked up in the description here.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.forge.github_front import NODE_FOLDER, ROUTES, _free_port
from tests.forge.serving import Answer, Asked, Server

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
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.process.kill()
                raise AssertionError((folder / "prism.log").read_text())
            time.sleep(0.1)
        super().__init__()

    def close(self) -> None:
        super().close()
        self.process.kill()
        self.process.wait()

    def replay(self, asked: Sequence[Asked]) -> None:
        """Ask what was asked elsewhere, each shape once; GraphQL has another description."""
        shapes = {(one.method, one.path, *sorted(one.query), *sorted(one.body or ())): one for one in asked}
        for one in shapes.values():
            if not one.path.endswith("/graphql"):
                self.handle(one)

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
