"""A team on either forge: its project set up by `runner init`, real git over smart HTTP with authentication, people with keys, and
the jobs of its CI as `runner init` wrote them.

Who pushes shows a token, and what was pushed is the forge's before anything else happens there.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from runner.forge import Status
from tests.ci.actions import ROOT, Machine, Ran
from tests.conftest import JOBS, Box, Result, make_box
from tests.forge import smart_http
from tests.forge.github_front import HERE, Known
from tests.forge.grounds import TOKEN, GitHubGround, GitLabGround
from tests.forge.serving import Answer, Asked
from tests.people import Person, person

JOB = "canary-job-token"  # GitHub's own, as tests/ci/actions.py gives it to a job
READS = "canary-reads-7c1e5d3b"  # GitLab's, for the job that a model works in
OF_GIT = {name: f"canary-git-of-{name}-51c7" for name in ("alice", "carol")}


def basic(name: str, token: str) -> str:
    """Return a name and a token as HTTP's Basic authentication has them."""
    return base64.b64encode(f"{name}:{token}".encode()).decode()


class GitServer:
    """A bare repository over HTTP. `users`: whose a token is, and whether it may push."""

    def __init__(self, team: Team) -> None:
        self.users = {TOKEN: ("runner", True), JOB: ("runner", False), READS: ("runner", False)}
        self.users |= {token: (name, True) for name, token in OF_GIT.items()}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                data = smart_http.body(self)
                words = (self.headers.get("Authorization") or "").removeprefix("Basic ")
                token = base64.b64decode(words).decode().partition(":")[2]
                name, may_push = outer.users.get(token, ("", False))
                if not name or ("git-receive-pack" in self.path and not may_push):
                    smart_http.refuse(self)
                    return
                with team.ground.server._lock:
                    smart_http.serve(self, team.bare.parent, data, name)
                    team.look(name)

            do_GET = do_POST = _serve

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()


class Team:
    """Alice, who plans; Bob, who reviews; Carol, who signs; the runner's account; and their project. `told`: all that was printed."""

    def __init__(self, folder: Path, ground: GitHubGround | GitLabGround) -> None:
        self.ground, self.folder, self.bare = ground, folder, folder / "origin.git"
        self.told: list[str] = []
        self.tips: dict[str, str] = {}
        self.box = make_box(folder / "repo")
        self.box.git("init", "-q", "--bare", "-b", "main", self.bare, cwd=folder)
        self.box.git("config", "http.receivepack", "true", cwd=self.bare)
        self.git_server = GitServer(self)
        self.url = f"{self.git_server.host}/origin.git"
        self.people = {name: person(folder / "people", name) for name in ("alice", "carol")}
        self.knows(self.people["alice"].home, "alice", OF_GIT["alice"])
        self.box.env |= {**self.people["alice"].env, "RUNNER_FORGE_TOKEN": TOKEN, "NO_PROXY": "*"}
        self.box.git("remote", "add", "origin", self.url)
        self.box.git("push", "-qu", "origin", "main")
        answer = ground.server.handle

        def handle(asked: Asked) -> Answer:
            self.look("runner")
            return answer(asked)

        ground.server.handle = handle  # type: ignore[method-assign]
        if isinstance(ground, GitLabGround):
            ground.fake.tokens[READS] = (ground.accounts["runner"].id, ["read_api"])
            ground.fake.has_commit = self._has_commit
        else:
            ground.front.has_commit = self._has_commit

    def close(self) -> None:
        """End what runs; the ground is the caller's."""
        self.git_server.close()

    def knows(self, home: Path, name: str, token: str) -> None:
        """Put a token into the git configuration of a HOME."""
        words = basic(name, token)
        with (home / ".gitconfig").open("a") as file:
            file.write(f'[http "{self.git_server.host}/"]\n extraHeader = Authorization: Basic {words}\n')

    def runner(self, *args: str | Path, box: Box | None = None, rc: int | None = None) -> Result:
        """Run the command line as somebody, Alice where not said; what is printed is kept."""
        done = (box or self.box).runner(*args, rc=rc)
        self.told.append(done.out + done.err)
        return done

    def init(self, *, config: str, approvals: str, coworkers: dict[str, str] | None = None) -> None:
        """Set the project up, and say who may say yes: Bob and Carol, who wrote none of it."""
        place = f"{self.ground.name} {self.ground.place.site}/{self.ground.place.path}"
        self.box.env |= JOBS
        self.runner("init", "--ci", "--yes", "--commit", "--forge", place, rc=0)
        settings, policy = self.box.path / ".protocols/config.yaml", self.box.path / ".protocols/policy.yaml"
        settings.write_text(f"{settings.read_text()}{config}")
        text = policy.read_text().replace(
            "maintainer: [alice@example.test]", "maintainer: [bob@example.test, carol@example.test]"
        )
        text = re.sub(r"own_work: allow .*", "own_work: refuse", text)
        ids = ", ".join(f"{who}@example.test: {self.ground.identity(who).id}" for who in ("alice", "bob", "carol"))
        policy.write_text(f'{text}forge: {{"{self.ground.place.host}": {{{ids}}}}}\napprovals:\n{approvals}')
        assert "own_work: refuse" in text and "[bob@" in text
        signers = self.box.path / ".protocols/allowed_signers"
        signers.write_text(signers.read_text() + self.people["carol"].line())
        for path, words in (coworkers or {}).items():
            self.box.write(path, words)
        self.box.commit("who may say yes")
        self.box.git("push", "-q", "origin", "main")

    def clone(self, name: str) -> Box:
        """A clone of somebody who has a key, and a token in the address that they cloned from."""
        one: Person = self.people[name]
        other = Box(self.folder / f"clone-of-{name}", one.home, {**self.box.env, **one.env})
        other.git("clone", "-q", self.url.replace("://", f"://{name}:{OF_GIT[name]}@"), other.path, cwd=self.folder)
        return other

    # the forge

    def git(self, *args: str) -> str:
        """Run git in the bare repository, as the forge would."""
        return smart_http.git(self.bare, *args)

    def look(self, who: str) -> None:
        """Take up what git has now, as this person's push."""
        out = self.git("for-each-ref", "--format=%(objectname) %(refname:short)", "refs/heads/")
        now = {name: oid for oid, name in map(str.split, out.splitlines())}
        before, self.tips = self.tips, now
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                self._pushed(who, name, before.get(name), now.get(name))

    def _has_commit(self, oid: str) -> bool:
        return self.box.git("cat-file", "-t", oid, cwd=self.bare, check=False) == "commit\n"

    def _pushed(self, who: str, name: str, before: str | None, after: str | None) -> None:
        ground = self.ground
        if isinstance(ground, GitLabGround):
            if after is None:
                ground.fake.delete_branch(ground.accounts[who], name)
            else:
                ground.fake.push(ground.accounts[who], name, after)
        elif name != "main":
            if before is None:  # emulate's own branch only has to be there
                main = ground.emulated.done("owner", "GET", f"{HERE}/branches/main")["commit"]["sha"]
                ground.emulated.done("owner", "POST", f"{HERE}/git/refs", {"ref": f"refs/heads/{name}", "sha": main})
                body = {"message": "work", "content": "YQ==", "branch": name}
                ground.emulated.done("runner", "PUT", f"{HERE}/contents/{name}.txt", body)
            ground.front.pushed(who, name, before, after)

    def request(self, branch: str) -> Any:
        """The branch's request, as the adapter reads it."""
        found = self.ground.forge().request_of(branch, "main")
        assert found is not None
        return found

    def said(self, branch: str) -> str:
        """The runner's one comment."""
        found = self.ground.forge().comments(self.request(branch).number)
        (ours,) = [one.body for one in found if one.by == self.ground.identity("runner")]
        return ours

    def statuses(self, branch: str) -> dict[str, Status]:
        """What stands at the branch's tip, by the end of its name."""
        return {
            one.context.removeprefix("runner/"): one
            for one in self.ground.forge().statuses(self.git("rev-parse", branch))
        }

    def merge(self, who: str, branch: str) -> None:
        """The merge button, which deletes the branch."""
        number = self.request(branch).number
        self.ground.merge(who, number)
        base, head = self.git("rev-parse", "main"), self.git("rev-parse", branch)
        tree = self.git("merge-tree", "--write-tree", base, head)
        made = self.git("commit-tree", tree, "-p", base, "-p", head, "-m", "Merge it")
        if isinstance(self.ground, GitLabGround):
            self.ground.fake.requests[number].value["merge_commit_sha"] = made
        self.git("update-ref", "refs/heads/main", made, base)
        self.git("update-ref", "-d", f"refs/heads/{branch}")
        self.look(who)


class GitHubJobs:
    """The workflows that `runner init` wrote, each `run:` block executed, each job with the rights that it declares."""

    def __init__(self, team: Team, key: str, environ: dict[str, str]) -> None:
        assert isinstance(team.ground, GitHubGround)
        self.team, self.front = team, team.ground.front
        home = team.folder / "home-of-actions"
        home.mkdir()
        (home / ".gitconfig").write_text('[init]\n defaultBranch = main\n[protocol "file"]\n allow = always\n')
        team.knows(home, "x-access-token", JOB)
        self.box = Box(team.box.path, home, {**environ, "GITHUB_SERVER_URL": self.front.url})
        self.folder = team.folder / "machines"
        self.folder.mkdir()
        self.secrets = {"GEMINI_API_KEY": key}

    def _job(self, machine: Machine, name: str, job: str, **more: Any) -> Ran:
        rights = machine.workflow(name)["jobs"][job]["permissions"]
        told = {f"{right.replace('-', '_')}={what}" for right, what in rights.items()}
        self.front.tokens[JOB] = Known("runner", told | {"metadata=read"}, is_app=True)
        self.team.git_server.users[JOB] = ("runner", rights.get("contents") == "write")
        ran = machine.job(name, job, **more)
        self.team.told.append(ran.printed)
        assert ran.result == "success", ran.printed
        return ran

    def advance(self, protocol: str) -> bool:
        """Let the jobs go on with it; return whether there was anything for them to do."""
        one = Machine(
            self.box, self.folder, {}, "workflow_dispatch", inputs={"protocol": protocol}, secrets=self.secrets
        )
        found = self._job(one, "protocol-advance", "find")
        if not json.loads(found.outputs["matrix"])["include"]:
            return False
        work = self._job(one, "protocol-advance", "work", needs={"find": found}, protocol=protocol)
        self._job(one, "protocol-advance", "publish", needs={"find": found, "work": work}, protocol=protocol)
        return True

    def verify(self, branch: str) -> str:
        """The required check of the request; return what it printed."""
        head = {"ref": branch, "sha": self.team.git("rev-parse", branch)}
        event = {"head": head, "base": {"sha": self.team.git("rev-parse", "main")}, "number": 1}
        one = Machine(self.box, self.folder, {"pull_request": event}, "pull_request")
        return self._job(one, "protocol-verify", "verify").printed


class GitLabJobs:
    """What the jobs of `.gitlab/protocol-runner.yml` run, with their variables; tests/ci/test_pipeline.py runs the pipeline itself."""

    def __init__(self, team: Team, key: str, environ: dict[str, str]) -> None:
        assert isinstance(team.ground, GitLabGround)
        self.team, self.key, self.environ, self.url = team, key, environ, team.ground.fake.url
        self.installed = team.folder / "installed"
        (self.installed / "bin").mkdir(parents=True)
        for name, line in (
            ("python", f'exec "{sys.executable}" "$@"'),
            ("runner", f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -m runner "$@"'),
        ):
            (self.installed / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
            (self.installed / "bin" / name).chmod(0o755)

    def _job(self, name: str, *args: str, **variables: str) -> str:
        home = self.team.folder / "machines" / f"{name}-{len(list(self.team.folder.glob('machines/*')))}"
        home.mkdir(parents=True)
        (home / ".gitconfig").write_text("")
        self.team.knows(home, "gitlab-ci-token", READS)
        env = {
            "PATH": os.environ["PATH"], "HOME": str(home), "CI": "true", "GITLAB_CI": "true", "CI_SERVER_URL": self.url,
            "RUNNER_NAME": "protocol-runner", "RUNNER_EMAIL": "runner@localhost.invalid", "RUNNER_FOLDER": str(self.installed),
            "HANDOVER": str(self.team.folder / "handover"), "GIT_CONFIG_NOSYSTEM": "1", **self.environ, **variables,
        }  # fmt: skip
        at = home / "project"
        subprocess.run(["git", "clone", "-q", self.team.url, at], env=env, check=True)
        (home / ".gitconfig").write_text("")  # the job's own token is RUNNER_GIT_TOKEN
        done = subprocess.run(["scripts/ci/protocol.sh", name, *args], cwd=at, env=env, capture_output=True, text=True)
        self.team.told.append(done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def advance(self, protocol: str) -> bool:
        """Let the jobs go on with it; return whether there was anything for them to do."""
        writes = {"RUNNER_GIT_TOKEN": TOKEN, "GITLAB_TOKEN": TOKEN}
        planned = yaml.safe_load(self._job("plan", "gitlab", protocol, **writes))
        if f"protocol-work {protocol}" not in planned:
            return False
        reads = {"RUNNER_GIT_TOKEN": READS, "CI_JOB_TOKEN": READS, "GITLAB_TOKEN": READS}
        self._job("work", protocol, **reads, GEMINI_API_KEY=self.key)
        self._job("publish", protocol, **writes)
        return True

    def verify(self, branch: str) -> str:
        """The required check of the request; return what it printed."""
        main, tip = self.team.git("rev-parse", "main"), self.team.git("rev-parse", branch)
        return self._job("verify", branch, tip, main, RUNNER_GIT_TOKEN=READS, CI_JOB_TOKEN=READS)


def jobs(team: Team, key: str, environ: dict[str, str]) -> GitHubJobs | GitLabJobs:
    """The team's CI. `key`: of the model, which one job has; `environ`: of every machine."""
    return (GitHubJobs if team.ground.name == "github" else GitLabJobs)(team, key, environ)


def leaks(folder: Path, canaries: list[str], *, but: set[Path]) -> list[str]:
    """Return where below a folder a canary stands: in files, in objects of repositories, in bundles; `but`: files that may have it."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file() or path.is_symlink() or path in but:
            continue
        texts = {str(path): path.read_bytes()}
        if path.name == "HEAD" and (path.parent / "objects").is_dir():
            texts[f"objects of {path.parent}"] = _objects(path.parent)
        for where, text in texts.items():
            found += [f"{where}: {one}" for one in canaries if one.encode() in text]
    return found


def unbundled(folder: Path, bare: Path) -> None:
    """Put what every bundle below a folder holds into a repository beside it, to be looked through."""
    made = folder / "unbundled.git"
    subprocess.run(["git", "clone", "-q", "--bare", bare, made], check=True)
    for path in folder.rglob("*.bundle"):
        pack = path.read_bytes().partition(b"\n\n")[2]
        subprocess.run(
            ["git", f"--git-dir={made}", "index-pack", "--fix-thin", "--stdin"],
            input=pack,
            check=True,
            capture_output=True,
        )


def _objects(git_dir: Path) -> bytes:
    argv = ["git", f"--git-dir={git_dir}", "cat-file", "--batch", "--batch-all-objects", "--unordered"]
    return subprocess.run(argv, capture_output=True, check=True, env={**os.environ, "GIT_CONFIG_NOSYSTEM": "1"}).stdout


@contextlib.contextmanager
def team_on(folder: Path, ground: GitHubGround | GitLabGround) -> Iterator[Team]:
    """A team."""
    made = Team(folder, ground)
    try:
        yield made
    finally:
        made.close()
