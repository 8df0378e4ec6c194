"""Long chains, made quickly: transitions by the runner's own machine, into packs by hand, with nothing fetched, locked or synced.

What they say is what the runner would have recorded; a chain that `verify` does not hold for good is a mistake here.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.ground import PERSON, Ground
from runner.app import create
from runner.git import BLOB, Git, Ident, TreeEntry
from runner.protocol import approval_file, log, machine, paths, plans, state
from runner.protocol import events as ev
from runner.protocol.approval_file import Decision, Statement
from runner.protocol.events import Entry, Event
from runner.protocol.ids import digest
from runner.store import snapshot
from runner.store.trusted import policy_digest
from runner.trust import requirements, trusted_config
from runner.trust.manifest import Subject
from runner.trust.requirements import ApprovalRequirement
from runner.trust.trusted_config import TrustedConfig
from runner.trust.view import View

REPO = "0123456789abcdef0123456789abcdef"
APPROVER = "bob@example.test"
MACHINE = "runner@example.test"
FOLDER = "src/made"
BEGIN = 1_763_600_000  # 2025-11-20
AN_HOUR = 3600
MOVES = 10  # of the trusted branch, in the time of a chain
_KINDS = {"commit": 1, "tree": 2, "blob": 3}


class Key:
    """An Ed25519 key, held here, that signs as ssh-keygen does (PROTOCOL.sshsig)."""

    def __init__(self) -> None:
        self._private = Ed25519PrivateKey.generate()
        point = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.blob = _string(b"ssh-ed25519") + _string(point)

    def line(self, principal: str, namespace: str) -> str:
        """Return its line of allowed_signers."""
        return f'{principal} namespaces="{namespace}" ssh-ed25519 {base64.b64encode(self.blob).decode()}\n'

    def sign(self, text: bytes, namespace: bytes) -> bytes:
        """Return an armoured signature."""
        about = _string(namespace) + _string(b"") + _string(b"sha512")
        made = self._private.sign(b"SSHSIG" + about + _string(hashlib.sha512(text).digest()))
        number = _string(_string(b"ssh-ed25519") + _string(made))
        body = base64.encodebytes(b"SSHSIG\0\0\0\1" + _string(self.blob) + about + number).decode().replace("\n", "")
        lines = [body[at : at + 70] for at in range(0, len(body), 70)]
        return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""]).encode()


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class Packing(Git):
    """A repository whose new objects are kept until `flush` packs them."""

    _new: dict[str, tuple[str, bytes]]

    @classmethod
    def fresh(cls, cwd: Path) -> Self:
        """Open it."""
        found = cls.open(cwd)
        found._new = {}
        return found

    def write(self, kind: Literal["blob", "tree", "commit"], data: bytes, base: str | None = None) -> str:
        """Name an object and keep it."""
        oid = hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()
        self._new[oid] = (kind, data)
        return oid

    def object(self, name: str) -> tuple[str, str, bytes] | None:
        """Read an object, one too that is kept."""
        return (name, *self._new[name]) if name in self._new else super().object(name)

    def flush(self) -> None:
        """Pack what is kept."""
        out = [b"PACK" + (2).to_bytes(4, "big") + len(self._new).to_bytes(4, "big")]
        for kind, data in self._new.values():
            size, head = len(data) >> 4, [_KINDS[kind] << 4 | len(data) & 15]
            while size:
                head[-1] |= 0x80
                head.append(size & 0x7F)
                size >>= 7
            out += [bytes(head), zlib.compress(data, 1)]
        pack = b"".join(out)
        argv = ["git", "index-pack", "--stdin"]
        data = pack + hashlib.sha1(pack).digest()
        subprocess.run(argv, cwd=self.cwd, input=data, stdout=subprocess.DEVNULL, check=True)
        self._new.clear()


@dataclass(frozen=True, slots=True)
class Made:
    """A repository with one protocol."""

    at: Path
    protocol: str
    transitions: int


def make(
    ground: Ground, files: int, many: int, steps: int, *, words: bool = False, signed: bool = False, waits: bool = False
) -> Made:
    """Return a chain of `many` transitions on a repository of `files` files, in which so many steps are done.

    Each step changes a file. What else there is are pauses, evenly between the steps, while the trusted branch moves on. `words`:
    each step begins on a signed word of Bob's; `signed`: the transitions after the first are signed by the policy's agent;
    `waits`: one more step waits for Bob's approval.
    """
    bob, agent = Key(), Key()
    at = ground.repository(files, bare=True)
    ground.git(at, "remote", "add", "origin", str(ground.at / "origin"))
    with ground.session(at) as session:
        protocol = create.create(session, "A plan", _plan(steps + waits, words=words or waits), where="plan").protocol
        genesis = session.git.ref(session.project.branch(protocol))
        assert genesis is not None
    policy = f"repo: {REPO}\nroles:\n  maintainer: [{APPROVER}]\nagents: [{MACHINE}]\n"
    trusted = {
        paths.POLICY: policy + ("transitions: signed\n" if signed else ""),
        f"{paths.ROOT}/allowed_signers": bob.line(APPROVER, "git,runner-approval") + agent.line(MACHINE, "git"),
    }
    with Packing.fresh(at) as git:
        main = git.resolve("refs/heads/main")
        assert main is not None
        main = _commit(git, main, {path: text.encode() for path, text in trusted.items()}, b"Policy\n")
        sign = (lambda data: agent.sign(data, b"git")) if signed else None
        git.flush()
        chain = _Writing(git, protocol, genesis, trusted_config.load(git, main, "main"), sign)
        for number in range(steps):
            if number % max(steps // MOVES, 1) == 0:
                main = _commit(git, main, {"src/other.py": b"%d\n" % number}, b"Others' work\n")
                git.flush()
                chain.authority = trusted_config.load(git, main, "main")
            chain.step(f"step-{number + 1}", bob if words else None)
            chain.fill(1 + (many - 1) * (number + 1) // steps)
        if chain.transitions < many:
            chain.tell(*([chain.ask(f"step-{steps + 1}")[0]] if waits else [ev.Paused(subject=protocol)]))
        main = _commit(git, main, {"src/other.py": b"last\n"}, b"Others' work\n")
        git.flush()
        git.run("update-ref", f"refs/heads/{protocol}", chain.tip)
        for name in ("refs/heads/main", "refs/remotes/origin/main"):
            git.run("update-ref", name, main)
    ground.git(at, "-c", "pack.window=3", "gc", "-q")
    return Made(at, protocol, chain.transitions)


def _plan(steps: int, *, words: bool) -> dict[str, bytes]:
    files = {"plan.md": b"---\ntitle: A plan\n---\nWhat and why.\n"}
    for number in range(1, steps + 1):
        asks = "approval: before\n" if words else ""
        text = f'---\ntitle: Step {number}\nkind: command\nrun: "true"\n{asks}---\nDo it.\n'
        files[f"{number:02d}-step-{number}.md"] = text.encode()
    return files


def _commit(
    git: Git,
    parent: str,
    files: dict[str, bytes],
    text: bytes,
    who: tuple[str, str] = ("Alice", PERSON),
    at: int = BEGIN,
    sign: Callable[[bytes], bytes] | None = None,
) -> str:
    found = git.commit(parent)
    assert found is not None
    tree = git.edit_tree(found.tree, {path: TreeEntry(BLOB, git.write("blob", data)) for path, data in files.items()})
    assert tree is not None
    ident = Ident(*who, at)
    return git.write_commit(tree, [parent], ident, ident, text, sign)


class _Writing:
    """A chain that is written on."""

    def __init__(
        self, git: Packing, protocol: str, tip: str, found: TrustedConfig, sign: Callable[[bytes], bytes] | None
    ) -> None:
        seen = snapshot.read(git, tip, protocol)
        self.git, self.protocol, self.tip, self.authority, self.sign = git, protocol, tip, found, sign
        self.state, self.log, self.segments = seen.state, git.blob(f"{tip}:{self._own(paths.LOG)}") or b"", 0
        self.at, self.transitions = BEGIN + AN_HOUR, 1
        files = git.tree(f"{tip}:{paths.folder(protocol)}") or {}
        words = {name: git.blob(one.oid) or b"" for name, one in files.items() if paths.is_plan_file(name)}
        self.plan = plans.parse(words, paths.folder(protocol))

    def _own(self, name: str) -> str:
        return f"{paths.folder(self.protocol)}/{name}"

    def tell(self, *events: Event, code: dict[str, bytes] | None = None) -> None:
        """Record a transition."""
        self.at += 1
        time = _time(self.at)
        entries = [Entry(self.state.revision + 1 + place, time, MACHINE, event) for place, event in enumerate(events)]
        files = dict(code or {})
        if len(self.log) > log.SEGMENT:
            self.segments += 1
            files[self._own(f"log/{self.segments:04d}.md")], self.log = self.log, b""
        self.log = log.append(self.log, entries, self.state.schema)
        folded = machine.fold(self.state, entries)
        assert folded is not None
        self.state = folded._replace(log=digest(self.log))
        files |= {self._own(paths.LOG): self.log, self._own(paths.STATE): state.render(self.state)}
        trusted, plan = self.authority.commit, self.state.plan
        policy = policy_digest(self.git, trusted)
        text = log.render_message(self.protocol, entries, trusted, schema=self.state.schema, plan=plan, policy=policy)
        self.tip = _commit(self.git, self.tip, files, text, ("Runner", MACHINE), self.at, self.sign)
        self.transitions += 1

    def fill(self, wanted: int) -> None:
        """Pause and go on until there are so many transitions, ending with what goes on."""
        while self.transitions + 2 <= wanted:
            self.tell(ev.Paused(subject=self.protocol))
            self.tell(ev.Resumed(subject=self.protocol))

    def step(self, slug: str, bob: Key | None) -> None:
        """Carry a step out that changes a file, on Bob's word where he gives one."""
        counted = self._word(slug, bob) if bob is not None else []
        done = ev.StepFinished(
            subject=slug, attempt=1, digest=self.state.steps[slug].digest, start=self.tip, executor="host"
        )
        code = {f"{FOLDER}/{slug}.py": f"{slug!r}\n".encode()}
        self.tell(*counted, done, ev.StepCompleted(subject=slug, attempt=1), code=code)

    def ask(self, slug: str) -> tuple[ev.ApprovalAsked, ApprovalRequirement]:
        """Return the event that asks for an approval of a step, and what it needs."""
        step = self.plan.step(slug)
        assert step is not None
        asked = requirements.of_start(self.authority, step, paths.folder(self.protocol))
        assert asked is not None
        about = self._digest(asked.subject)
        return ev.ApprovalAsked(subject=slug, kind="step", digest=about, text=asked.text, by=asked.who), asked

    def _word(self, slug: str, bob: Key) -> Sequence[Event]:
        event, asked = self.ask(slug)
        self.tell(event)
        self.at += 1
        policy = self.authority.policy
        assert policy is not None
        said = Statement(
            repo=REPO,
            protocol=self.protocol,
            genesis=self.state.genesis,
            subject=str(asked.subject),
            attempt=0,
            digest=event.digest,
            policy=policy.digest,
            seen=self.tip,
            decision=Decision.APPROVE,
            approver=APPROVER,
            issued=_time(self.at),
            expires=_time(self.at + AN_HOUR),
            nonce=hashlib.sha256(slug.encode()).hexdigest()[:32],
            reason="",
        )
        text = approval_file.render(said)
        word = approval_file.join(text, bob.sign(text, approval_file.NAMESPACE.encode()))
        name = self._own(paths.APPROVALS + approval_file.file_name(text))
        self.tip = _commit(self.git, self.tip, {name: word}, b"A word\n", at=self.at)
        wait = next(wait for wait in self.state.waiting if wait.subject == slug)
        return [
            ev.ApprovalCounted(subject=slug, wait=wait.id, approvals=[approval_file.statement_id(text)], by=[APPROVER])
        ]

    def _digest(self, subject: Subject) -> str:
        self.git.flush()
        view = View(self.git, self.protocol, self.tip, self.state, self.plan, self.authority, self.at)
        return view.digest(subject, self.tip)


def _time(at: int) -> str:
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
