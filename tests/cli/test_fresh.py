"""How old what is read of the trusted branch may be: `new` and `do` fetch as `run` does, `policy check` says its age."""

from __future__ import annotations

import pytest

from tests.conftest import Box, clone

WORKFLOW = {
    "plan.md": "---\ntitle: Bump\n---\n",
    "01-a.md": "---\ntitle: a\nkind: command\nrun: 'true'\n---\n",
}
COWORKER = "name: coder\ndescription: d\nobjective: o\ninstructions: i\n"


def behind(remote: Box) -> Box:
    """A clone that has looked at the trusted branch, which others moved since."""
    other = clone(remote, "bob")
    other.runner("new", "First", "--manual", rc=0)
    for name, text in WORKFLOW.items():
        remote.write(f".protocols/workflows/bump/{name}", text)
    remote.write(".protocols/agents/coder.yaml", COWORKER)
    remote.write(".protocols/policy.yaml", f"repo: {'6' * 32}\nrules:\n  - deny: {{tool: shell}}\n")
    remote.commit("rules")
    remote.git("push", "-q", "origin", "main")
    return other


def test_new_knows_a_workflow_that_was_pushed_since(remote: Box) -> None:
    other = behind(remote)
    made = other.runner("new", "--workflow", "bump", rc=0).out.strip()
    assert other.git("rev-parse", f"{made}^").strip() == remote.git("rev-parse", "main").strip()


def test_do_knows_a_coworker_that_was_pushed_since(remote: Box) -> None:
    other = behind(remote)
    (other.path / "c.yaml").write_text(COWORKER)
    told = other.runner("do", "Say hello", "-f", "c.yaml", "--engine", "recorded:/nonexistent").err
    assert "not on the trusted branch" not in told and "recording" in told


def test_do_knows_a_workflow_that_was_pushed_since(remote: Box) -> None:
    assert "0002-bump" in behind(remote).runner("do", "--workflow", "bump", rc=0).out


def test_a_remote_that_is_away_is_said_and_the_last_seen_serves(remote: Box) -> None:
    other = behind(remote)
    origin = remote.path.parent / "origin.git"
    origin.rename(origin.with_suffix(".away"))
    told = other.runner("new", "--workflow", "bump", rc=2).err
    assert "could not be reached" in told and "main of origin, as of" in told
    assert "could not be reached" in other.runner("new", "Second", "--manual", rc=0).err


@pytest.mark.parametrize("verb", ["check", "test"])
def test_the_policy_is_said_to_be_as_old_as_it_is_and_how_to_ask_for_the_newest(remote: Box, verb: str) -> None:
    other = behind(remote)
    words = ("policy", verb, *(("--tool", "shell") if verb == "check" else ()))
    told = other.runner(*words).err
    assert "main of origin as of " in told and f" ago; `runner policy {verb} --live` fetches it first" in told
    other.write(".protocols/policy.yaml", "roles: {}\n")
    told = other.runner(*words).err
    differs = "policy.yaml here differs from main: this version takes effect once it is there"
    assert f"{differs}; `--file {other.path}/.protocols/policy.yaml` uses it now" in told
    told = other.runner(*words, "--live", rc=4 if verb == "check" else 0).err
    assert " ago" not in told
    assert "main of origin as of" in other.runner(*words, rc=4 if verb == "check" else 0).err


def test_a_policy_of_a_local_branch_or_of_a_file_has_no_age(box: Box) -> None:
    assert "ago" not in box.runner("policy", "check", "--tool", "shell").err
    box.write("p.yaml", f"repo: {'6' * 32}\n")
    assert "ago" not in box.runner("policy", "check", "--tool", "shell", "-f", "p.yaml").err


def test_live_without_an_answer_is_refused(remote: Box) -> None:
    other = behind(remote)
    origin = remote.path.parent / "origin.git"
    origin.rename(origin.with_suffix(".away"))
    assert "could not be reached" in other.runner("policy", "check", "--tool", "shell", "--live", rc=69).err
