"""Setting up, and making protocols: from a folder, a workflow, by hand; templates are instantiated and run."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runner import resources
from runner.forge.registry import FORGES
from runner.protocol import plans
from tests.conftest import JOBS, Box, command, make_box

ADD = ("--input", "text=hello", "--input", "a=2", "--input", "b=3")
CONFIG = ".protocols/config.yaml"
# What `init` writes where nothing is known of forge and stack, in git's order.
SHARED = [f".protocols/{name}" for name in (".gitattributes", "clarifications.yaml", "config.yaml", "policy.yaml")]


def everything(box: Box) -> tuple[str, str, list[str]]:
    """The refs, what git says of the checkout, and the files that are there."""
    files = sorted(str(path.relative_to(box.path)) for path in box.path.rglob("*") if ".git" not in path.parts)
    return box.git("for-each-ref"), box.git("status", "--porcelain"), files


def results(box: Box, protocol: str) -> dict[str, object]:
    return {slug: step["result"] for slug, step in box.state(protocol)["steps"].items()}


# --- workflows -------------------------------------------------------------------------------------------------------------


def test_the_built_in_workflow_runs_in_any_repository(box: Box) -> None:
    done = box.runner("do", "--workflow", "echo-add", *ADD, rc=0)
    protocol = done.out.splitlines()[-1]
    assert protocol == "0001-echo-and-add"
    assert box.state(protocol)["status"] == "completed"
    assert results(box, protocol) == {"echo": {"text": "hello"}, "add": {"sum": 5}}
    box.runner("verify", protocol, rc=0)
    assert box.git("status", "--porcelain") == ""


def test_new_makes_it_and_run_goes_on(box: Box) -> None:
    made = box.runner("new", "My own title", "--workflow", "echo-add", *ADD[:4], "--input", "b=0.5", rc=0)
    assert made.out == "0001-my-own-title\n"
    plan_file = box.git("show", f"0001-my-own-title:.protocols/{made.out.strip()}/plan.md")
    assert "schema" not in plan_file and "type:" not in plan_file and 'text: "hello"' in plan_file
    box.runner("run", made.out.strip(), rc=0)
    assert results(box, made.out.strip())["add"] == {"sum": 2.5}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--workflow", "echo-ad", *ADD), "did you mean echo-add?"),
        (("--workflow", "zzz", *ADD), "there is bugfix, docs, echo-add, feature"),
        (("--workflow", "../workflows/echo-add", *ADD), "there is no workflow"),
        (("--workflow", "echo-add", *ADD[:4]), "`b` must be given"),
        (("--workflow", "echo-add", *ADD, "--input", "c=1"), "there is no input `c`"),
        (("--workflow", "echo-add", *ADD, "--input", "a=1"), "`a` is given twice"),
        (("--workflow", "echo-add", *ADD[:4], "--input", "b=three"), "should be a number"),
        (("--workflow", "echo-add", *ADD[:4], "--input", "b"), "NAME=VALUE"),
        (("--workflow", "echo-add", *ADD[2:], "--input", "text=a\x07b"), "control"),
    ],
)
@pytest.mark.parametrize("verb", ["do", "new"])
def test_a_workflow_that_cannot_be_made_is_refused_and_changes_nothing(
    box: Box, verb: str, args: tuple[str, ...], says: str
) -> None:
    before = everything(box)
    refused = box.runner(verb, *args, rc=2)
    assert says in refused.err and refused.out == ""
    assert everything(box) == before


def write_workflow(box: Box, name: str, run: str) -> None:
    folder = f".protocols/workflows/{name}"
    box.write(f"{folder}/plan.md", "---\ntitle: Ours\ninputs:\n  word: {type: string, default: hi}\n---\nProse.\n")
    box.write(f"{folder}/01-say.md", f"---\ntitle: Say\n{command(run)}---\nSay it.\n")
    box.write(f"{folder}/notes.txt", "not a part of it\n")


def test_a_workflow_of_the_trusted_branch_goes_before_a_built_in_one(box: Box) -> None:
    write_workflow(box, "echo-add", 'echo "$RUNNER_INPUT_WORD" > said.txt')
    box.commit("a workflow of ours")
    protocol = box.runner("do", "--workflow", "echo-add", "--input", "word=ours", rc=0).out.strip()
    assert protocol == "0001-ours" and box.git("show", f"{protocol}:said.txt") == "ours\n"
    assert "notes.txt" not in box.git("ls-tree", "-r", "--name-only", protocol, f".protocols/{protocol}/")


def test_a_workflow_of_another_branch_does_not_exist(box: Box) -> None:
    box.git("switch", "-qc", "agent")
    write_workflow(box, "deploy", "true")
    box.commit("a workflow of an agent's")
    told = box.runner("new", "--workflow", "deploy", rc=2).err
    assert "there is no workflow `deploy`" in told and "next: there is bugfix, docs, " in told
    box.git("switch", "-q", "main")
    write_workflow(box, "deploy", "true")  # nor does one that is in no commit
    assert "there is no workflow `deploy`" in box.runner("new", "--workflow", "deploy", rc=2).err


def test_a_workflow_with_a_link_in_it_is_refused(box: Box) -> None:
    write_workflow(box, "ours", "true")
    (box.path / ".protocols/workflows/ours/02-link.md").symlink_to("/etc/passwd")
    box.commit("a link")
    assert "02-link.md is not a plain file" in box.runner("new", "--workflow", "ours", rc=2).err


def test_do_exits_as_run_does_and_still_gives_the_id(box: Box) -> None:
    write_workflow(box, "fails", "exit 3")
    box.commit("one that fails")
    failed = box.runner("do", "--workflow", "fails", rc=1)
    assert failed.out.splitlines()[-1] == "0001-ours"
    assert box.state("0001-ours")["status"] == "failed"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((" ",), "TEXT is empty"),
        (("-f", "coworker.yaml", "text"), "cannot be read"),
        (("-f", "README.md", "text"), "README.md:1"),
        (("text", "--input", "a=1"), "--input goes with --workflow"),
        ((), "--workflow NAME"),
    ],
)
def test_what_cannot_be_done_is_refused_and_makes_nothing(box: Box, args: tuple[str, ...], says: str) -> None:
    before = everything(box)
    assert says in box.runner("do", *args, rc=2).err
    assert everything(box) == before


# --- new -----------------------------------------------------------------------------------------------------------------


def test_a_plan_comes_from_one_place(box: Box) -> None:
    assert "give a title" in box.runner("new", rc=2).err
    box.runner("new", "A task", "--manual", "--workflow", "echo-add", rc=2)
    box.runner("new", "A task", "--manual", "--input", "a=1", rc=2)
    box.runner("new", "--manual", rc=2)
    assert everything(box)[0].count("\n") == 1


@pytest.mark.parametrize(
    ("title", "protocol"),
    [
        ("Rate limit the API", "0001-rate-limit-the-api"),
        ('Quotes " and: # colons \\ 🎉', "0001-quotes-and-colons"),
        ("日本語", "0001-task"),
        ("...", "0001-task"),
        ("null", "0001-null"),
    ],
)
def test_manual_begins_with_a_step_that_a_person_does(box: Box, title: str, protocol: str) -> None:
    made = box.runner("new", title, "--manual", rc=0)
    assert made.out == f"{protocol}\n" and "nothing was pushed" in made.err
    assert box.state(protocol)["title"] == title
    folder = box.worktree(protocol) / f".protocols/{protocol}"
    assert sorted(path.name for path in folder.glob("*.md")) == ["01-first.md", "log.md", "plan.md"]
    assert box.git("status", "--porcelain") == ""
    box.runner("verify", protocol, rc=0)
    assert "first" in box.runner("run", protocol, rc=3).err  # it waits for the person


def test_a_manual_plan_is_edited_and_run(box: Box) -> None:
    protocol = box.runner("new", "By hand", "--manual", rc=0).out.strip()
    folder = box.worktree(protocol) / f".protocols/{protocol}"
    (folder / "01-first.md").write_text(f"---\ntitle: First\n{command('echo x > x.txt')}---\nDo it.\n")
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:x.txt") == "x\n"


def test_a_title_that_is_no_title_is_refused(box: Box) -> None:
    before = everything(box)
    for title in ("two\nlines", "bidi \u202e", "x" * 201):
        box.runner("new", title, "--manual", rc=2)
    assert everything(box) == before


def test_the_plans_title_names_it_where_none_is_given(box: Box) -> None:
    folder = box.plan({"01-a": command("true")}, title="Out of the plan")
    assert box.runner("new", "--plan", folder, rc=0).out == "0001-out-of-the-plan\n"
    assert box.runner("new", "Another name", "--plan", folder, rc=0).out == "0002-another-name\n"
    assert box.runner("-C", box.path, "new", "--plan", "../plan", cwd=box.home, rc=0).out == "0003-out-of-the-plan\n"
    assert "there is no folder" in box.runner("new", "--plan", "nowhere", rc=2).err


def test_base_says_where_it_starts(box: Box) -> None:
    box.git("branch", "-q", "prod")
    box.commit("main goes on")
    protocol = box.runner("new", "On prod", "--manual", "--base", "prod", rc=0).out.strip()
    assert box.state(protocol)["base"] == "prod"
    assert box.git("merge-base", "main", protocol) == box.git("rev-parse", "prod")
    assert "no branch `nowhere`" in box.runner("new", "x", "--manual", "--base", "nowhere", rc=2).err


# --- the templates ---------------------------------------------------------------------------------------------------------


def templates() -> list[Path]:
    root = resources.template(".")
    ours = (
        path
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".gitattributes" and path.name not in ("README.md", "gitattributes")
    )
    return sorted(path for path in ours if not {"audit", "ci", *FORGES} & set(path.relative_to(root).parts))


@pytest.mark.parametrize("path", templates(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_template_names_the_schema_of_its_kind(path: Path) -> None:
    kind = path.stem if path.suffix == ".yaml" else "step" if path.name != "plan.md" else "plan"
    if path.name == "plan.md" and path.parent.parent.name == "workflows":
        kind = "workflow"
    named = re.search(r"^# yaml-language-server: \$schema=(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert named and (path.parent / named[1]).read_bytes() == resources.schema(kind)


def test_what_is_written_for_people_names_no_schema_that_is_not_there(box: Box) -> None:
    box.runner("init", "--yes", rc=0)
    box.runner("new", "By hand", "--manual", rc=0)
    box.runner("new", "--workflow", "echo-add", *ADD, rc=0)
    assert "yaml-language-server" not in (box.path / ".protocols/config.yaml").read_text()
    assert box.git("grep", "-l", "yaml-language-server", "0001-by-hand", "0002-echo-and-add", check=False) == ""


def test_the_manual_template_is_a_valid_plan() -> None:
    files = {path.name: path.read_bytes() for path in resources.template("manual").iterdir()}
    told = plans.parse(files, "templates/manual")
    plans.refuse_unsupported(told, "templates/manual")
    assert [step.slug for step in told.steps] == ["first"]


def test_the_examples_in_the_config_template_are_valid(box: Box) -> None:
    """Each commented key, taken out of its comment, is one that config.yaml knows."""
    lines = resources.template("init/config.yaml").read_text(encoding="utf-8").splitlines()
    begins = ("# base", "# branch", "# publish", "# executor", "# identity", "# workspace:", "# tools:", "#   ")
    text = "\n".join(line.removeprefix("# ") for line in lines if line.startswith(begins))
    assert text.count(":") > 10
    box.write(".protocols/config.yaml", text + "\n")
    box.commit("all keys")
    found = box.runner("doctor", "--config", "--json", rc=0).json()["config"]
    assert sum(one["source"] == ".protocols/config.yaml" for one in found) >= 9


# --- init ----------------------------------------------------------------------------------------------------------------


def test_init_writes_what_is_shared_and_again_changes_nothing(box: Box) -> None:
    told = box.runner("init", rc=0)
    assert sorted(told.out.splitlines()) == [f"wrote  {path}" for path in SHARED] and "--commit" in told.err
    assert box.git("status", "--porcelain", "-uall").split() == [word for path in SHARED for word in ("??", path)]
    before = everything(box), {path: (box.path / path).stat().st_mtime_ns for path in SHARED}
    assert sorted(box.runner("init", rc=0).out.splitlines()) == [f"kept   {path}" for path in SHARED]
    assert (everything(box), {path: (box.path / path).stat().st_mtime_ns for path in SHARED}) == before
    box.runner("doctor", rc=0)


def at_a_terminal(box: Box, answer: str, *args: str) -> tuple[int, str]:
    """Run the command line where a person sits, who types `answer`; return (exit code, what they saw)."""
    ours, theirs = pty.openpty()
    env = {**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-m", "runner", *args]
    with subprocess.Popen(argv, cwd=box.path, env=env, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs) as child:
        os.write(ours, answer.encode())
        code = child.wait()
    os.close(theirs)
    seen = os.read(ours, 65536).decode()
    os.close(ours)
    return code, seen


@pytest.mark.slow
def test_at_a_terminal_init_and_clean_ask_first(box: Box) -> None:
    code, seen = at_a_terminal(box, "n\n", "init")
    assert code == 0 and "  .protocols/config.yaml" in seen and "Write these?" in seen and "nothing was written" in seen
    assert not (box.path / ".protocols").exists()
    assert "Write" not in at_a_terminal(box, "", "init", "--yes")[1] and (box.path / ".protocols").is_dir()
    protocol = box.runner("do", "--workflow", "echo-add", *ADD, rc=0).out.strip()
    folder = box.worktree(protocol)
    code, seen = at_a_terminal(box, "n\n", "clean", protocol)
    assert code == 0 and str(folder) in seen and "nothing was removed" in seen and folder.is_dir()
    assert at_a_terminal(box, "y\n", "clean", protocol)[0] == 0 and not folder.exists()


def test_init_commits_exactly_its_files_as_the_person(box: Box) -> None:
    box.write("staged.txt", "s\n")
    box.git("add", "staged.txt")
    box.write("README.md", "half done\n")
    box.write(".protocols/mine.txt", "mine\n")
    before = box.git("status", "--porcelain", "-uall")
    box.runner("init", "--commit", "--yes", rc=0)
    assert box.git("show", "--name-only", "--format=%an %ae", "HEAD").split() == [
        "Alice",
        "alice@example.test",
        *SHARED,
    ]
    assert box.git("status", "--porcelain", "-uall") == before
    tip = box.git("rev-parse", "HEAD")
    assert "nothing to commit" in box.runner("init", "--commit", rc=0).err
    assert box.git("rev-parse", "HEAD") == tip
    told = box.runner("doctor", "--config", "--json", rc=0).json()["config"]
    assert {one["source"] for one in told} == {"default", "RUNNER_EXECUTOR"}  # it is all comments


def test_init_never_overwrites_and_shows_the_difference(box: Box) -> None:
    box.write(CONFIG, "publish: ask\n")
    told = box.runner("init", "--commit", rc=0)
    assert "kept   .protocols/config.yaml, which differs" in told.out and "-publish: ask" in told.err
    assert (box.path / CONFIG).read_text() == "publish: ask\n"
    assert box.git("show", "--name-only", "--format=", "HEAD").split() == [path for path in SHARED if path != CONFIG]
    assert box.git("status", "--porcelain", "-uall") == f"?? {CONFIG}\n"  # the person's draft is theirs


def test_init_works_below_the_top_and_in_a_repository_without_commits(tmp_path: Path) -> None:
    box = make_box(tmp_path / "full")
    box.runner("init", cwd=box.path / "src", rc=0)
    assert (box.path / CONFIG).is_file()
    empty = box.path.parent / "empty"
    box.git("init", "-q", empty)
    (empty / "staged.txt").write_text("s\n")
    box.git("add", "staged.txt", cwd=empty)
    box.runner("init", "--commit", cwd=empty, rc=0)
    assert box.git("ls-tree", "-r", "--name-only", "HEAD", cwd=empty).split() == SHARED
    assert box.git("status", "--porcelain", cwd=empty) == "A  staged.txt\n"
    assert box.runner("do", "--workflow", "echo-add", *ADD, cwd=empty, rc=0).out == "0001-echo-and-add\n"


def test_init_marks_the_record_as_generated_and_peoples_files_not(box: Box) -> None:
    box.runner("init", rc=0)
    mine = ["config.yaml", "agents/a.yaml", "0001-x/plan.md", "0001-x/context.md", "0001-x/12-deploy.md", "memory/a.md"]
    runners = [
        "0001-x/state.json",
        "0001-x/log.md",
        "0001-x/log/0001.md",
        "0001-x/calls/a.1.1.json",
        "0001-x/reports/a.1.md",
    ]
    paths = [f".protocols/{name}" for name in [*mine, *runners]]
    told = box.git("check-attr", "linguist-generated", "text", "--", *paths).splitlines()
    assert [line.rsplit(": ", 1)[1] for line in told[0::2]] == ["unset"] * len(mine) + ["set"] * len(runners)
    assert {line.rsplit(": ", 1)[1] for line in told[1::2]} == {"unset"}


def test_init_refuses_what_is_in_its_way(box: Box) -> None:
    elsewhere = box.home / "elsewhere"
    elsewhere.mkdir()
    (box.path / ".protocols").symlink_to(elsewhere)
    assert "not a plain file" in box.runner("init", rc=4).err and not list(elsewhere.iterdir())
    (box.path / ".protocols").unlink()
    (box.path / ".protocols").write_text("a file\n")
    box.runner("init", rc=4)
    box.git("switch", "-q", "--detach")
    (box.path / ".protocols").unlink()
    assert "no branch is checked out" in box.runner("init", "--commit", rc=4).err


def test_init_makes_a_repository_only_where_it_is_asked_to(box: Box, tmp_path: Path) -> None:
    folder = tmp_path / "bare-folder"
    folder.mkdir()
    assert "not a git repository" in box.runner("init", cwd=folder, rc=2).err and not list(folder.iterdir())
    box.runner("init", "--init-if-needed", "--commit", cwd=folder, rc=0)
    assert box.git("symbolic-ref", "HEAD", cwd=folder) == "refs/heads/main\n"  # as this person's git begins them
    assert box.git("ls-files", cwd=folder).split() == SHARED
    tip = box.git("rev-parse", "HEAD")
    box.runner("init", "--init-if-needed", cwd=box.path / "src", rc=0)  # one that is in a repository stays in it
    broken = tmp_path / "broken"
    box.git("init", "-q", broken)
    (broken / ".git/HEAD").unlink()
    (broken / "src").mkdir()
    box.runner("init", "--init-if-needed", cwd=broken / "src", rc=2)  # so does one that git does not open
    assert not (broken / "src/.git").exists() and not (broken / ".git/HEAD").exists()
    assert not (box.path / "src/.git").exists() and box.git("rev-parse", "HEAD") == tip
    bare = tmp_path / "bare.git"
    box.git("init", "-q", "--bare", bare)
    assert "no checkout" in box.runner("init", cwd=bare, rc=2).err


def test_init_clones_and_sets_up(remote: Box, tmp_path: Path) -> None:
    at = tmp_path / "work"
    at.mkdir()
    remote.runner("init", "--clone", tmp_path / "origin.git", "--commit", cwd=at, rc=0)
    assert remote.git("show", "--name-only", "--format=%an", "HEAD", cwd=at / "origin").split() == ["Alice", *SHARED]
    remote.runner("init", "--clone", "../origin.git", "named", cwd=at, rc=0)
    assert (at / "named" / CONFIG).is_file()
    assert remote.git("remote", "get-url", "origin", cwd=at / "named").strip() == str(tmp_path / "origin.git")
    assert "not empty" in remote.runner("init", "--clone", "../origin.git", "named", cwd=at, rc=2).err


@pytest.mark.parametrize(
    ("url", "code"), [("ext::sh -c 'touch owned'", 2), ("--upload-pack=touch owned", 69), ("/no/such/place", 69)]
)
def test_a_clone_that_is_not_safe_or_not_there_leaves_nothing(box: Box, tmp_path: Path, url: str, code: int) -> None:
    at = tmp_path / "work"
    at.mkdir()
    box.runner("init", "--clone", url, "here", cwd=at, rc=code)
    assert not list(at.iterdir())


def test_an_init_that_cannot_finish_leaves_none_of_its_files(box: Box) -> None:
    box.write("scripts/mine.sh", "true\n")
    before = sorted(box.path.rglob("*"))
    argv = [
        "sh",
        "-c",
        'ulimit -f 8; exec "$@"',
        "sh",
        sys.executable,
        "-m",
        "runner",
        "init",
        "--ci",
        "--yes",
    ]  # as on a full disk
    # The limit would cut compiled modules too, and leave them to every later process.
    env = {**box.environment(JOBS), "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, cwd=box.path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "scripts/ci/protocol.sh cannot be written" in done.stderr, done.stderr
    assert sorted(box.path.rglob("*")) == before


def test_init_commits_what_was_edited_after_it_wrote_it_and_names_it(box: Box) -> None:
    box.runner("init", "--yes", rc=0)
    policy = box.path / ".protocols/policy.yaml"
    policy.write_text(policy.read_text() + "# more\n")
    box.write(CONFIG, "publish: ask\n")
    told = box.runner("init", "--commit", rc=0).err
    assert f"  {CONFIG}, with your edits" in told and "  .protocols/policy.yaml, with your edits" in told
    assert "  .protocols/.gitattributes\n" in told
    assert box.git("show", f"HEAD:{CONFIG}") == "publish: ask\n"
    assert box.git("status", "--porcelain", "-uall") == ""
    box.write(CONFIG, "publish: always\n")
    assert f"  {CONFIG}, with your edits" in box.runner("init", "--commit", rc=0).err
    assert box.git("show", "--name-only", "--format=", "HEAD").split() == [CONFIG]
    assert "nothing to commit" in box.runner("init", "--commit", rc=0).err
