"""What a policy says: precedence, defaults, what a rule is matched with, and what no policy can allow."""

from __future__ import annotations

import itertools
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.protocol import globs, policy_file, strict_yaml
from runner.protocol.plans import Budget
from runner.sandbox.host import Host
from runner.tools.agent import AgentTools
from runner.tools.commands import Commands
from runner.tools.registry import LOOP
from runner.trust import policy, programs
from runner.trust.policy import SEVERITY, Change, More, Policy, Subject, call, command, compiled, evaluate, judge

HEAD = "repo: 6f0c6f0c6f0c6f0c6f0c6f0c6f0c6f0c\nroles: {maintainer: [alice@example.test]}\n"
NONE = compiled(None)


def of(text: str) -> Policy:
    """A policy with these lines; its first rule stands on line 4."""
    return compiled(policy_file.parse((HEAD + text).encode(), "policy.yaml"))


def rules(*lines: str) -> Policy:
    return of("rules:\n" + "".join(f"- {line}\n" for line in lines) if lines else "")


def said(found: Policy, subject: Subject) -> str:
    return evaluate(found, subject).verdict


def write(path: str, tool: str = "write_file") -> Subject:
    return call(tool, {"path": path})


def external(tool: str = "send", **more: object) -> Subject:
    return call(tool, {}, effect="external")._replace(**more)  # type: ignore[arg-type]


# --- precedence ------------------------------------------------------------------------------------------------------


def test_the_rule_that_decided_is_named_with_its_line_and_reason() -> None:
    found = of("rules:\n- ask: {tool: x}\n- deny: {tool: write_file, path: 'migrations/**'}\n  reason: by people\n")
    decision = evaluate(found, write("migrations/1.sql"))
    assert (decision.verdict, decision.where) == ("deny", "policy.yaml:5")
    assert decision.why == "deny: {tool: write_file, path: migrations/**} · by people"
    assert (evaluate(found, write("a")).verdict, evaluate(found, write("a")).where) == ("allow", "built in")


@pytest.mark.parametrize("order", list(itertools.permutations(["deny", "ask", "allow"])))
def test_deny_goes_over_ask_and_ask_over_allow_in_every_order(order: tuple[str, ...]) -> None:
    assert said(rules(*(f"{verdict}: {{tool: send}}" for verdict in order)), external()) == "deny"
    assert said(rules(*(f"{verdict}: {{tool: send}}" for verdict in order if verdict != "deny")), external()) == "ask"


RULES = [
    f"{verdict}: {{{match}}}"
    for verdict in ("deny", "ask", "allow")
    for match in (
        "tool: '*'", "tool: write_file", "tool: [run, shell]", "path: 'src/**'", "path: SRC", "effect: external", "program: git",
        "argv: [git, status]", "shell: true", "shell: false", "host: '*.example.test'", "step: build", "step: '*'",
        "engine: 'gemini:*', tool: '*'", "tool: send, step: build", "effect: [read, workspace], path: '**/*.py'",
    )
]  # fmt: skip
some_rules = st.lists(st.sampled_from(RULES), max_size=6)
words_ = st.sampled_from(["git", "sh", "env", "/usr/bin/git", "status", "-c", "curl", "\0", "", "é"]) | st.text(
    max_size=5
)
PATHS = st.sampled_from(["src/a.py", "SRC/b", ".", "../x", ".git/config", ".github/x", "é"])
subjects = st.builds(
    partial(Subject),  # whose defaults are not drawn
    kind=st.sampled_from(["call", "call", "command", "change", "engine", "isolation", "step"]),
    tool=st.sampled_from(["write_file", "run", "shell", "send", "mcp:a/b", "RUN", None]),
    effect=st.sampled_from(["read", "workspace", "external"]),
    paths=st.lists(PATHS | st.text(max_size=6), max_size=2).map(tuple),
    argv=st.lists(words_, max_size=3).map(tuple),
    hosts=st.lists(st.sampled_from(["api.example.test", "127.1", "::1"]) | st.text(max_size=5), max_size=1).map(tuple),
    engine=st.sampled_from(["gemini:x", "recorded:y", None]),
    isolation=st.sampled_from(["host", "container", "sandbox", None]),
    step=st.sampled_from(["build", "deploy", None]),
    untrusted=st.booleans(),
    listed=st.sampled_from(["", "agents/a.yaml"]),
    vouched=st.booleans(),
    configured=st.sampled_from(["", "config.yaml"]),
)  # fmt: skip


@given(some_rules, subjects, st.randoms(use_true_random=False))
def test_the_order_of_rules_never_matters(some: list[str], subject: Subject, random: object) -> None:
    other = list(some)
    random.shuffle(other)  # type: ignore[attr-defined]
    assert said(rules(*some), subject) == said(rules(*other), subject)


@given(some_rules, st.sampled_from(RULES), subjects)
def test_a_rule_moves_the_answer_only_towards_what_it_says(some: list[str], rule: str, subject: Subject) -> None:
    before, after = (SEVERITY[evaluate(one, subject).verdict] for one in (rules(*some), rules(*some, rule)))
    if rule.startswith("allow"):
        assert after <= before
    else:
        assert after >= before


@given(some_rules, subjects)
def test_of_several_paths_the_strictest_answer_holds(some: list[str], subject: Subject) -> None:
    found = rules(*some)
    if subject.kind in ("call", "command", "change") and subject.paths:
        each = [SEVERITY[evaluate(found, subject._replace(paths=(path,))).verdict] for path in subject.paths]
        assert SEVERITY[evaluate(found, subject).verdict] == max(each)


@given(some_rules, subjects)
def test_every_answer_has_a_rule_and_says_where_it_stands(some: list[str], subject: Subject) -> None:
    decision = evaluate(rules(*some), subject)
    assert decision.rule and (decision.line > 0) is bool(decision.file)
    assert strict_yaml.FORBIDDEN.search(decision.why) is None


# --- defaults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [NONE, of("")], ids=["no policy", "an empty one"])
@pytest.mark.parametrize(
    ("subject", "verdict"),
    [
        (call("read_file", {"path": "a"}), "allow"),
        (call("shell", {"command": "make"}), "allow"),
        (call("run", {"argv": ["make"]}, effect="external"), "ask"),  # on the host
        (call("unknown_tool", {}), "ask"),
        (command("make deploy"), "allow"),
        (command(["make"]), "allow"),
        (Subject(kind="step", step="build"), "allow"),
        (Subject(kind="engine", engine="gemini:x"), "allow"),
        (Subject(kind="isolation", isolation="host"), "allow"),
        (Subject(kind="change", effect="workspace", paths=("src/a.py",)), "allow"),
        (call("fetch", {"url": "https://example.test/"}), "deny"),
        (write(".github/workflows/ci.yml"), "ask"),
    ],
)
def test_without_a_rule_the_default_speaks(found: Policy, subject: Subject, verdict: str) -> None:
    decision = evaluate(found, subject)
    assert (decision.verdict, decision.where.startswith("built in") or subject.kind == "isolation") == (verdict, True)


def test_the_effects_of_our_tools_are_those_of_their_contracts(tmp_path: Path) -> None:
    with AgentTools(Commands(Host(), tmp_path, {}, (), ()), default_timeout=1.0) as opened:
        contracts = {name: tool.contract for name, tool in opened.tools.items()} | LOOP
    known = {name: contract.effect for name, contract in contracts.items()}
    assert known.pop("run") == known.pop("shell") == "external"  # on the host; elsewhere
    assert known == {name: effect for name, effect in policy.BUILT_IN.items() if name not in ("run", "shell")}


def test_a_tool_that_a_coworker_s_file_lists_is_allowed_against_the_default_never_against_a_rule() -> None:
    listed = external(listed="agents/a.yaml", vouched=True)
    assert said(NONE, listed) == "allow" and evaluate(NONE, listed).file == "agents/a.yaml"
    decision = evaluate(NONE, external(listed="a.yaml"))
    assert decision.verdict == "ask" and "a.yaml differs on the trusted branch" in decision.reason
    for strict in ("ask", "deny"):
        assert said(rules(f"{strict}: {{tool: send}}"), listed) == strict
    assert said(of("approval_required: [send]\n"), listed) == "ask"
    assert said(NONE, listed._replace(untrusted=True)) == "ask"


def test_once_untrusted_text_is_there_only_a_rule_that_says_so_allows_external_calls() -> None:
    subject = external(untrusted=True)
    plain, still = "allow: {tool: send}", "{allow: {tool: 's*'}, untrusted: allow}"
    assert said(rules(plain), subject._replace(untrusted=False)) == "allow"
    decision = evaluate(rules(plain), subject)
    assert (decision.verdict, decision.where) == ("ask", "policy.yaml:4") and "untrusted" in decision.reason
    assert said(rules(plain, still), subject) == said(rules(still, plain), subject) == "allow"
    assert said(rules(still, "ask: {tool: send}"), subject) == "ask"
    assert said(rules(plain), subject._replace(effect="workspace")) == "allow"


# --- what is matched -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["migrations/1.sql", "Migrations/1.SQL", "migrations", "m\u200bigrations/a/b"])
def test_a_denied_path_is_denied_however_it_is_written(path: str) -> None:
    assert said(rules("deny: {path: 'migrations/**'}"), write(path)) == "deny"


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../b", "a//b", "a/./b", "a\0b", "", ".git/config", "sub/.GIT/hooks/x", "a/git~1/x", ".g\u200cit/x"],
)  # fmt: skip
def test_a_path_that_is_not_plain_is_denied_whatever_allows_it(path: str) -> None:
    for tool in ("read_file", "write_file"):
        subject = Subject(tool=tool, effect=policy.BUILT_IN[tool], paths=(path,))
        assert said(rules("allow: {tool: '*'}", "allow: {path: '**'}"), subject) == "deny"


@pytest.mark.parametrize(
    "path", [".protocols/policy.yaml", ".protocols/0001-a/state.json", ".Protocols/memory/x", ".protocols"]
)
def test_the_protocols_files_are_the_runner_s_and_people_s(path: str) -> None:
    everything = rules("allow: {tool: '*'}")
    assert said(everything, write(path)) == "deny"
    assert said(everything, Subject(kind="change", effect="workspace", paths=(path,))) == "deny"
    assert said(everything, call("read_file", {"path": path})) == "allow"
    assert said(everything, call("remember", {"name": "x", "text": "y"})) == "allow"


def test_allow_is_exact_about_case() -> None:
    found = rules("allow: {tool: send, path: 'docs/**'}")
    assert said(found, external(paths=("docs/a",))) == "allow"
    assert said(found, external(paths=("Docs/a",))) == "ask"
    assert said(found, external(paths=("docs/a", "src/a"))) == "ask"


path_globs = st.lists(st.sampled_from(["a", "b*", "*b", "?", "**", "*", "a*b"]), min_size=1, max_size=4).map("/".join)


@given(path_globs, st.lists(st.sampled_from(["a", "b", "ab", "bb", "aab"]), min_size=1, max_size=4).map("/".join))
def test_a_rule_fits_the_paths_that_its_glob_fits(glob: str, path: str) -> None:
    fits = globs.compiled([globs.path_pattern(glob)]).fullmatch(path) is not None
    assert (said(rules(f"deny: {{path: '{glob}'}}"), write(path)) == "deny") is fits
    assert (said(rules(f"allow: {{tool: send, path: ['{glob}', x]}}"), external(paths=(path,))) == "allow") is fits


def test_a_rule_about_what_is_not_known_of_a_call_does_not_match() -> None:
    found = rules(
        "deny: {path: 'src/**'}", "deny: {host: '*'}", "deny: {program: '*'}", "deny: {engine: '*', tool: '*'}"
    )
    assert said(found, external()) == "ask"
    assert said(found, external(engine="gemini:x")) == "deny"


def test_every_key_of_a_rule_has_to_fit_and_any_of_its_values() -> None:
    found = rules("deny: {tool: [write_file, edit_file], path: [a, 'b/*'], step: 'build-*'}")
    assert said(found, write("b/c", "edit_file")._replace(step="build-1")) == "deny"
    for other in (
        write("b/c"), write("b/c")._replace(step="build"), write("c")._replace(step="build-1"),
        write("a", "remember")._replace(step="build-1"),
    ):  # fmt: skip
        assert said(found, other) == "allow"


def test_a_rule_with_a_step_alone_is_about_its_start() -> None:
    found = rules("ask: {step: '*release*'}", "deny: {step: 'drop-*'}")
    assert said(found, Subject(kind="step", step="the-release")) == "ask"
    assert said(found, Subject(kind="step", step="drop-all")) == "deny"
    assert said(found, write("a")._replace(step="the-release")) == "allow"
    assert said(found, command("make", step="drop-all")) == "allow"


def test_engines() -> None:
    denied = 'deny: {engine: "gemini:*-preview"}', 'deny: {engine: "recorded:*", step: release}'
    head = 'engines: {allow: ["gemini:*", "recorded:*"]}\nrules:\n'
    found = of(head + "".join(f"- {line}\n" for line in denied))
    assert said(found, Subject(kind="engine", engine="gemini:pro", step="release")) == "allow"
    assert said(found, Subject(kind="engine", engine="recorded:x")) == "allow"
    assert evaluate(found, Subject(kind="engine", engine="other:x")).where == "policy.yaml:3"
    assert said(found, Subject(kind="engine", engine="Gemini:pro")) == "deny"
    assert said(found, Subject(kind="engine", engine="gemini:x-preview")) == "deny"
    assert said(found, Subject(kind="engine", engine="recorded:x", step="release")) == "deny"
    assert said(found, Subject(kind="engine")) == "deny"


def test_the_weakest_isolation() -> None:
    found = of("isolation: container\n")
    asked = [said(found, Subject(kind="isolation", isolation=one)) for one in policy_file.ISOLATIONS]
    assert asked == ["deny", "allow", "allow"]


# --- programs and shells ---------------------------------------------------------------------------------------------


def run(*argv: str) -> Subject:
    return call("run", {"argv": list(argv)}, effect="external")


@pytest.mark.parametrize(
    "argv",
    [
        ["sh", "-c", "git status"], ["/bin/bash", "x.sh"], ["BASH", "-c", "x"], ["env", "git", "x"], ["env", "-S", "git x"],
        ["xargs", "git"], ["sudo", "git"], ["busybox", "sh"], ["git", "-c", "alias.x=!sh", "x"],
        ["git", "fetch", "--upload-pack=x", "y"], ["git", "-C", "/tmp", "-c", "core.pager=x", "log"],
        ["git", "--exec-path=/tmp", "x"], ["find", ".", "-exec", "rm", "{}", ";"], ["tar", "xf", "a", "--checkpoint-action=exec=sh"],
        ["python3.12", "-c", "import os"], ["python", "-W", "ignore", "-Ic", "x"], ["perl", "-ne", "x"], ["node", "--eval", "x"],
        ["timeout", "5", "git", "push"], ["nice", "git"], ["rg", "--pre", "sh", "x"], ["ssh", "host", "git"],
    ],
)  # fmt: skip
def test_what_starts_other_programs_is_a_shell_whatever_runs_it(argv: list[str]) -> None:
    allowed = rules(*(f"allow: {{program: '{name}'}}" for name in ("git", "*")), "allow: {argv: [git, '**']}")
    assert said(allowed, run(*argv)) == "ask"
    assert said(rules("allow: {tool: run}"), run(*argv)) == "ask"
    assert said(rules("allow: {tool: shell}"), run(*argv)) == "allow"
    assert said(rules("allow: {program: '*', shell: true}"), run(*argv)) == "allow"
    assert said(rules("deny: {tool: shell}"), run(*argv)) == "deny"
    assert said(rules("deny: {shell: true}", "allow: {tool: '*'}"), run(*argv)) == "deny"
    assert said(rules("deny: {tool: run}"), run(*argv)) == "deny"


UNKNOWN = pytest.mark.parametrize(
    "argv",
    [
        ["git", "status"], ["git", "commit", "-c", "HEAD"], ["python", "-m", "pytest", "-c", "x"], ["python3", "x.py", "-c"],
        ["tar", "xf", "a"], ["make"], ["./sh.py"], ["node", "x.js", "-e"], ["awk", '{ system("x") }'], ["sed", "1e curl x"],
        ["make", "SHELL=./x"], ["npx", "curl"], ["/lib64/ld-linux-x86-64.so.2", "/usr/bin/curl"], ["gdb", "-ex", "!curl x"],
        ["sqlite3", ":memory:", ".shell curl x"], ["prlimit", "--nproc=9", "curl", "x"], ["vim", "-c", "!curl"], ["uv", "run", "curl"],
        ["./cat", "x"], ["bin/ls"], ["/tmp/cat"], ["CAT", "x"], ["cat.exe"], ["nobody-knows-it"],
    ],
)  # fmt: skip


@UNKNOWN
def test_a_program_that_is_not_known_to_start_nothing_is_judged_as_a_shell(argv: list[str]) -> None:
    assert said(rules("deny: {tool: shell}", "allow: {tool: run}"), run(*argv)) == "deny"
    assert said(rules("deny: {shell: true}", "allow: {tool: '*'}"), run(*argv)) == "deny"
    assert said(rules("deny: {shell: true}"), command(argv)) == "deny"
    assert said(rules("ask: {shell: true}"), command(argv)) == "ask"
    assert said(rules("allow: {tool: run}"), run(*argv)) == "ask"
    assert said(rules("allow: {tool: shell}"), run(*argv)) == "allow"
    assert said(rules("allow: {tool: run, shell: true}", "allow: {tool: shell, shell: true}"), run(*argv)) == "allow"


@UNKNOWN
def test_a_rule_that_names_what_is_run_allows_it(argv: list[str]) -> None:
    name = argv[0]
    assert said(rules(f"allow: {{program: '{name}'}}"), run(*argv)) == "allow"
    assert said(rules(f"allow: {{tool: run, argv: ['{name}', '**']}}"), run(*argv)) == "allow"
    assert said(rules(f"allow: {{program: '{name}'}}", "deny: {tool: shell}"), run(*argv)) == "deny"
    assert said(rules("allow: {tool: run, program: other}"), run(*argv)) == "ask"


@UNKNOWN
def test_a_rule_about_what_is_no_shell_still_denies_it(argv: list[str]) -> None:
    name = argv[0].rpartition("/")[2]
    assert said(rules(f"deny: {{program: '{name}', shell: false}}", "allow: {tool: '*'}"), run(*argv)) == "deny"


@UNKNOWN
def test_what_is_recorded_keeps_its_verdict(argv: list[str]) -> None:
    found = rules("deny: {tool: shell}", "allow: {tool: run}")
    assert evaluate(found, run(*argv), loose=True).verdict == "allow"
    assert evaluate(found, run("sh", "-c", "x"), loose=True).verdict == "deny"


@pytest.mark.parametrize(
    "argv",
    [["cat", "x"], ["/usr/bin/cat"], ["/bin/ls", "-l"], ["find", ".", "-name", "x"], ["grep", "-rn", "x"], ["sort", "-u", "a"],
     ["rg", "-n", "x"], ["rm", "-r", "x"], ["[", "-f", "x", "]"], ["true"]],
)  # fmt: skip
def test_a_program_that_starts_nothing_is_none(argv: list[str]) -> None:
    assert said(rules("deny: {tool: shell}", "allow: {tool: run}"), run(*argv)) == "allow"
    assert said(rules("deny: {shell: true}"), command(argv)) == "allow"
    assert said(rules("deny: {program: curl}", "allow: {tool: run}"), run(*argv, "curl")) == "allow"


@pytest.mark.parametrize(
    "argv",
    [["sort", "--compress-program=./x", "a"], ["sort", "--comp", "./x", "a"], ["find", ".", "-execdir", "x", ";"], ["find", "-okdir"],
     ["rg", "--pre=./x", "a"], ["rg", "--hostname-bin", "./x"], ["rg", "-nz", "a"]],
)  # fmt: skip
def test_an_option_that_starts_a_program_makes_it_a_shell(argv: list[str]) -> None:
    assert said(rules("deny: {tool: shell}", "allow: {tool: run}"), run(*argv)) == "deny"


def test_a_program_is_judged_by_the_argv_that_is_run() -> None:
    found = rules("deny: {program: curl}", "allow: {program: [git, make]}")
    for argv in (
        ["curl"],
        ["/usr/bin/curl", "x"],
        ["CURL"],
        ["env", "A=b", "curl", "x"],
        ["sudo", "/opt/curl"],
        ["git", "curl"],
    ):
        assert said(found, run(*argv)) == "deny", argv
    for argv in (["git", "status"], ["make"]):
        assert said(found, run(*argv)) == "allow", argv
    for argv in (["./git"], ["/tmp/git"], ["Git"], ["curl2"]):  # not the git that PATH has
        assert said(found, run(*argv)) == "ask", argv
    assert said(found, command(["curl", "x"])) == "deny"
    assert said(found, command("curl x")) == "allow"  # a shell's text is never read
    assert said(rules("deny: {program: curl}", "deny: {shell: true}"), command("c''url x")) == "deny"


def test_arguments_are_matched_one_by_one() -> None:
    found = rules(
        "allow: {argv: [git, push, 'origin*', '**']}",
        "allow: {argv: [make, '*']}",
        "deny: {argv: [git, push, '*', --force]}",
    )
    assert said(found, run("git", "push", "origin")) == said(found, run("git", "push", "origin", "a", "b")) == "allow"
    assert said(found, run("git", "push", "origin", "--force")) == "deny"
    assert said(found, run("/usr/bin/git", "PUSH", "origin", "--FORCE")) == "deny"
    for argv in (["git", "push"], ["git", "push", "other"], ["make"], ["make", "a", "b"]):
        assert said(found, run(*argv)) == "ask", argv


# --- hosts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "verdict"),
    [
        ("https://api.example.test/x?y", "allow"), ("https://API.Example.test./", "allow"),
        ("http://user@api.example.test:8080", "allow"),
        ("https://a.b.cdn.test/", "allow"), ("https://cdn.test/", "deny"), ("https://api.example.test.evil.test/", "deny"),
        ("https://evil.test/?api.example.test", "deny"), ("https://api.example.test@evil.test/", "deny"),
        ("https://evil.test\\@api.example.test/", "deny"), ("http://[::1]/", "allow"), ("http://[0:0::1]/", "allow"),
        ("http://2130706433/", "deny"), ("http://0x7f.1/", "deny"), ("http://127.1/", "deny"), ("ftp:x", "deny"), ("", "deny"),
        ("https://xn--\u0430pi.example.test/", "deny"),
    ],
)  # fmt: skip
def test_hosts_that_may_be_reached(url: str, verdict: str) -> None:
    found = of('network: {allow: [api.example.test, "*.cdn.test", "::1"]}\n')
    assert said(found, call("fetch", {"url": url})) == verdict


def test_a_host_needs_somebody_who_names_it() -> None:
    subject = call("fetch", {"url": "https://a.test/"})
    assert said(NONE, subject) == "deny" and said(rules("allow: {tool: fetch}"), subject) == "deny"
    assert said(rules("ask: {tool: fetch}"), subject) == "deny"
    assert said(rules("ask: {host: a.test}"), subject) == "ask"
    assert said(rules("allow: {tool: fetch, host: a.test}"), subject) == "allow"
    assert said(NONE, subject._replace(configured="config.yaml")) == "allow"
    assert said(of("network: {allow: [b.test]}\n"), subject._replace(configured="config.yaml")) == "deny"
    assert said(of("network: {allow: [a.test]}\nrules: [{deny: {host: '*.test'}}]\n"), subject) == "deny"


def test_a_host_that_a_step_names_is_judged_without_its_port() -> None:
    listed = of("network: {allow: [a.test, localhost, '::2']}\n")
    verdicts = {
        host: said(listed, policy.reached(host, step="x"))
        for host in (
            "a.test",
            "a.test:99",
            "localhost:1",
            "::2",
            "[::2]:1",
            "b.test",
            "*.a.test",
            "*",
            "10.0.0.0/8",
            "[::3]:1",
        )
    }
    assert [host for host, verdict in verdicts.items() if verdict == "allow"] == [
        "a.test",
        "a.test:99",
        "localhost:1",
        "::2",
        "[::2]:1",
    ]
    assert set(verdicts.values()) == {"allow", "deny"}
    assert said(NONE, policy.reached("a.test", step="x")) == "deny"
    assert said(rules("ask: {host: a.test, step: x}"), policy.reached("a.test:1", step="x")) == "ask"


def test_another_tool_s_path_or_url_may_be_anything() -> None:
    assert said(rules("allow: {tool: get}"), call("get", {"path": "/v1/items", "url": "thing:1"})) == "allow"
    assert said(rules("allow: {tool: get}"), call("get", {"path": "../x", "url": "https://a.test/"})) == "allow"
    denied = rules("allow: {tool: get}", "deny: {path: 'migrations/**'}", "deny: {host: '*.internal'}")
    for path in ("migrations/1", "./migrations//1", "a/../migrations/1"):
        assert said(denied, call("get", {"path": path})) == said(denied, call("get", {"paths": ["a", path]})) == "deny"
    for url in ("https://a.internal/", "a.internal", "http://0x7f.1/"):
        assert said(denied, call("get", {"url": url})) == "deny"
    listed = of("network: {allow: [a.test]}\nrules: [{allow: {tool: get}}]\n")
    assert [said(listed, call("get", {"url": f"https://{host}/"})) for host in ("a.test", "b.test")] == [
        "allow",
        "deny",
    ]
    assert said(rules("allow: {tool: get}"), call("get", {"path": ".git/config"})) == "deny"


# --- protected paths and a step's diff -------------------------------------------------------------------------------


def change(path: str, before: str | None = "100644", after: str | None = "100644", **more: object) -> Change:
    return Change(path=path, before=before, after=after, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path",
    [
        ".github/workflows/a.yml", ".GitHub/x", ".github", ".gitlab-ci.yml", ".forgejo/x", "scripts/ci/test.sh", ".gitattributes",
        "sub/.gitattributes", ".gitmodules", "AGENTS.md", "pkg/agents.md", "infra/a/b", "Infra", "scripts/test.sh",
    ],
)  # fmt: skip
def test_protected_paths(path: str) -> None:
    found = of("protected: [infra]\n")
    named = programs.named_files(["cd x && sh ./scripts/test.sh -v", "make test"])
    (one,) = policy.protected(found, [path], named)
    assert one.verdict == "ask" and one.rule.startswith("protected: ")
    assert [one.verdict for one in judge(found, [change(path)], named=named)] == ["ask"]
    assert evaluate(found, write(path), named).verdict == "ask"
    assert evaluate(found, call("read_file", {"path": path}), named).verdict == "allow"


def test_what_is_not_protected() -> None:
    named = programs.named_files(["pytest tests/"])
    assert policy.protected(NONE, ["src/a.py", "github/x", "scripts/cid", "tests/test_a.py", "infra/x"], named) == []


def test_no_rule_allows_what_is_protected_and_a_deny_goes_over_it() -> None:
    assert said(rules("allow: {tool: write_file, path: '.github/**'}"), write(".github/a")) == "ask"
    assert said(rules("deny: {path: '.github/**'}"), write(".github/a")) == "deny"


@pytest.mark.parametrize("mode", policy.LINKS)
def test_a_link_in_the_place_of_a_folder_touches_what_would_lie_in_it(mode: str) -> None:
    found = of("protected: [deploy/prod/**]\nrules: [{deny: {path: db/migrations/**}}]\n")
    wanted = {
        "scripts": "ask",
        "deploy": "ask",
        "db": "deny",
        "db/migrations": "deny",
        ".protocols/memory": "deny",
        "src": "",
    }
    for path, verdict in wanted.items():
        told = [one.verdict for one in judge(found, [change(path, None, mode)]) if one.rule != "a submodule is new"]
        assert told == ([verdict] if verdict else []), path
    assert judge(found, [change("scripts"), change("db")]) == []


def test_rules_about_files_without_a_tool_are_asked_again_about_what_the_step_changed() -> None:
    found = rules(
        "deny: {path: 'migrations/**'}",
        "deny: {tool: write_file, path: 'src/**'}",
        "ask: {path: 'api/**', step: build}",
    )
    (one,) = judge(found, [change("src/a"), change("migrations/1.sql", after=None)])
    assert (one.verdict, one.where) == ("deny", "policy.yaml:4") and "migrations/1.sql" in one.reason
    assert [one.verdict for one in judge(found, [change("api/x")], step="build")] == ["ask"]
    assert judge(found, [change("api/x")], step="other") == []


LIMITED = of("limits: {files: 2, lines: 10, file_size: 1KB, total: 4KB, binaries: ask, modes: ask, symlinks: deny}\n")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([change("a", lines=5), change("b", lines=5)], []),
        ([change("a"), change("b"), change("c")], ["ask limits: {files: 2}"]),
        ([change("a", lines=11)], ["ask limits: {lines: 10}"]),
        ([change("a", size=1000)], []),
        ([change("a", size=1001)], ["ask limits: {file_size: 1KB}"]),
        ([change("a", size=4001)], ["ask limits: {total: 4KB}", "ask limits: {file_size: 1KB}"]),
        ([change("a", "100644", None, size=4001)], []),
        ([change("a", after=None, size=0)], []),
        ([change("a", None, binary=True)], ["ask limits: {binaries: ask}"]),
        ([change("a", binary=True)], []),
        ([change("a", "100644", "100755")], ["ask limits: {modes: ask}"]),
        ([change("a", None, "100755")], ["ask limits: {modes: ask}"]),
        ([change("a", "100755", "100755"), change("b", "100755", "100644")], []),
        ([change("a", None, "120000")], ["deny limits: {symlinks: deny}"]),
        ([change("a", None, "160000")], ["ask a submodule is new"]),
        ([change("a", None, "120000"), change("b", size=2000)], ["deny limits: {symlinks: deny}", "ask limits: {file_size: 1KB}"]),
    ],
)  # fmt: skip
def test_limits(changes: list[Change], told: list[str]) -> None:
    assert [f"{one.verdict} {one.rule}" for one in judge(LIMITED, changes)] == told
    without = [one for one in judge(NONE, changes) if one.rule != "a submodule is new"]
    assert without == []


# --- narrowing -------------------------------------------------------------------------------------------------------


def narrowing(text: str) -> More:
    value, lines = strict_yaml.load_yaml(text, "a.yaml")
    return More(
        strict_yaml.validate(policy_file.Narrowing, value["policies"], lines, "a.yaml"), "a.yaml", lines, ("policies",)
    )


def test_a_coworker_s_policies_make_it_stricter() -> None:
    more = narrowing("name: x\npolicies:\n  approval_required: [send]\n  rules:\n  - deny: {path: docs}\n")
    found = compiled(rules("allow: {tool: send}").file, [more])
    assert (evaluate(found, external()).verdict, evaluate(found, external()).where) == ("ask", "a.yaml:3")
    assert evaluate(found, write("docs/a")).where == "a.yaml:5"
    assert said(compiled(None, [more]), write("docs/a")) == "deny"


amounts = st.none() | st.integers(0, 9)
budgets = st.builds(
    Budget.model_construct,
    usd=st.none() | st.integers(0, 9).map(Decimal), tokens=amounts, turns=amounts, calls=amounts, minutes=amounts,
)  # fmt: skip


@given(st.lists(st.none() | budgets, max_size=4))
def test_a_budget_is_the_least_of_all(some: list[Budget | None]) -> None:
    found = policy.stricter(*some)
    for key in Budget.model_fields:
        values = [value for one in some if one is not None and (value := getattr(one, key)) is not None]
        assert getattr(found, key) == min(values, default=None)


# --- advice ----------------------------------------------------------------------------------------------------------


def test_rules_that_say_less_than_their_author_may_think_are_noted() -> None:
    def told(*lines: str) -> list[int]:
        file = rules(*lines).file
        assert file is not None
        return [line for line, _ in policy.notes(file)]

    assert told("deny: {tool: write_file, path: a}", "deny: {path: a}", "allow: {tool: write_file, path: a}") == [4]
    assert told("deny: {program: curl}", "ask: {tool: x}") == [4]
    assert (
        told("deny: {program: curl}", "deny: {shell: true}") == told("deny: {program: curl}", "ask: {tool: 's*'}") == []
    )


@pytest.mark.parametrize(
    ("more", "noted"),
    [
        ("", [4]),
        ("own_work: allow\n", []),
        ("own_work: signed\n", [4]),
    ],
)
def test_a_count_that_takes_everybody_is_noted_where_authors_are_left_out(more: str, noted: list[int]) -> None:
    def notes(*people: str) -> list[int]:
        names = ", ".join(f"{name}@example.test" for name in people)
        text = f"repo: {'0' * 32}\nroles: {{maintainer: [{names}]}}\napprovals:\n  step: {{count: 2}}\n{more}"
        return [line for line, _ in policy.notes(policy_file.parse(text.encode(), "policy.yaml"))]

    assert (notes("alice", "bob"), notes("alice", "bob", "carol")) == (noted, [])


def test_what_a_check_runs_is_told_from_what_it_looks_at() -> None:
    lines = [
        "grep -q good x.txt && test -s out/y.txt",
        "cd x; PYTHONPATH=. python3.11 -m pytest tests",
        "sh -e ./Check.sh | env ./run.py z",
    ]
    found = programs.named_programs(lines)
    assert {"check.sh", "run.py", "grep"} <= found
    assert not {"x.txt", "out/y.txt", "good", "z"} & found


@pytest.mark.parametrize(
    ("check", "read", "not_read"),
    [
        ("make -C sub test", ["Makefile", "sub/GNUmakefile"], ["other/Makefile", "src/makefile.py"]),
        (
            "cd 'web' && npm test",
            ["web/package.json", "web/.npmrc", "web/jest.config.js"],
            ["lib/package.json", "web/a.js"],
        ),
        (
            "X=1 python3.11 -W error -m pytest tests",
            ["pytest.py", "pytest/__init__.py", "conftest.py", "tests/pytest.ini"],
            ["tests/conftest.py", "tests/test_a.py", "src/a.py"],
        ),
        ("PYTHONPATH=src python3 -m unittest", ["src/sitecustomize.py"], ["src/a.py"]),
        ("uv run pytest", ["pyproject.toml", "tox.ini", "setup.cfg"], ["tests/test_a.py"]),
        ("python3 -m unittest discover", ["unittest.py", "unittest/__init__.py"], ["test_a.py", "a/__init__.py"]),
        ("python3 -u tools/check.py src/a.py", ["tools/check.py"], ["src/a.py"]),
        ("timeout 60 cargo test", ["Cargo.toml", ".cargo/config.toml", "rust-toolchain"], ["src/main.rs", "build.rs"]),
        ("go test ./...", ["go.work"], ["go.mod", "a_test.go"]),
        ("nox -s tests; tox -e py", ["noxfile.py", "tox.ini"], ["tests/test_a.py"]),
        ("grep -q pytest a.txt", [], ["conftest.py", "a.txt"]),
        ("git diff --exit-code src/a.py", [], ["src/a.py"]),
    ],
)
def test_what_a_check_reads_to_learn_what_to_do(check: str, read: list[str], not_read: list[str]) -> None:
    fits = programs.inputs([check]).match
    assert [path for path in (*read, *not_read) if fits(path.casefold())] == read


@pytest.mark.parametrize(
    ("path", "before", "everyday", "deciding"),
    [
        (
            "package.json",
            '{"scripts": {"test": "jest"}}',
            '{"scripts": {"test": "jest"}, "dependencies": {"a": "1"}}',
            '{"scripts": {"test": "true"}}',
        ),
        ("web/package.json", "{}", '{"version": "2"}', '{"jest": {"testMatch": []}}'),
        (
            "pyproject.toml",
            "[project]\n",
            "[project]\ndependencies = ['a']\n",
            "[tool.pytest.ini_options]\naddopts = '--co'\n",
        ),
        (
            "setup.cfg",
            "[metadata]\n",
            "[options]\ninstall_requires = a\n",
            "[metadata]\n\x0c[tool:pytest]\naddopts = --co\n",
        ),
        ("Cargo.toml", "[package]\n", "[target.x.dependencies]\na = '1'\n", "[package]\n[lib]\ntest = false\n"),
        ("pyproject.toml", "[a]\n", "[b]\n", "["),
        ("package.json", "{}", '{"name": "a"}', "[]"),
    ],
)
def test_a_manifest_decides_on_a_check_by_what_test_runners_read_of_it(
    path: str, before: str, everyday: str, deciding: str
) -> None:
    changed = [programs.same_for_checks(path, before.encode(), after.encode()) for after in (everyday, deciding)]
    assert changed == [True, False]
