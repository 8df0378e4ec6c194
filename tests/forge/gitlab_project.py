"""A GitLab whose project is a real bare repository, also over smart HTTP: what is pushed there shows in its merge requests.

Needs the standard library and git alone, since the demo runs it too.
"""

from __future__ import annotations

import base64
import os
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.forge import smart_http
from tests.forge.gitlab_fake import PATH, Account, GitLabFake
from tests.forge.serving import Answer, Asked


def _stat(path: Path) -> os.stat_result | None:
    """Return a file's state; None where it is gone by now."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


class Project(GitLabFake):
    """The fake with the branches of a bare repository. `pusher`: whose account the next pushes are of."""

    def __init__(self, bare: Path) -> None:
        super().__init__()
        self.bare = bare
        self.pusher: Account | None = None
        self.pushes = 0
        self._files: dict[Path, tuple[int, int]] | None = None

    def take(self, handler: BaseHTTPRequestHandler) -> bool:
        """Serve git to whoever has a token: what they push is theirs."""
        name = f"/{PATH}.git/"
        if not handler.path.startswith(name):
            return False
        data = smart_http.body(handler)
        scheme, _, words = (handler.headers.get("Authorization") or "").partition(" ")
        token = base64.b64decode(words).decode().partition(":")[2] if scheme == "Basic" else ""
        _, scopes = self.tokens.get(token, (0, []))
        # https://docs.gitlab.com/user/profile/personal_access_tokens/#personal-access-token-scopes
        wanted = {"api", "write_repository"} | (set() if "git-receive-pack" in handler.path else {"read_repository"})
        if not wanted.intersection(scopes):
            smart_http.refuse(handler)
            return True
        with self._lock:
            self.look()  # what came before is somebody else's
            self.pusher = self.accounts[self.tokens[token][0]]
            path = handler.path.partition("?")[0].replace(name, f"/{self.bare.name}/", 1)
            smart_http.serve(handler, self.bare.parent, data, self.pusher.username, path=path)
            self.look()
        return True

    def handle(self, asked: Asked) -> Answer:
        """Look what was pushed, then answer."""
        self.look()
        return super().handle(asked)

    def git(self, *args: str) -> str:
        """Run git in the bare repository, as the forge would."""
        return smart_http.git(self.bare, *args)

    def merge(self, who: Account, iid: int, how: str = "merge") -> str:
        """The merge button, which deletes the branch; `how`: merge or squash."""
        value = self.requests[iid].value
        base, head = self.branches["main"], self.branches[value["source_branch"]]
        tree = self.git("merge-tree", "--write-tree", base, head)
        parents = ["-p", base, *(["-p", head] if how == "merge" else [])]
        made = self.git("commit-tree", tree, *parents, "-m", "Merge it")
        super().merge(who, iid)
        self.branches["main"] = made
        value |= {"merge_commit_sha": made} if how == "merge" else {"merge_commit_sha": None, "squash_commit_sha": made}
        self.git("update-ref", "refs/heads/main", made, base)
        self.git("update-ref", "-d", f"refs/heads/{value['source_branch']}")
        return made

    def look(self) -> None:
        """Take up what git has now, where a file of a ref was written since."""
        heads = [Path(folder, name) for folder, _, names in os.walk(self.bare / "refs/heads") for name in names]
        at = [self.bare / "packed-refs", *heads]
        files = {path: (said.st_ino, said.st_mtime_ns) for path in at if (said := _stat(path)) is not None}
        if files == self._files:
            return
        self._files = files
        out = subprocess.run(
            ["git", f"--git-dir={self.bare}", "for-each-ref", "--format=%(objectname) %(refname:short)", "refs/heads/"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        now = {name: oid for oid, name in (line.split() for line in out.splitlines())}
        who = self.pusher or next(iter(self.accounts.values()))
        for name, oid in now.items():
            if self.branches.get(name) != oid:
                self.push(who, name, oid)
                self.pushes += 1
        for name in self.branches.keys() - now.keys():
            self.delete_branch(who, name)
