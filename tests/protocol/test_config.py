"""config.yaml and coworkers: their defaults, and what is said of a bad key."""

from __future__ import annotations

import pytest

from runner.errors import MalformedFileError
from runner.protocol import config
from runner.protocol.config import Config, ToolEffect


@pytest.mark.parametrize("data", [None, b"", b"\n", b"# nothing\n", b"---\n", b"\xef\xbb\xbf# a BOM\r\n", b"{}\n"])
def test_without_a_word_the_defaults_hold(data: bytes | None) -> None:
    assert config.parse(data, "c.yaml") == Config()


def test_every_key() -> None:
    text = """\
base: develop
branch: runner/{id}
identity: {name: Robot, email: robot@example.test}
publish: always
forge: github
notify: {webhooks: [SLACK], after: 4h, also: maintainer}
merge: {as: squash, base: up-to-date}
engine: {default: [gemini:a, gemini:b], review: x:y}
executor: host
workspace: {path: /var/tmp/w, setup: make setup, network: true, key: uv.lock, share: [node_modules], generated: src/*.c,
  python: .venv/bin/python, user_namespaces: true}
resources: {memory: 4G, cpu: 30m, processes: 512, disk: 5G}
worktrees: {path: ../trees}
lease: {ttl: 1h, grace: 30s}
tools:
  - {module: pkg.mod, effects: {f: read, send: {external: keyed, key: ref}}, env: [TOKEN], network: [example.test]}
mcp:
  docs: {command: [serve, .], env: [TOKEN], network: [a.test],
    version: 1.2, package: 'npm:@a/b@1.2.0', lock: package-lock.json, effects: {look: read}}
  web: {url: https://mcp.example.test/mcp, bearer: TOKEN}
filters: [lfs]
ci: block
checks: make test
qa: {on_ci: true}
acp: {own: {command: [prog, arg], mode: ask, network: [example.test]}}
cli: {aider: {env: [TOKEN]}}
review: {aspects: [security]}
clarifications: block
"""
    found = config.parse(text.encode(), "c.yaml")

    assert found.model_fields_set == set(Config.model_fields)
    assert (found.engine.default, found.engine.review) == (("gemini:a", "gemini:b"), ("x:y",))
    assert found.tools[0].effects == {"f": "read", "send": ToolEffect(external="keyed", key="ref")}
    assert (found.workspace.network, found.workspace.key) == (True, ("uv.lock",))


@pytest.mark.parametrize(
    ("host", "good"),
    [
        *(
            (host, True)
            for host in ("a.test", "*.a.test", "a.test:8443", "localhost:5432", "*", "10.0.0.0/8", "10.1.2.3:80")
        ),
        *((host, True) for host in ("::2", "fd00::/8", "[::2]:80", "registry")),
        *(
            (host, False)
            for host in ("localhost", "127.0.0.1", "127.0.0.1:80", "::1", "http://x", "a/b", "A.test", "a.test:0")
        ),
    ],
)
def test_a_host_that_may_be_reached(host: str, good: bool) -> None:
    for text in (f'workspace: {{network: ["{host}"]}}\n', f'tools: [{{module: a, network: "{host}"}}]\n'):
        if good:
            config.parse(text.encode(), "c.yaml")
        else:
            with pytest.raises(MalformedFileError, match="should be a host that may be reached"):
                config.parse(text.encode(), "c.yaml")


@pytest.mark.parametrize("written", ["a:b", "[a:b]", "{default: a:b}", "{default: [a:b]}"])
def test_an_engine_is_written_in_four_ways(written: str) -> None:
    assert config.parse(f"engine: {written}\n".encode(), "c.yaml").engine.default == ("a:b",)


@pytest.mark.parametrize(
    ("text", "line", "what", "hint"),
    [
        ("zzzzz: 1\n", 1, "unknown key `zzzzz`", "known keys: acp, base, branch, checks, ci"),
        ("base: main\npublsh: never\n", 2, "unknown key `publsh`", "did you mean `publish`?"),
        ("publish: sometimes\n", 1, "`publish` should be 'never', 'ask' or 'always'", "write one of"),
        ("publish: no\n", 1, "`publish` should be 'never', 'ask' or 'always'", "write one of"),
        ("executor: sandox\n", 1, "`executor` should be 'sandbox', 'container' or 'host'", "did you mean `sandbox`?"),
        ("- a\n", 1, "keys and values are expected here", "write lines"),
        (
            "mcp:\n  a: {command: [x], lock: l.json}\n",
            2,
            "`mcp.a.lock` and `package` must be set together",
            "write both, or neither",
        ),
        (
            "acp:\n  a: {command: [x], endpoint: [URL]}\n",
            2,
            "`acp.a.endpoint` and `speaks` must be set together",
            "write both, or neither",
        ),
        ("base: -x\n", 1, "`base` should be the name of a branch", "write a name that git allows"),
        ("base: a b\n", 1, "`base` should be the name of a branch", "write a name that git allows"),
        ("base: x.lock\n", 1, "`base` should be the name of a branch", "write a name that git allows"),
        ("branch: main\n", 1, "`branch` should hold {id} once", "write it with {id} once"),
        ("branch: '{id}/{id}'\n", 1, "`branch` should hold {id} once", "write it with {id} once"),
        ("branch: 'a b/{id}'\n", 1, "`branch` should hold {id} once", "write it with {id} once"),
        ("branch: '../{id}'\n", 1, "`branch` should be the name of a branch", "write a name that git allows"),
        ("branch: 'x/{id}.lock'\n", 1, "`branch` should be the name of a branch", "write a name that git allows"),
        ("{branch: 'x/{id}'}\n", 1, "`branch` is not on a line of its own", "write the line `branch: x/{id}`"),
        ("identity: {name: 'A <a@b>'}\n", 1, "`identity.name` should not hold < or >", "write the name or the address"),
        ('identity:\n  email: "a\\nb"\n', 2, "`identity.email` should be one line of text", "write it on one line"),
        ("identity:\n  name:\n", 2, "`identity.name` has no value", "write one, or remove the key"),
        ("workspace: {network: yes}\n", 1, "`workspace.network` should be true or false", "write true or false"),
        ("workspace:\n  key: [/etc/passwd]\n", 2, "`workspace.key.0` should be a path inside", "write it as seen"),
        ("lease: {ttl: 15}\n", 1, "`lease.ttl` should be a duration", "write it as 90s"),
        ("tools: [{modul: a}]\n", 1, "unknown key `tools.0.modul`", "did you mean `module`?"),
        (
            "engine: {split: x:y}\n",
            1,
            "unknown key `engine.split`",
            "known keys: decompose, default, execute, plan, review",
        ),
        ("tools:\n  - module: a/b.py\n", 2, "`tools.0.module` should be a Python module", "write it as it is imported"),
        (
            "tools:\n  - module: a\n    env: [A-B]\n",
            3,
            "`tools.0.env.0` should be an environment",
            "write the name alone",
        ),
        (
            "tools:\n  - module: a\n    effects:\n      f: reed\n",
            4,
            "`tools.0.effects.f` should be 'read' or",
            "did you mean",
        ),
        ("tools:\n  - module: a\n    effects: {f: {extrnal: never}}\n", 3, "unknown key", "did you mean `external`?"),
        ("a: &x 1\n", 1, "a YAML anchor", "remove it"),
        ("a: 1\na: 2\n", 2, "the key `a` is there twice", "keep one"),
    ],
)
def test_a_bad_key_of_the_configuration_is_told_by_line(text: str, line: int, what: str, hint: str) -> None:
    with pytest.raises(MalformedFileError) as refused:
        config.parse(text.encode(), "c.yaml")

    assert refused.value.where == f"c.yaml:{line}"
    assert refused.value.what.startswith(what)
    assert refused.value.hint.startswith(hint)


def test_a_coworker() -> None:
    text = (
        "name: coder\nobjective: Write code\ntools: [read_file, {module: pkg.mod}]\n"
        "policies: {approval_required: [deploy]}\nbudget: {turns: 5}\n"
    )
    found = config.parse_agent(text.encode(), "coder.yaml")

    assert found.policies is not None
    assert (found.name, found.policies.approval_required) == ("coder", ("deploy",))
    assert [tool.module for tool in found.tool_modules()] == ["pkg.mod"]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "keys and values are expected here"),
        ("objective: x\n", 1, "the key `name` is missing"),
        ("name: coder\nobjektive: x\n", 2, "unknown key `objektive`"),
        ("name: a\nobjective: x\ntools: [a b]\n", 3, "`tools.0` should be a tool's name"),
        ("name: a\nobjective: x\ntools: echo\n", 3, "`tools` should be a list"),
    ],
)
def test_a_bad_coworker_is_told_by_line(text: str, line: int, what: str) -> None:
    with pytest.raises(MalformedFileError) as refused:
        config.parse_agent(text.encode(), "a.yaml")

    assert refused.value.where == f"a.yaml:{line}"
    assert refused.value.what.startswith(what)


def test_what_there_is_too_much_of_is_refused_in_plain_words() -> None:
    with pytest.raises(MalformedFileError) as refused:
        config.parse(b"review: {reviewers: [{}, {}, {}, {}, {}, {}]}\n", "config.yaml")
    assert refused.value.what == "`review.reviewers` should have at most 5 items, not 6"
    assert refused.value.hint == "remove some"
