"""A GitHub Actions machine, as small as the workflows need it: each `run:` block is executed by bash with the environment that GitHub
gives, expressions are worked out, and the few actions that are used do what theirs do. `gh` is a program of GitHub's that is not
here: what it is asked is written down.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import Box

ROOT = Path(__file__).parents[2]
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_TOKEN = re.compile(r"\s*('(?:[^']|'')*'|\|\||&&|==|!=|[!()<>,]|[0-9]+|[A-Za-z_][\w.-]*)")


def load(path: Path) -> dict[str, Any]:
    """Read a workflow; YAML 1.1 reads its `on` as true."""
    read: dict[Any, Any] = yaml.safe_load(path.read_text())
    return {"on" if key is True else str(key): value for key, value in read.items()}


@dataclass(slots=True)
class Ran:
    """A job that ran: how it ended, its outputs, and what it printed."""

    result: str
    outputs: dict[str, str] = field(default_factory=dict)
    printed: str = ""


@dataclass(slots=True)
class Machine:
    """`box`: a person whose `origin` is the repository; `folder`: where jobs get their machines; `cached`: the keys of the cache."""

    box: Box
    folder: Path
    event: dict[str, Any]
    event_name: str
    ref_name: str = "main"
    inputs: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    cached: set[str] = field(default_factory=set)

    @property
    def asked(self) -> list[list[str]]:
        """What `gh` was asked."""
        log = self.folder / "gh.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def workflow(self, name: str) -> dict[str, Any]:
        """A workflow of the repository's default branch."""
        return load(self.box.path / f".github/workflows/{name}.yml")

    def job(self, name: str, job: str, *, needs: Mapping[str, Ran] | None = None, **matrix: str) -> Ran:
        """Run a job of a workflow on a machine of its own."""
        told = self.workflow(name)
        work = told["jobs"][job]
        context = self._context(needs or {}, matrix)
        if "if" in work and not evaluate(str(work["if"]), context):
            return Ran("skipped")
        at = Path(tempfile.mkdtemp(prefix=f"{job}-", dir=self.folder))
        for part in ("home/.protocol-runner/bin", "temp", "work", "bin"):
            (at / part).mkdir(parents=True)
        self._programs(at)
        context["runner"] = {"temp": str(at / "temp"), "os": "Linux"}
        env = {**told.get("env", {}), **work.get("env", {})}
        ran = Ran("success")
        self._steps(work["steps"], env, context, at, ran)
        ran.outputs = {key: show(text, context) for key, text in work.get("outputs", {}).items()}
        return ran

    def _context(self, needs: Mapping[str, Ran], matrix: Mapping[str, str]) -> dict[str, Any]:
        github = {
            "event": {"repository": {"default_branch": "main"}, **self.event},
            "event_name": self.event_name,
            "ref_name": self.ref_name,
            "ref": f"refs/heads/{self.ref_name}",
            "sha": self.box.git("rev-parse", f"origin/{self.ref_name}", check=False).strip(),
            "token": "canary-job-token",
            "repository": "o/r",
            "server_url": "https://github.com",
            "run_id": 7,
        }
        return {
            "github": github,
            "inputs": self.inputs,
            "secrets": self.secrets,
            "vars": self.variables,
            "matrix": dict(matrix),
            "steps": {},
            "needs": {name: {"result": ran.result, "outputs": ran.outputs} for name, ran in needs.items()},
        }

    def _programs(self, at: Path) -> None:
        """The runner as if it had been installed, and `gh`."""
        kept = at / "home/.protocol-runner"
        package = re.search(
            r"^package=\$\{RUNNER_PACKAGE:-(.*)\}$", (self.box.path / "scripts/ci/protocol.sh").read_text(), re.M
        )
        assert package
        (kept / "package").write_text(package[1] + "\n")
        gh = f"import json, sys; open({str(self.folder / 'gh.log')!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')"
        answer, rights = str(self.folder / "gh.answer"), str(self.folder / "gh.permission")
        for path, line in (
            (kept / "bin/python", f'exec "{sys.executable}" "$@"'),
            (kept / "bin/runner", f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -m runner "$@"'),
            (
                at / "bin/gh",
                f'"{sys.executable}" -c "$GH_CODE" "$@"; [ "$1" = api ] && exec cat "{rights}"; cat "{answer}" 2>/dev/null || true',
            ),
        ):
            path.write_text(
                f"#!/bin/sh\nGH_CODE={json.dumps(gh)}\n{line}\n" if path.name == "gh" else f"#!/bin/sh\n{line}\n"
            )
            path.chmod(0o755)

    def _steps(
        self, steps: list[dict[str, Any]], env: dict[str, Any], context: dict[str, Any], at: Path, ran: Ran
    ) -> None:
        for step in steps:
            condition = str(step.get("if", "success()"))
            failed = ran.result == "failure"
            if failed and "always()" not in condition:
                continue
            if not evaluate(condition, context | {"failed": failed}):
                continue
            given = {key: show(value, context) for key, value in step.get("with", {}).items()}
            if "uses" in step:
                found = self._use(step["uses"], given, context, at, ran)
            else:
                found = self._run(step, {**env, **step.get("env", {})}, context, at, ran)
            if "id" in step:
                context["steps"][step["id"]] = {"outputs": found}

    def _run(
        self, step: dict[str, Any], env: dict[str, Any], context: dict[str, Any], at: Path, ran: Ran
    ) -> dict[str, str]:
        assert "${{" not in step["run"], "an expression inside run:"
        script = at / "temp/script.sh"
        script.write_text(step["run"])
        files = {
            name: at / f"temp/{name}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV", "GITHUB_PATH")
        }
        for path in files.values():
            path.write_text("")
        whole = {
            **self.box.environment(),
            "HOME": str(at / "home"),
            "PATH": f"{at / 'bin'}:{os.environ['PATH']}",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_REPOSITORY": "o/r",
            "RUNNER_TEMP": str(at / "temp"),
            **{name: str(path) for name, path in files.items()},
            **{key: show(value, context) for key, value in env.items()},
        }
        whole = {key: value for key, value in whole.items() if not key.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))}
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail"] if step.get("shell") == "bash" else ["bash", "-e"]
        done = subprocess.run([*shell, script], cwd=at / "work", env=whole, capture_output=True, text=True)
        ran.printed += done.stdout + done.stderr
        if done.returncode:
            ran.result = "failure"
        assert not files["GITHUB_ENV"].read_text() and not files["GITHUB_PATH"].read_text()
        return dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())

    def _use(self, uses: str, given: dict[str, str], context: dict[str, Any], at: Path, ran: Ran) -> dict[str, str]:
        work, store = at / "work", self.folder / "artifacts"
        if uses.startswith("./"):
            action = load(work / uses / "action.yml")
            inputs = {name: given.get(name) or one.get("default", "") for name, one in action["inputs"].items()}
            self._steps(action["runs"]["steps"], {}, {**context, "inputs": inputs, "steps": {}}, at, ran)
            return {}
        name = uses.partition("@")[0]
        if name == "actions/checkout":
            assert given["persist-credentials"] == "False"
            url = self.box.git("remote", "get-url", "origin").strip()
            depth = [] if given.get("fetch-depth") == "0" else ["--depth=1"]
            ref = given.get("ref") or str(context["github"]["ref"])
            self.box.git("init", "-q", ".", cwd=work)
            self.box.git("remote", "add", "origin", url, cwd=work)
            self.box.git("fetch", "-q", *depth, "origin", "+refs/heads/*:refs/remotes/origin/*", cwd=work)
            for place in (ref, ref.replace("refs/heads/", "refs/remotes/origin/"), f"refs/remotes/origin/{ref}"):
                if self.box.git("rev-parse", "-q", "--verify", f"{place}^{{commit}}", cwd=work, check=False):
                    self.box.git("checkout", "-q", "--detach", place, cwd=work)
                    return {}
            raise AssertionError(f"there is no {ref}")
        if name == "actions/upload-artifact":
            folder, _, pattern = given["path"].rpartition("/")
            for path in Path(folder).glob(pattern):
                assert given.get("overwrite") or not (store / given["name"] / path.name).exists(), "it exists already"
                (store / given["name"]).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, store / given["name"])
            return {}
        if name == "actions/download-artifact":
            for path in store.glob(f"{given['pattern']}/*"):
                Path(given["path"]).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, given["path"])
            return {}
        if name == "actions/cache/restore":
            return {"cache-hit": "true"} if given["key"] in self.cached else {}
        if name == "actions/cache/save":
            self.cached.add(given["key"])
            return {}
        assert name == "actions/cache", name
        return {}


def show(value: Any, context: Mapping[str, Any]) -> str:
    """Return a value with its expressions worked out, as GitHub shows values."""

    def one(match: re.Match[str]) -> str:
        found = evaluate(match[1], context)
        return "" if found is None else str(found).lower() if isinstance(found, bool) else str(found)

    return _EXPRESSION.sub(one, str(value))


def evaluate(text: str, context: Mapping[str, Any]) -> Any:
    """Work an expression out; a name that leads nowhere is empty, which null equals there."""
    text = text.strip()
    if text.startswith("${{") and text.endswith("}}"):
        text = text[3:-2]
    words, at = [], 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        assert found, f"cannot read: {text[at:]}"
        at, word = found.end(), found[1]
        if word[0] == "'":
            words.append(repr(word[1:-1].replace("''", "'")))
        elif word in ("||", "&&", "!"):
            words.append({"||": " or ", "&&": " and ", "!": " not "}[word])
        elif word[0].isalpha() and text[at : at + 1] != "(":
            words.append(f"look({word!r})")
        else:
            words.append(word)

    def look(name: str) -> Any:
        value: Any = context
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return "" if value is None else value

    functions = {
        "look": look,
        "startsWith": lambda whole, start: str(whole or "").lower().startswith(start.lower()),
        "fromJSON": json.loads,
        "always": lambda: True,
        "cancelled": lambda: False,
        "success": lambda: not context.get("failed"),
    }
    return eval("".join(words), {"__builtins__": {}}, functions)
