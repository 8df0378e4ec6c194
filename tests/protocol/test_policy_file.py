"""policy.yaml: what it may hold, and what is said of a policy that could not be carried out."""

from __future__ import annotations

import pytest

from runner.errors import MalformedFileError
from runner.protocol import policy_file
from runner.protocol.ids import digest
from runner.protocol.plans import Budget
from runner.protocol.policy_file import Policy

REPO = "repo: 6f0c6f0c6f0c6f0c6f0c6f0c6f0c6f0c\n"
PEOPLE = REPO + "roles: {maintainer: [alice@example.test, bob@example.test]}\n"
WHOLE = """\
repo: 6f0c6f0c6f0c6f0c6f0c6f0c6f0c6f0c
roles:
  maintainer: [alice@example.test, bob@example.test]
agents: [runner@example.test]
forge: {github.com: {alice@example.test: 1234567}}
own_work: refuse
approvals:
  plan: {roles: [maintainer], count: 1, required: true}
  step: {roles: maintainer, count: 1}
  call: {roles: [maintainer], count: 1, expires: 24h}
  protected-path: {roles: [maintainer], count: 2}
  merge: {roles: [maintainer], count: 1, from: [review]}
rules:
  - deny: {tool: write_file, path: "migrations/**"}
    reason: migrations are written by people
  - ask: {tool: deploy_prod}
  - ask: {step: "*release*"}
  - allow: {tool: "mcp:docs/*", effect: external}
    untrusted: allow
  - deny: {program: [curl, wget], shell: false}
  - allow: {argv: [git, push, "**"], step: publish, engine: "gemini:*"}
  - deny: {host: ["*.internal", 169.254.169.254], path: [a, b/*]}
approval_required: [send_report]
protected: [infra/**]
limits: {files: 100, lines: 5000, file_size: 5MB, binaries: ask, modes: ask, symlinks: ask}
budget: {step: {usd: 2, tokens: 500000}, protocol: {usd: 10}}
network: {allow: [api.example.test]}
engines: {allow: ["gemini:*", "recorded:*"]}
isolation: sandbox
environment: made
transitions: signed
examples:
  - {call: {tool: write_file, args: {path: migrations/1.sql}}, expect: deny}
  - {command: [make, x], step: build, expect: allow}
  - {step: my-release, expect: ask}
"""


def read(text: str) -> policy_file.PolicyFile:
    return policy_file.parse(text.encode(), "policy.yaml")


def test_every_key() -> None:
    found = read(WHOLE)

    assert found.content.model_fields_set == set(Policy.model_fields)
    assert found.digest == digest(WHOLE.encode())
    assert [rule.verdict for rule in found.content.rules] == ["deny", "ask", "ask", "allow", "deny", "allow", "deny"]
    assert [rule.match.about for rule in found.content.rules][:3] == ["action", "action", "step"]
    assert found.content.rules[0].text() == "deny: {tool: write_file, path: migrations/**}"
    assert found.content.rules[4].text() == "deny: {program: [curl, wget], shell: false}"
    assert found.content.approvals.of("protected-path").count == 2
    assert found.content.approvals.of("merge").from_ == ("review",)
    assert found.content.budget.protocol.usd == 10
    assert (found.at("rules", 2), found.at("rules", 2, "nothing"), found.at("approvals", "plan")) == (
        "policy.yaml:17",
        "policy.yaml:17",
        "policy.yaml:8",
    )


def test_the_digest_is_of_the_bytes() -> None:
    assert read(REPO).digest != read(REPO + "# a comment\n").digest


def test_without_a_word_beyond_the_project_s_id() -> None:
    found = read(REPO).content

    assert (found.own_work, found.transitions, found.isolation) == ("refuse", "any", "host")
    assert (found.network, found.engines, found.rules) == (None, None, ())
    assert (found.limits.files, found.limits.binaries) == (None, "allow")
    assert found.budget.step == Budget()
    of = found.approvals
    assert (of.plan.required, of.plan.count, of.plan.from_) == (False, 1, ("signed", "review"))
    assert (of.call.from_, of.call.expires) == (("signed",), "24h")


@pytest.mark.parametrize(
    ("text", "line", "what", "hint"),
    [
        ("", 1, "keys and values are expected", "write lines"),
        ("own_work: refuse\n", 1, "the key `repo` is missing", "add `repo: …`"),
        ("repo: 0\n", 1, "`repo` should be 32 hex digits", "openssl rand -hex 16"),
        (REPO + "rule: []\n", 2, "unknown key `rule`", "did you mean `rules`?"),
        (REPO + "isolation: sanbox\n", 2, "`isolation` should be 'host', 'container' or 'sandbox'", "`sandbox`"),
        (REPO + "transitions: yes\n", 2, "`transitions` should be 'any' or 'signed'", "write one of"),
        (REPO + "roles: {A: []}\n", 2, "`roles.A` should be the name of a role", "lower case"),
        (REPO + "roles: {a: [Alice@example.test]}\n", 2, "`roles.a.0` should be a principal", "in lower case"),
        (REPO + "roles: {a: ['*@example.test']}\n", 2, "`roles.a.0` should be a principal", "as in allowed_signers"),
        (REPO + "roles: {a: [x@y.z, x@y.z]}\n", 2, "x@y.z is in `a` twice", "keep one"),
        (REPO + "agents: [x@y.z]\nroles: {a: [x@y.z]}\n", 3, "x@y.z is one of `agents`", "take it out"),
        (REPO + "budget: {step: {uds: 1}}\n", 2, "unknown key `budget.step.uds`", "did you mean `usd`?"),
        (REPO + "limits: {file_size: 5 mb}\n", 2, "`limits.file_size` should be a size", "write it as 5MB"),
        (REPO + "network: {allow: ['http://x']}\n", 2, "`network.allow.0` should be the name of a host", "lower case"),
        (REPO + "network: {allow: ['a.*.c']}\n", 2, "`network.allow.0` should be the name of a host", "*.example.test"),
        (REPO + "engines: {allow: []}\n", 2, "`engines.allow` is empty", "name one"),
        (REPO + "protected: [/infra]\n", 2, "`protected.0` should be a glob as seen from", "without `/`"),
        (PEOPLE + "approvals: {call: {expires: 25h}}\n", 3, "`approvals.call.expires` should be a day", "24h or less"),
        (PEOPLE + "approvals: {plan: {expires: 721h}}\n", 3, "`approvals.plan.expires` should be 30 days", "720h"),
        (PEOPLE + "approvals: {step: {required: true}}\n", 3, "`approvals.step` has no `required`", "ask: {step:"),
        (PEOPLE + "approvals: {plan: {from: []}}\n", 3, "`approvals.plan.from` should have at least 1", "add one"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, what: str, hint: str) -> None:
    with pytest.raises(MalformedFileError) as told:
        read(text)
    assert told.value.where == f"policy.yaml:{line}"
    assert what in told.value.what and hint in told.value.hint, str(told.value)


@pytest.mark.parametrize(
    ("rule", "what", "hint"),
    [
        ("deny: {tol: x}", "unknown key `rules.0.deny.tol`", "did you mean `tool`?"),
        ("dney: {tool: x}", "unknown key `rules.0.dney`", "did you mean `deny`?"),
        ("reason: x", "`rules.0` should have one of deny, ask and allow", "a rule of its own"),
        ("deny: {tool: x}, ask: {tool: x}", "`rules.0` should have one of deny, ask and allow", "a rule of its own"),
        ("deny: {}", "`rules.0.deny` should say what it is about", "write a key"),
        ("deny: {tool: []}", "`rules.0.deny.tool` is empty", "write a value"),
        ("deny: {effect: writes}", "`rules.0.deny.effect", "write one of"),
        ("deny: {shell: maybe}", "`rules.0.deny.shell` should be true or false", "write true or false"),
        ("deny: {tool: x}, untrusted: allow", "`rules.0.untrusted` goes with `allow`", "remove"),
        ("deny: {path: '*.{a,b}'}", "`rules.0.deny.path` should hold none of", "write ?"),
        ("deny: {path: '!a'}", "`rules.0.deny.path` should hold none of", "write ?"),
        ("deny: {tool: 'a**'}", "`rules.0.deny.tool` should not hold **", "write *"),
        ("deny: {argv: [a, '**', b]}", "`rules.0.deny.argv` should have ** at the end", "write *"),
        # Rules that would be read and never match: nobody would notice.
        ("deny: {tool: shell, path: a}", "`rules.0.deny.path` is never known of a call of `shell`", "leave `tool` out"),
        ("deny: {tool: [run, shell], host: a}", "`rules.0.deny.host` is never known of a call of `run`", "remove"),
        ("deny: {tool: write_file, program: a}", "`rules.0.deny.program` is never known of a call of `write_file`", ""),
        ("ask: {engine: 'gemini:*'}", "`rules.0.ask` cannot ask for approval of an engine", "use `deny`"),
    ],
)
def test_a_rule_that_says_nothing_is_refused(rule: str, what: str, hint: str) -> None:
    with pytest.raises(MalformedFileError) as told:
        read(f"{PEOPLE}rules: [{{{rule}}}]\n")
    assert what in told.value.what and hint in told.value.hint, str(told.value)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("rules:\n- deny: {tool: x}\n- ask: {tool: x}\n", 4, "`ask: {tool: x}` needs an approval, and nobody"),
        ("rules:\n- ask: {step: x}\n", 3, "`ask: {step: x}` needs an approval"),
        ("approval_required: [a, b]\n", 2, "`approval_required: [a]` needs an approval"),
        ("protected: [infra]\n", 2, "`protected: [infra]` needs an approval"),
        ("limits: {symlinks: ask}\n", 2, "`limits.symlinks: ask` needs an approval"),
        ("limits:\n  files: 3\n", 3, "`limits.files` needs an approval"),
        ("approvals:\n  merge: {required: true}\n", 3, "`approvals.merge` needs an approval"),
        ("approvals:\n  merge: {roles: [ops]}\n", 3, "the role `ops` is not there"),
        ("roles: {ops: []}\napprovals:\n  merge: {roles: [ops]}\n", 4, "the role `ops` is empty"),
        ("roles: {ops: [a@b.c]}\napprovals:\n  merge: {count: 2}\n", 4, "needs 2 people, and 1 could approve"),
        (
            "roles: {ops: [a@b.c], dev: [d@e.f]}\napprovals:\n  call: {roles: ops, count: 2}\n",
            4,
            "`approvals.call` needs 2 people, and 1 could approve",
        ),
    ],
)
def test_a_word_that_nobody_could_give_is_an_error(text: str, line: int, what: str) -> None:
    with pytest.raises(MalformedFileError) as told:
        read(REPO + text)
    assert told.value.where == f"policy.yaml:{line}" and what in told.value.what, str(told.value)


def test_who_is_in_a_role() -> None:
    found = read(REPO + "roles: {a: [x@y.z, b@c.d], b: [x@y.z, e@f.g], c: []}\n").content

    assert policy_file.people(found) == ("x@y.z", "b@c.d", "e@f.g")
    assert policy_file.people(found, ("b",)) == ("x@y.z", "e@f.g")
    assert policy_file.people(found, ("c", "nobody")) == ()


@pytest.mark.parametrize(
    ("text", "size"), [("5MB", 5_000_000), ("200KB", 200_000), ("1GiB", 2**30), ("7", 7), ("7 B", 7), ("2KiB", 2048)]
)
def test_sizes(text: str, size: int) -> None:
    assert policy_file.bytes_of(text) == size
    with pytest.raises(ValueError, match="not a size"):
        policy_file.bytes_of(f"{text}x")


def test_a_narrowing_allows_nothing() -> None:
    from runner.protocol import strict_yaml

    value, lines = strict_yaml.load_yaml("rules: [{allow: {tool: x}}]", "a.yaml")
    with pytest.raises(MalformedFileError, match="should hold deny and ask alone"):
        strict_yaml.validate(policy_file.Narrowing, value, lines, "a.yaml")
