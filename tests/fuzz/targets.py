"""Every reader of bytes that somebody else may have written: a good file, and what must hold for any bytes whatever.

A target returns whether the bytes were taken. They may be refused by the errors that the reader documents, never otherwise; what
is taken stays the same when it is written and read again. Inputs of several parts have NUL between them, which no such file holds.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from runner.errors import IntegrityError, MalformedFileError, RunnerError, UnsupportedError
from runner.git import objects
from runner.git.objects import Ident, TreeEntry
from runner.git.process import GitError
from runner.protocol import (
    approval_file,
    clarifications,
    config,
    ids,
    log,
    machine,
    plans,
    policy_file,
    state,
    strict_yaml,
    transcript,
    workflow,
)
from runner.protocol.approval_file import MalformedStatementError
from runner.protocol.ids import digest
from runner.protocol.transcript import HeldCall
from runner.trust import policy as judge
from runner.trust import signature, signers
from tests.protocol import histories
from tests.protocol.histories import OID, PROTOCOL, begun, planned_step
from tests.protocol.test_approval_file import FILE as APPROVAL
from tests.protocol.test_policy_file import WHOLE

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Target:
    """A reader. `good`: a file that it takes; `fuzz`: gives it bytes, returns whether they were taken, raises what is a defect."""

    good: bytes
    fuzz: Callable[[bytes], bool]


def taken(read: Callable[[], Value], *refusals: type[Exception]) -> Value | None:
    """Return what `read` returns, None where it refuses; a refusal says what, where and what to do, and shows no escapes."""
    try:
        return read()
    except refusals as error:
        if isinstance(error, RunnerError):
            assert error.what and error.where and error.hint
            assert strict_yaml.FORBIDDEN.search(str(error)) is None
        return None


# --- people's files ----------------------------------------------------------------------------------------------------------

STEP = b"""---
title: Deploy
kind: tool
needs: [context]
tool: deploy_prod
with: {version: "${{ inputs.version }}", count: 3, list: [a, 'b', {c: null}]}
outputs: [src/ratelimit.py]
qa: {policy: light, checks: ["scripts/ci/test.sh"]}
approval: {when: none, roles: [maintainer], count: 2}
on_failure: {goto: context, limit: 3}
timeout: 1h30m
budget: {usd: 1.50, tokens: 200000}
---
What to do, in prose.
"""
PLAN = b"---\ntitle: t\nbase: main\ninputs: {version: '1', n: 2}\nqa: skip\nlinks: [a]\n---\nprose\n"
WORKFLOW = b"---\ntitle: t\ninputs:\n  version: {type: string, default: x}\n  n: integer\nqa: skip\n---\nprose\n"
CONFIG = (
    b"base: main\nbranch: runner/{id}\nengine: [a, b]\nworkspace: {setup: make, key: [uv.lock]}\nlease: {ttl: 1h}\n"
)
CLARIFICATIONS = clarifications.added(None, "c", {"a": "b"}, ["c"])
COWORKER = b"name: coder\nobjective: x\ntools: [a, {module: m, effects: {f: read}}]\nbudget: {turns: 1}\n"
CONTEXT = b"---\ntitle: c\nkind: command\nrun: [make, x]\n---\n"
ENTRIES = begun({"a": planned_step(1), "b": planned_step(2, needs=["a"])})
STATE = histories.fold(ENTRIES)

PARTS = ("plan.md", "01-context.md", "02-deploy.md", "03-watch.md", "04-tell.md", "context.md")


def folder(data: bytes) -> dict[str, bytes]:
    return dict(zip(PARTS, data.split(b"\0"), strict=False))


def fuzz_document(data: bytes) -> bool:
    text = taken(lambda: strict_yaml.decode(data, "a.md"), MalformedFileError)
    if text is None:
        return False
    halves = taken(lambda: strict_yaml.split_front_matter(text, "a.md"), MalformedFileError)
    front = halves[0] if halves else text
    assert halves is None or text.endswith(halves[1])

    def loaded(python: bool) -> object:
        found = taken(lambda: strict_yaml.parse_yaml(front, "a.md", python=python), MalformedFileError)
        return found and typed(found[0])

    def typed(value: object) -> object:
        if isinstance(value, dict):
            return {key: typed(item) for key, item in value.items()}
        return [typed(item) for item in value] if isinstance(value, list) else (type(value), value)

    # libyaml and the parser written in Python do not take quite the same; what both take has to be the same for both.
    quick, slow = loaded(False), loaded(True)
    assert quick is None or slow is None or quick == slow
    return halves is not None and quick is not None and slow is not None


def fuzz_plan(data: bytes) -> bool:
    found = taken(lambda: plans.parse(folder(data), "P"), MalformedFileError)
    if found is None:
        return False
    with contextlib.suppress(UnsupportedError):  # its budget
        plans.refuse_unsupported(found, "P")
    taken(lambda: machine.edit_of(STATE, found), RunnerError)
    order = [step.slug for step in found.steps]
    assert all(need in order and need != step.slug for step in found.steps for need in step.needs)
    return True


def fuzz_workflow(data: bytes) -> bool:
    made = taken(lambda: workflow.instantiate(folder(data), "W", {"n": "1"}), RunnerError)
    if made is None:
        return False
    plans.parse(made, "P")
    return True


def fuzz_config(data: bytes) -> bool:
    ids.branch_pattern(data)
    return taken(lambda: config.parse(data, "config.yaml"), MalformedFileError) is not None


def fuzz_clarifications(data: bytes) -> bool:
    known = taken(lambda: clarifications.parse(data, "clarifications.yaml"), MalformedFileError)
    if known is None:
        return False
    said = {one.text: "yes" for one in known if one.answer is None}
    made = taken(lambda: clarifications.added(data, "clarifications.yaml", said, ["new"]), RunnerError)
    left = clarifications.parse(made, "c") if made is not None else ()
    assert {one.text for one in left if one.answer is None} <= {"new"}
    return True


def fuzz_coworker(data: bytes) -> bool:
    return taken(lambda: config.parse_agent(data, "coworkers/a.yaml"), RunnerError) is not None


ASKED = (
    judge.call("write_file", {"path": "src/app.py"}),
    judge.call("run", {"argv": ["git", "push"]}),
    judge.call("shell", {"command": "make test"}),
    judge.call("send_report", {"to": "a", "url": "https://api.example.test/x"}),
    judge.command(("scripts/ci/test.sh",)),
)
NEVER = tuple(judge.call("write_file", {"path": path}) for path in ("../x", ".git/config", ".protocols/policy.yaml"))


def fuzz_policy(data: bytes) -> bool:
    found = taken(lambda: policy_file.parse(data, "policy.yaml"), MalformedFileError)
    if found is None:
        return False
    assert found.digest == digest(data)
    assert policy_file.parse(data, "policy.yaml") == found
    compiled = judge.compiled(found)
    for subject in ASKED:
        said = judge.evaluate(compiled, subject)
        assert said.verdict in judge.SEVERITY and said.why.isprintable()
    assert all(judge.evaluate(compiled, subject).verdict != "allow" for subject in NEVER)
    judge.notes(found)
    return True


# --- the record --------------------------------------------------------------------------------------------------------------


def fuzz_log(data: bytes) -> bool:
    if taken(lambda: log.parse_raw(data, "log.md"), IntegrityError) is None:
        return False
    entries = taken(lambda: log.parse(data, "log.md"), IntegrityError)
    if entries is None:
        return False
    schema = 2 if data.startswith(b"- ") else 1
    assert log.append(b"", entries, schema) == data or schema == 1
    assert all(log.parse(log.append(b"", entries, each), "log.md") == entries for each in (1, 2))
    return taken(lambda: machine.fold(None, entries), RunnerError) is not None


def fuzz_state(data: bytes) -> bool:
    found = taken(lambda: state.load(data, "state.json"), IntegrityError, UnsupportedError)
    if found is None:
        return False
    assert state.load(state.render(found), "state.json") == found
    taken(lambda: machine.decide(found), RunnerError)
    return True


def fuzz_message(data: bytes) -> bool:
    forged, found = log.has_forged_trailer(data), log.parse_message(data)
    if found is None:
        return False
    lines = [f"Runner-Protocol: {found.protocol}", f"Runner-Revision: {found.revision}"]
    lines += [f"Runner-Event: {event}" for event in found.events]
    lines += [f"Runner-Trusted: {found.trusted}", f"Runner-Actor: {found.actor}"]
    _, there, more = data.rpartition("\n".join(["", "", *lines, ""]).encode())
    named = [line.partition(b": ")[0] for line in more.split(b"\n")[:-1]]
    allowed = [b"Runner-Plan", b"Runner-Policy", b"Runner-Engine", b"Runner-Cost", b"Runner-Verdict"]
    assert forged and there and named == sorted(named, key=allowed.index)
    assert found.policy is None or f"Runner-Policy: {found.policy}\n".encode() in more
    return True


def fuzz_call(data: bytes) -> bool:
    found = taken(lambda: transcript.parse_call(data, "calls/a.1.1.json"), IntegrityError)
    if found is None:
        return False
    assert transcript.render_call(found) == data
    assert found.text().isprintable()
    return True


# --- words and whose they are ------------------------------------------------------------------------------------------------


def fuzz_statement(data: bytes) -> bool:
    alone = taken(lambda: approval_file.read(data, "a"), MalformedStatementError)
    assert alone is None or approval_file.render(alone) == data
    found = taken(lambda: approval_file.parse(data, "a"), MalformedStatementError)
    if found is None:
        return False
    assert alone is None
    assert approval_file.render(found.statement) == found.text
    assert approval_file.join(found.text, found.signature) == data
    approval_file.check_name(found, approval_file.file_name(found.text), "a")
    return True


KEYS = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIFXDAuhBDH3eSs09yjLFPDHFGKPKLUpTqNsTwqvSJ35",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
)
ALLOWED = f"""# who may say yes
alice@example.test namespaces="git,runner-approval" {KEYS[0]} alice's laptop
ci@example.test\tnamespaces="runner-seal",valid-after="20260101Z",valid-before="20270101120000Z"  {KEYS[1]}
"""
REVOKED = f"# lost\n{KEYS[0]} since=20261120Z laptop\n{KEYS[1]}\n"
OPENPGP = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEZ\n-----END PGP PUBLIC KEY BLOCK-----\n"


def fuzz_signers(data: bytes) -> bool:
    """allowed_signers, revoked_keys, and from there on the key files of OpenPGP."""
    allowed, *rest = data.split(b"\0")
    revoked, *armoured = rest or [b""]
    files = {f"{name}@example.test.asc": one for name, one in zip("abc", armoured, strict=False)}
    found = taken(lambda: signers.parse(allowed, revoked, files), MalformedFileError)
    taken(lambda: signers.read_key(allowed.decode("utf-8", "replace")), ValueError)
    if found is None:
        return False
    for given, kept in ((allowed, found.ssh), (revoked, found.revoked)):
        said = [number for number, line in enumerate(given.split(b"\n"), 1) if line and not line.startswith(b"#")]
        assert [one.line for one in kept] == said
    assert len({one.key.blob for one in found.ssh}) == len(found.ssh)
    for one in found.ssh:
        assert signers.read_key(str(one.key)) == one.key
    taken(lambda: signers.check_agents(found, ["ci@example.test"]), MalformedFileError)
    return True


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def armoured(blob: bytes) -> bytes:
    lines = re.findall(".{1,70}", base64.b64encode(blob).decode())
    return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""]).encode()


def wire(key: bytes, namespace: bytes, hash_: bytes, algorithm: bytes, raw: bytes, rest: bytes = b"") -> bytes:
    inner = string(string(algorithm) + string(raw) + rest)
    return b"SSHSIG\0\0\0\1" + string(key) + string(namespace) + string(b"") + string(hash_) + inner


SIGNATURE = wire(signers.read_key(KEYS[0]).blob, b"runner-approval", b"sha512", b"ssh-ed25519", b"\1" * 33 + b"\0" * 31)


def fuzz_signature(data: bytes) -> bool:
    """In its armour as it stands, or the bytes in the armour, which no fuzzer would get right."""
    taken(lambda: signature.read_ssh(data), ValueError)
    found = taken(lambda: signature.read_ssh(armoured(data)), ValueError)
    if found is None:
        return False
    rest = found.flags + found.counter
    raw = (found.namespace.encode(), found.hash.encode(), found.algorithm.encode(), found.raw, rest)
    assert wire(found.key.blob, *raw) == data
    assert signers.key_of_blob(found.key.blob) == found.key
    assert not signature.holds_for(found, b"what nobody signed")
    return True


# --- git's objects -----------------------------------------------------------------------------------------------------------

ALICE = Ident("Alice", "alice@example.test", 1_700_000_000, 90)
MESSAGE = log.render_message(PROTOCOL, ENTRIES, OID, schema=2, plan="sha256:" + "1" * 64, policy="sha256:" + "2" * 64)
COMMIT = objects.commit_bytes(OID, [OID, OID], ALICE, ALICE, MESSAGE)
SIGNED = COMMIT.replace(b"\n\n", b"\ngpgsig " + armoured(SIGNATURE)[:-1].replace(b"\n", b"\n ") + b"\n\n", 1)
TREE = objects.tree_bytes(
    {".protocols": TreeEntry(objects.TREE, OID), "a.py": TreeEntry(objects.BLOB, OID), "l": TreeEntry("120000", OID)}
)


def fuzz_commit(data: bytes) -> bool:
    text, armour = objects.split_signature(data)
    if armour:
        assert len(text) + len(armour) < len(data)
    else:
        assert text == data
    found = taken(lambda: objects.parse_commit(OID, data), GitError)
    if found is None:
        return False
    assert len(found.emails) == 2 and data.endswith(found.message)
    if found.plain and not armour:
        parents = [f"parent {parent}\n" for parent in found.parents]
        assert data.startswith("".join([f"tree {found.tree}\n", *parents, "author "]).encode())
    return True


def fuzz_tree(data: bytes) -> bool:
    found = taken(lambda: objects.parse_tree(data, 40), GitError)
    if found is None:
        return False
    written = objects.tree_bytes(found)
    assert objects.parse_tree(written, 40) == found
    five = {objects.TREE, objects.BLOB, objects.LINK, objects.EXECUTABLE, objects.SUBMODULE}
    assert {entry.mode for entry in found.values()} <= five
    return True


HELD = HeldCall(
    tool="send_report",
    arguments={"to": "ops@example.test", "n": 3, "text": "All\nwell", "more": [1.5, None, True]},
    effect="external",
    repeat="never",
    source="incidents:send_report",
    code="sha256:" + "0" * 64,
    step="tell",
    attempt=1,
    number=3,
    env=("SMTP_TOKEN",),
)

TARGETS: dict[str, Target] = {
    "call": Target(transcript.render_call(HELD), fuzz_call),
    "clarifications": Target(CLARIFICATIONS, fuzz_clarifications),
    "commit": Target(SIGNED, fuzz_commit),
    "config": Target(CONFIG, fuzz_config),
    "coworker": Target(COWORKER, fuzz_coworker),
    "document": Target(STEP, fuzz_document),
    "log": Target(log.append(b"", ENTRIES, 2), fuzz_log),
    "message": Target(MESSAGE, fuzz_message),
    "plan": Target(b"\0".join([PLAN, CONTEXT, STEP]), fuzz_plan),
    "policy": Target(WHOLE.encode(), fuzz_policy),
    "signature": Target(SIGNATURE, fuzz_signature),
    "signers": Target("\0".join([ALLOWED, REVOKED, OPENPGP]).encode(), fuzz_signers),
    "state": Target(state.render(STATE), fuzz_state),
    "statement": Target(APPROVAL, fuzz_statement),
    "tree": Target(TREE, fuzz_tree),
    "workflow": Target(b"\0".join([WORKFLOW, CONTEXT, STEP]), fuzz_workflow),
}

# What matters to one of the readers or to the languages that they read.
WORDS = [
    b"\0", b"\xff", b"\r", b"\r\n", b"\n", b"\n\n", b"\t", b"---\n", b"...\n", b"&a ", b"*a", b"!!int ", b"! ", b"<<: ", b"{", b"}",
    b"[", b"]", b"'", b'"', b"#", b": ", b"? ", b"- ", b"|\n", b">\n", b"~", b"null", b"1e999", b"9" * 50, b"-1", b"0777",
    b"12:30", b".inf", b"NaN", b"true", b"${{", b"}}", b"${{ steps.x.result }}", b'"\\u202e"', b'"\\ud800"', b"\xe2\x80\xae",
    b"\xc2\x85", b"\xef\xbb\xbf", b"[" * 40, b"\\", b"%YAML 9.9\n", b"## 3 paused a\n", b'{"a": 1}', b"- a: b\n", b" " * 300,
    b"Infinity", b"9" * 5000, b"[" * 3000, b"tree ", b"parent ", b"author ", b"gpgsig ", b"100644 a\0", b"\0\0\0\1", b"\0\0\0",
    b"-----END SSH SIGNATURE-----\n", b"cert-authority ", b'valid-after="', b"since=", b"Runner-Event: a b\n",
]  # fmt: skip
