"""The workflows that `runner init` writes for GitHub, executed: each `run:` block, with the environment that GitHub gives."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runner.app import scaffold
from runner.executor import advance as advance_
from runner.protocol import events as ev
from runner.store.snapshot import Snapshot
from tests.ci.actions import Machine, Ran, load
from tests.conftest import JOBS, Box, clone, command
from tests.people import REPO

CANARY = "canary-model-key-1234"
HOSTILE = [
    '0001-x";echo${IFS}PWNED>pwned;"',
    "0001-x$(touch${IFS}pwned)",
    "0001-x`touch${IFS}pwned`",
    "0001-a|touch${IFS}pwned",
    "--help",
    "0001-x/../0002-y",
    "0001-X",
    "::set-output-0001-a",
    "x",
]


@pytest.fixture
def github(remote: Box) -> Box:
    """A repository that was set up for GitHub, its default branch pushed. No forge is asked: there is none here."""
    remote.runner("init", "--ci", "--yes", "--forge", "github https://github.com/o/r", env=JOBS, rc=0)
    settings = remote.path / ".protocols/config.yaml"
    settings.write_text(settings.read_text().replace("forge: github https://github.com/o/r\n", "# forge: none\n"))
    (remote.path / ".protocols/policy.yaml").unlink()  # whose word counts is told elsewhere
    remote.write("scripts/ci/test.sh", "#!/bin/sh\necho '::set-output name=x::y'; test ! -e broken\n")
    (remote.path / "scripts/ci/test.sh").chmod(0o755)
    remote.commit("set up")
    remote.git("push", "-q", "origin", "main")
    return remote


def machine(box: Box, tmp_path: Path, name: str = "workflow_dispatch", **event: Any) -> Machine:
    folder = tmp_path / "machines"
    folder.mkdir(exist_ok=True)
    return Machine(box, folder, event, name, secrets={"GEMINI_API_KEY": CANARY})


def advance(one: Machine) -> list[dict[str, Ran]]:
    """Run protocol-advance as GitHub would: find, then work and publish for each protocol."""
    found = one.job("protocol-advance", "find")
    assert found.result == "success", found.printed
    every = []
    for protocol in [entry["protocol"] for entry in json.loads(found.outputs["matrix"])["include"]]:
        work = one.job("protocol-advance", "work", needs={"find": found}, protocol=protocol)
        done = one.job("protocol-advance", "publish", needs={"find": found, "work": work}, protocol=protocol)
        every.append({"find": found, "work": work, "publish": done})
    return every


def there(box: Box, protocol: str) -> dict[str, Any]:
    """state.json of the protocol as the remote has it."""
    bare = box.path.parent / "origin.git"
    read: dict[str, Any] = json.loads(box.git("show", f"{protocol}:.protocols/{protocol}/state.json", cwd=bare))
    return read


@pytest.mark.slow
def test_a_protocol_advances_by_itself_till_it_is_done(github: Box, tmp_path: Path) -> None:
    names = ("01-a", "02-b", "03-c")
    protocol = github.new({name: command(f"echo {name} > {name}.txt") for name in names})
    github.runner("sync", protocol, rc=0)
    one = machine(github, tmp_path)
    one.inputs = {"protocol": protocol}
    one.variables, rounds = {"RUNNER_MAX_STEPS": "2"}, 0
    while there(github, protocol)["status"] != "completed":
        rounds += 1
        (job,) = advance(one)
        assert {ran.result for ran in job.values()} == {"success"}, [ran.printed for ran in job.values()]
        nexts = [call for call in one.asked if "protocol-advance.yml" in call]
        assert len(nexts) == rounds or there(github, protocol)["status"] == "completed"
    assert rounds > 1 and there(github, protocol)["status"] == "completed"
    assert nexts == [
        ["workflow", "run", "protocol-advance.yml", "--ref", "main", "--field", f"protocol={protocol}"]
    ] * (rounds - 1)
    assert ["workflow", "run", "protocol-qa.yml", "--ref", protocol] in one.asked
    printed = "".join(ran.printed for ran in job.values())
    assert CANARY not in printed and "canary-job-token" not in printed
    assert not advance(one)  # nothing is left to do


@pytest.mark.slow
def test_branches_may_be_called_otherwise(github: Box, tmp_path: Path) -> None:
    settings = github.path / ".protocols/config.yaml"
    settings.write_text(settings.read_text().replace('# branch: "{id}"', 'branch: "agents/x/{id}"'))
    github.commit("pattern")
    github.git("push", "-q", "origin", "main")
    protocol = github.new({"01-a": command("true")})
    branch = f"agents/x/{protocol}"
    github.runner("sync", protocol, rc=0)
    (job,) = advance(machine(github, tmp_path))
    assert {ran.result for ran in job.values()} == {"success"}, [ran.printed for ran in job.values()]
    github.git("fetch", "-q", "origin")
    state = github.git("show", f"origin/{branch}:.protocols/{protocol}/state.json")
    assert json.loads(state)["status"] == "completed"
    one = machine(github, tmp_path, "pull_request", pull_request=request(github, branch))
    assert "verified" in one.job("protocol-verify", "verify").printed
    assert one.job("protocol-events", "tell").result == "success" and one.asked[-1][-1] == f"protocol={protocol}"


@pytest.mark.slow
def test_what_waits_and_what_failed_is_published_too(github: Box, tmp_path: Path) -> None:
    waits = github.new({"01-a": command("true"), "02-b": "kind: human\n"})
    fails = github.new({"01-a": command("exit 3")})
    github.runner("sync", rc=0)
    for job in advance(machine(github, tmp_path, "schedule")):
        assert {ran.result for ran in job.values()} == {"success"}, [ran.printed for ran in job.values()]
    assert there(github, waits)["waiting"] and there(github, fails)["status"] == "failed"


@pytest.mark.slow
def test_the_job_that_a_model_works_in_publishes_nothing(github: Box, tmp_path: Path) -> None:
    protocol = github.new({"01-a": command("env > env.txt")})
    github.runner("sync", protocol, rc=0)
    before = github.git("ls-remote", "origin")
    one = machine(github, tmp_path)
    one.inputs = {"protocol": protocol}
    found = one.job("protocol-advance", "find")
    work = one.job("protocol-advance", "work", needs={"find": found}, protocol=protocol)
    assert work.result == "success" and github.git("ls-remote", "origin") == before
    one.job("protocol-advance", "publish", needs={"find": found, "work": work}, protocol=protocol)
    seen = github.git("show", f"{protocol}:env.txt", cwd=tmp_path / "origin.git")
    assert "canary" not in seen and "GITHUB_" not in seen
    jobs = one.workflow("protocol-advance")["jobs"]
    assert set(jobs["work"]["permissions"].values()) == {"read"}
    assert "GEMINI_API_KEY" not in json.dumps([jobs["find"], jobs["publish"]])


@pytest.mark.slow
@pytest.mark.no_agreement("a forged branch is made on purpose")
def test_a_bundle_that_is_not_what_its_history_says_is_not_published(github: Box, tmp_path: Path) -> None:
    protocol = github.new({"01-a": command("true"), "02-b": command("true")})
    github.runner("sync", protocol, rc=0)
    one = machine(github, tmp_path)
    one.inputs = {"protocol": protocol}
    found = one.job("protocol-advance", "find")
    work = one.job("protocol-advance", "work", needs={"find": found}, protocol=protocol)
    before = github.git("ls-remote", "origin")
    # What a job that was taken over could hand over: a record that says more than happened, and a changed default branch.
    forge = tmp_path / "forge"
    github.git("clone", "-q", tmp_path / "origin.git", forge, cwd=tmp_path)
    github.git("switch", "-q", protocol, cwd=forge)
    state = forge / f".protocols/{protocol}/state.json"
    state.write_text(state.read_text().replace('"pending"', '"completed"').replace('"planned"', '"completed"'))
    github.git("commit", "-qam", "forged", cwd=forge)
    github.git("update-ref", "refs/heads/main", "HEAD", cwd=forge)
    bundle = tmp_path / f"machines/artifacts/handover-{protocol}/{protocol}.bundle"
    github.git("bundle", "create", "-q", bundle, f"refs/heads/{protocol}", "refs/heads/main", cwd=forge)
    done = one.job("protocol-advance", "publish", needs={"find": found, "work": work}, protocol=protocol)
    assert done.result == "failure" and "does not verify" in done.printed
    assert github.git("ls-remote", "origin") == before and one.asked == []


POLICY = f"""repo: {REPO}
roles:
  maintainer: [bob@example.test]
forge: {{github.com: {{bob@example.test: 7}}}}
approvals:
  step: {{roles: [maintainer]}}
"""


@pytest.mark.parametrize("what", ["a person's commit", "an answer", "a review", "a cancelled step"])
@pytest.mark.slow
def test_a_bundle_that_tells_what_people_said_or_did_is_not_published(github: Box, tmp_path: Path, what: str) -> None:
    if what == "a review":
        github.write(".protocols/policy.yaml", POLICY)
        github.commit("policy")
        github.git("push", "-q", "origin", "main")
    step = (
        "kind: human\n"
        if what == "an answer"
        else command("true") + ("approval: before\n" if what == "a review" else "")
    )
    protocol = github.new({"01-a": step, "02-b": "kind: human\n"})
    github.runner("run", protocol)
    github.runner("sync", protocol, rc=0)
    # What a job that was taken over could hand over, and every verifier holds for good: nobody signs an answer, or code.
    other = clone(github, "forge")
    other.git("branch", "-q", protocol, f"origin/{protocol}")
    if what == "an answer":
        other.runner("answer", protocol, "yes, do it", rc=0)
    elif what == "a review":
        tip = other.git("rev-parse", protocol).strip()
        one = ev.ReviewFields(host="github.com", user=7, request=1, review="1", commit=tip)

        def build(seen: Snapshot) -> list[ev.Event]:
            wait, by = seen.state.waiting[0].id, ["bob@example.test"]
            return [ev.ApprovalCounted(subject="a", wait=wait, approvals=[], by=by, reviews=[one])]

        with other.session() as session:
            advance_.record_events(session, protocol, build)
    elif what == "a cancelled step":
        with other.session() as session:
            gone = [ev.StepCancelled(subject="b", reason="x"), ev.Cancelled(subject=protocol)]
            advance_.record_events(session, protocol, lambda seen: gone)
    else:
        other.git("switch", "-q", protocol)
        other.write(".github/workflows/evil.yml", "on: push\n")
        other.git("add", "-A")
        other.git("commit", "-qm", "Tidy up\n\nRunner-Protocol", "--author", "Alice <alice@example.test>")
    other.runner("verify", protocol, rc=0)
    one_ = machine(github, tmp_path)
    one_.inputs = {"protocol": protocol}
    folder = tmp_path / f"machines/artifacts/handover-{protocol}"
    folder.mkdir(parents=True)
    other.git("bundle", "create", "-q", folder / f"{protocol}.bundle", f"refs/heads/{protocol}")
    before = github.git("ls-remote", "origin")
    found = Ran("success", {"matrix": json.dumps({"include": [{"protocol": protocol}]})})
    done = one_.job("protocol-advance", "publish", needs={"find": found, "work": found}, protocol=protocol)
    assert done.result == "failure" and "only a person" in done.printed, done.printed
    assert github.git("ls-remote", "origin") == before and one_.asked == []


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.slow
def test_hostile_names_are_words_and_nothing_else(github: Box, tmp_path: Path, name: str) -> None:
    one = machine(github, tmp_path)
    one.inputs = {"protocol": name}
    if name != "x":
        assert one.job("protocol-advance", "find").result == "failure"
    pushed = machine(github, tmp_path, "push")
    pushed.ref_name = name
    assert pushed.job("protocol-events", "tell").result == "success"
    request = {
        "head": {"ref": name, "sha": github.git("rev-parse", "HEAD").strip()},
        "number": 5,
        "title": f"{name} $(touch pwned)",
    }
    request["base"] = {"sha": github.git("rev-parse", "HEAD").strip()}
    asked = machine(github, tmp_path, "pull_request", pull_request=request)
    assert asked.job("protocol-verify", "verify").result == "success"
    assert asked.job("protocol-events", "tell").result == "success"
    for call in asked.asked:
        assert re.fullmatch("protocol=[0-9]{4,9}(-[a-z0-9]+)+", call[-1]), call
    assert not list(tmp_path.rglob("pwned"))


def test_a_comment_is_looked_up_and_not_believed(github: Box, tmp_path: Path) -> None:
    comment = {"issue": {"number": 5, "pull_request": {}}, "comment": {"body": "/runner retry $(touch pwned)"}}
    one = machine(github, tmp_path, "issue_comment", **comment)
    one.event["issue"]["pull_request"] = {"url": "x"}
    one.event["sender"] = {"login": "alice"}
    (one.folder / "gh.answer").write_text("0001-a\n")
    for rights in ("read", "none", "", None):  # a stranger's comment starts no work that somebody pays for
        if rights is not None:
            (one.folder / "gh.permission").write_text(rights)
        else:
            (one.folder / "gh.permission").unlink()
        assert one.job("protocol-events", "tell").result == "success"
        assert one.asked.pop()[:2] == ["api", "repos/o/r/collaborators/alice/permission"]
        assert not [call for call in one.asked if "workflow" in call]
    (one.folder / "gh.log").unlink()
    (one.folder / "gh.permission").write_text("write\n")
    assert one.job("protocol-events", "tell").result == "success"
    assert one.asked[1][:3] == ["pr", "view", "5"] and one.asked[2][-1] == "protocol=0001-a"
    for body, issue in (("hello", {"number": 5, "pull_request": {"url": "x"}}), ("/runner retry", {"number": 5})):
        other = machine(github, tmp_path, "issue_comment", issue=issue, comment={"body": body})
        assert other.job("protocol-events", "tell").result == "skipped"
    assert not list(tmp_path.rglob("pwned"))


def request(box: Box, branch: str) -> dict[str, Any]:
    """A request from a branch of the repository."""
    head = {"ref": branch, "sha": box.git("rev-parse", f"origin/{branch}").strip()}
    return {"head": head, "base": {"sha": box.git("rev-parse", "origin/main").strip()}, "number": 5}


@pytest.mark.slow
@pytest.mark.no_agreement("a forged branch is made on purpose")
def test_the_required_check(github: Box, tmp_path: Path) -> None:
    protocol = github.new({"01-a": command("echo a > a.txt")})
    github.runner("run", protocol, "--publish", "always", rc=0)
    good = machine(github, tmp_path, "pull_request", pull_request=request(github, protocol)).job(
        "protocol-verify", "verify"
    )
    assert good.result == "success" and "verified" in good.printed, good.printed
    # Another branch that changes this record, and the protocol's own with a record that was edited.
    github.git("switch", "-qc", "fix", f"origin/{protocol}")
    state = github.path / f".protocols/{protocol}/state.json"
    state.write_text(state.read_text().replace('"seconds": 0', '"seconds": 9'))
    github.git("commit", "-qam", "edited")
    # A file whose name git quotes, and a link in the place of a folder, are changes of a record too.
    for name, target in (("odd", f"{protocol}/é.md"), ("link", "0077-link")):
        github.git("switch", "-qc", name, f"origin/{protocol}")
        (github.path / ".protocols" / target).symlink_to("x")
        github.git("add", ".protocols")
        github.git("commit", "-qm", name)
        github.git("push", "-q", "origin", name)
        one = machine(github, tmp_path, "pull_request", pull_request=request(github, name))
        bad = one.job("protocol-verify", "verify")
        assert bad.result == "failure" and "changed outside its own branch" in bad.printed, bad.printed
    github.git("switch", "-q", "fix")
    # Branches that are called nearly as the protocol's is: one is found before it, by those who look for names.
    github.git("push", "-q", "origin", "fix", f"fix:refs/heads/x/{protocol}", f"fix:refs/heads/0/{protocol}")
    for branch, said in (("fix", "changed outside its own branch"), (f"x/{protocol}", "error")):
        one = machine(github, tmp_path, "pull_request", pull_request=request(github, branch))
        bad = one.job("protocol-verify", "verify")
        assert bad.result == "failure" and said in bad.printed, bad.printed
    github.git("push", "-q", "origin", f"fix:{protocol}")
    bad = machine(github, tmp_path, "pull_request", pull_request=request(github, protocol)).job(
        "protocol-verify", "verify"
    )
    assert bad.result == "failure" and "does not verify" in bad.printed


@pytest.mark.slow
@pytest.mark.no_agreement("a branch that edits another's record is made on purpose")
def test_the_required_check_of_a_fork_of_what_went_on_since(github: Box, tmp_path: Path) -> None:
    protocol = github.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    github.runner("run", protocol, "--publish", "always", rc=0)
    at = protocol
    for revision, title in ((4, "One"), (2, "Two")):  # the second is a fork of the first
        at = github.runner("fork", f"{at}@{revision}", "--title", title, rc=0).out.strip()
        github.runner("run", at, "--publish", "always", rc=0)
        one = machine(github, tmp_path, "pull_request", pull_request=request(github, at))
        good = one.job("protocol-verify", "verify")
        assert good.result == "success" and "verified" in good.printed, good.printed
    # The other's record, edited on the fork's branch, with messages that make it look like what the fork stands on.
    tree = github.worktree(at)
    state = tree / f".protocols/{protocol}/state.json"
    state.write_text(state.read_text().replace('"seconds": 0', '"seconds": 9'))
    said = github.git("log", "-1", "--format=%B", protocol)  # a transition, by its trailers
    github.git("commit", "-qam", said, cwd=tree)
    again = f"x\n\nRunner-Event: created {at}\nRunner-Event: forked plan\n\n{said[said.index('Runner-Protocol') :]}"
    github.git("commit", "-q", "--allow-empty", "-m", again, cwd=tree)
    github.git("push", "-q", "origin", at)
    one = machine(github, tmp_path, "pull_request", pull_request=request(github, at))
    bad = one.job("protocol-verify", "verify")
    assert bad.result == "failure" and f"the record of {protocol} is changed outside its own branch" in bad.printed


def test_each_commit_of_a_request_is_tested_whatever_earlier_code_of_it_left(github: Box, tmp_path: Path) -> None:
    """Code of a request could write into a cache that code to come was tested; so no cache says what is green."""
    one = machine(github, tmp_path, "pull_request", pull_request=request(github, "main"))
    qa = one.job("protocol-qa", "qa")
    assert qa.result == "success", qa.printed
    # What tests print is between `::stop-commands::TOKEN` and `::TOKEN::`.
    token = re.search(r"^::stop-commands::([0-9a-f]{32})$", qa.printed, re.MULTILINE)
    assert token and qa.printed.index("::set-output") < qa.printed.index(f"::{token[1]}::")
    github.write("broken", "x\n")
    github.commit("code")
    github.git("push", "-q", "origin", "main")
    code = hashlib.sha256(github.git("ls-tree", "-r", "HEAD").encode()).hexdigest()[:40]
    one.cached.add(f"protocol-qa-{code}")  # as it was once looked up
    one.event["pull_request"] = request(github, "main")
    qa = one.job("protocol-qa", "qa")
    assert qa.result == "failure" and "== test failed" in qa.printed and "test" in scaffold.HOOKS


@pytest.mark.parametrize(("result", "state"), [("success", "success"), ("failure", "failure"), ("skipped", "failure")])
def test_a_status_says_success_of_what_was_tested_alone(github: Box, result: str, state: str) -> None:
    report = load(github.path / ".github/workflows/protocol-qa.yml")["jobs"]["report"]
    script = report["steps"][-1]["run"].replace("scripts/ci/report.sh", "echo")
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": os.environ["PATH"], "RESULT": result}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == f"{state}\n", done.stderr
    assert report["steps"][-1]["env"]["CI_COMMIT"] == "${{ github.sha }}"
