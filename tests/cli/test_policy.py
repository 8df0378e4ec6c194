"""`runner policy`: what would happen and why, and the examples of a policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import resources
from tests.conftest import Box
from tests.protocol.test_policy_file import WHOLE

WRITE = ("check", "--tool", "write_file", "--args")


def put(box: Box, text: str) -> None:
    box.write(".protocols/policy.yaml", text)
    box.commit("policy")


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (
            [*WRITE, "path=migrations/1.sql"],
            4,
            "deny  deny: {tool: write_file, path: migrations/**}\n"
            "  at   .protocols/policy.yaml on main:14\n"
            "  why  migrations are written by people\n",
        ),
        (
            [*WRITE, '{"path": "infra/x", "content": ""}'],
            3,
            "ask  protected: infra/**\n  at   .protocols/policy.yaml on main:24\n  why  infra/x\n"
            "  from 1 of alice@example.test, bob@example.test (maintainer)\n",
        ),
        ([*WRITE, "path=src/a.py"], 0, "allow  default: workspace calls are allowed\n  at   built in\n"),
    ],
)
def test_it_says_what_would_happen_and_which_rule_says_so(box: Box, args: list[str], code: int, told: str) -> None:
    put(box, WHOLE)
    done = box.runner("policy", *args, rc=code)
    assert (done.out, done.err) == (told, "")


@pytest.mark.parametrize(
    ("args", "code", "rule"),
    [
        (["--path", "infra/a"], 3, "protected: infra/**"),
        (["--tool", "write_file", "--path", "migrations/x"], 4, "deny: {tool: write_file, path: migrations/**}"),
        (["--tool", "run", "--args", 'argv=["curl", "x"]'], 4, "deny: {program: [curl, wget], shell: false}"),
        (["--tool", "run", "--args", 'argv=["ls"]', "--effect", "external"], 3, "default: external calls ask"),
        (["--tool", "send_report"], 3, "ask: {tool: send_report}"),
        (["--tool", "mcp:docs/get", "--untrusted"], 0, "allow: {tool: mcp:docs/*, effect: external}"),
        (["--tool", "apply_patch", "--args", "patch=--- /dev/null\n+++ b/.github/x\n@@ -0,0 +1 @@\n+x\n"], 3, "protected: .github/**"),
        (["--command", "make x"], 0, "default: a step's command is its author's word"),
        (["--engine", "gemini:x"], 0, "default: any engine may be chosen"),
        (["--engine", "other:x", "--step", "a"], 4, "engines: {allow: …}"),
        (["--isolation", "container"], 4, "isolation: sandbox"),
        (["--step", "the-release"], 3, "ask: {step: *release*}"),
    ],
)  # fmt: skip
def test_everything_can_be_asked_about(box: Box, args: list[str], code: int, rule: str) -> None:
    put(box, WHOLE)
    assert box.runner("policy", "check", *args, rc=code).out.splitlines()[0].endswith(f"  {rule}")


def test_the_effects_that_config_yaml_declares_are_known(box: Box) -> None:
    box.write(".protocols/config.yaml", "tools: [{module: a.b, effects: {look: read, send: {external: never}}}]\n")
    box.commit("config")
    assert box.runner("policy", "check", "--tool", "look", rc=0).out.startswith("allow  default: read calls")
    told = box.runner("policy", "check", "--tool", "send", rc=3)
    assert "from you, at a terminal" in told.out and "is not a known tool" not in told.err
    assert "unheard is not a known tool" in box.runner("policy", "check", "--tool", "unheard", rc=3).err


@pytest.mark.parametrize(
    ("args", "what"),
    [
        ([], "error: one of --tool, --command"),
        (["--tool", "a", "--command", "b"], "error: one of --tool, --command"),
        (["--step", "a", "--args", "b=c"], "error: --args and --effect go with --tool"),
        (["--tool", "a", "--args", "b"], "error: `b` is not an argument"),
        (["--tool", "a", "--args", "{b"], "error: `{b` is not a JSON object"),
        (["--tool", "a", "--file", "nowhere.yaml"], "error: cannot be read: No such file"),
    ],
)
def test_what_is_asked_wrongly(box: Box, args: list[str], what: str) -> None:
    assert box.runner("policy", "check", *args, rc=2).err.splitlines()[-3].startswith(what)


def test_the_trusted_branch_s_policy_is_asked_and_the_folder_s_only_when_it_is_named(box: Box) -> None:
    assert "the defaults apply" in box.runner("policy", "check", "--tool", "git", rc=0).err
    assert "the defaults apply" in box.runner("policy", "test", rc=0).err
    put(box, WHOLE)
    box.write(".protocols/policy.yaml", WHOLE.replace("migrations/**", "db/**"))
    done = box.runner("policy", *WRITE, "path=db/x", rc=0)
    assert "here differs from main: this version takes effect once it is there" in done.err
    assert "at   .protocols/policy.yaml:14" in box.runner(
        "policy", *WRITE, "path=db/x", "--file", ".protocols/policy.yaml", rc=4
    ).out  # fmt: skip


def test_the_examples_are_run(box: Box, tmp_path: Path) -> None:
    put(box, WHOLE)
    told = box.runner("policy", "test", rc=0)
    assert told.out == "3 examples hold\n" and ".protocols/policy.yaml on main:14  note: other tools" in told.err
    box.write("p.yaml", WHOLE.replace("sql}}, expect: deny", "sql}}, expect: allow"))
    failed = box.runner("policy", "test", "--file", "p.yaml", rc=1).out.splitlines()
    assert failed[0] == 'p.yaml:33  does not hold  call of write_file {"path": "migrations/1.sql"}'
    assert failed[1].startswith("  expected allow, and it is deny: deny: {tool: write_file, path: migrations/**}")
    assert failed[2] == "1 of 3 examples do not hold"
    box.write("p.yaml", WHOLE.partition("examples:")[0])
    assert "p.yaml has no examples" in box.runner("policy", "test", "--file", "p.yaml", rc=0).err
    box.write("p.yaml", WHOLE.replace("rules:", "ruels:"))
    assert "did you mean `rules`?" in box.runner("policy", "test", "--file", "p.yaml", rc=2).err


def test_it_works_outside_a_repository_with_a_file(box: Box, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(WHOLE)
    assert box.runner("policy", "test", "-f", "p.yaml", cwd=tmp_path, rc=0).out == "3 examples hold\n"
    assert "not a git repository" in box.runner("policy", "test", cwd=tmp_path, rc=2).err


def test_the_template_holds_its_examples(box: Box) -> None:
    box.write("p.yaml", resources.for_people(resources.template("init/policy.yaml")).decode())
    told = box.runner("policy", "test", "--file", "p.yaml", rc=0)
    assert told.out.endswith(" examples hold\n") and told.err == ""


@pytest.mark.parametrize("tool", ["write_file", "edit_file", "read_file"])
def test_a_call_s_path_is_judged_where_the_links_of_the_checkout_lead(box: Box, tool: str) -> None:
    put(box, WHOLE.replace("deny: {tool: write_file, path", f"deny: {{tool: {tool}, path"))
    box.write("migrations/7.sql", "x\n")
    (box.path / "m").symlink_to("migrations")
    done = box.runner("policy", "check", "--tool", tool, "--args", "path=m/7.sql", rc=4)
    assert "deny" in done.out and "m/7.sql leads to migrations/7.sql here" in done.err
    (box.path / "out").symlink_to("/")
    box.runner("policy", "check", "--tool", tool, "--args", "path=src/app.py", rc=0)
    box.runner("policy", "check", "--tool", tool, "--args", "path=out/etc/passwd")
    box.runner("policy", "check", "--tool", tool, "--args", "path=../x", rc=4)


def test_approvals_of_a_merge_that_are_counted_and_not_required_are_named(box: Box) -> None:
    people = "roles: {lead: [a@example.test, b@example.test, c@example.test]}\n"
    repo = "repo: 0123456789abcdef0123456789abcdef\n"
    path, says = ".protocols/policy.yaml", "`approvals.merge` counts 2 approvals, and no merge waits for them"
    box.write(path, f"{repo}{people}approvals:\n  merge: {{count: 2}}\n")
    box.commit()
    told = box.runner("check", path, rc=2)
    assert says in told.out + told.err and f"{path}:4" in told.out + told.err
    assert says in box.runner("policy", "test", rc=0).err
    assert says in box.runner("doctor").out
    box.write(path, f"{repo}{people}approvals:\n  merge: {{count: 2, required: true}}\n")
    assert box.runner("check", path, rc=0)


def test_the_policy_that_git_fetched_is_the_one_that_is_asked(remote: Box) -> None:
    """Seen: pushed and fetched, and still the answer of the policy before."""
    put(remote, "repo: " + "6f0c" * 8 + "\n")
    remote.git("push", "-q", "origin", "main")
    remote.runner("policy", *WRITE, "path=src/a.py", "--live", rc=0)
    put(
        remote,
        "repo: " + "6f0c" * 8 + "\nrules:\n  - {deny: {tool: write_file}, reason: never}\n",
    )
    remote.git("push", "-q", "origin", "main")
    remote.git("fetch", "-q")
    told = remote.runner("policy", *WRITE, "path=src/a.py", rc=4)
    assert "as last fetched by git" in told.err
