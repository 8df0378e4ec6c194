"""What a step leaves in its workspace: nothing of it reaches a folder of the person's, and nothing wedges its protocol."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.app.doctor import objects
from runner.store import workspace
from tests.conftest import Box, command, make_box, mostly_slow

NEST = "import os\nfor n in range(300): os.mkdir('d' * 20); os.chdir('d' * 20)\nopen('last', 'w').close()"


def nest(folder: str) -> str:
    """A line that nests folders deeper than a path may be long."""
    return f'mkdir -p {folder} && cd {folder} && {sys.executable} -c "{NEST}"'


def space(box: Box, protocol: str) -> Path:
    with box.session() as session:
        return session.dirs.own / protocol


@pytest.fixture
def persons(tmp_path: Path) -> Path:
    """A folder of the person's, somewhere else."""
    folder = tmp_path / "persons"
    (folder / "lib/deep").mkdir(parents=True)
    (folder / "lib/thesis.txt").write_text("ten years\n")
    (folder / "lib/deep/er.txt").write_text("of work\n")
    return folder


def untouched(persons: Path) -> bool:
    """Whether the folder of the person's is as it was."""
    found = sorted(str(path.relative_to(persons)) for path in persons.rglob("*"))
    return found == ["lib", "lib/deep", "lib/deep/er.txt", "lib/thesis.txt"]


@pytest.fixture
def nested(box: Box, tmp_path: Path) -> Box:
    """A project with a submodule at `third_party/lib`."""
    inner = make_box(tmp_path / "inner")
    box.git("submodule", "--quiet", "add", inner.path, "third_party/lib")
    box.commit("a submodule")
    return box


RETRY = "on_failure: {retry: 1}\n"


@pytest.mark.parametrize(
    "how", mostly_slow(["a link", "a link to a repository", "a link of a link", "the folder itself"])
)
def test_a_link_in_the_place_of_a_submodules_parent_empties_no_folder(nested: Box, persons: Path, how: str) -> None:
    if how == "a link to a repository":
        nested.git("init", "-q", persons / "lib")
        for path in (persons / "lib/.git").iterdir():
            path.rename(persons.parent / path.name) if path.name == "hooks" else None
    lines = {
        "a link": f"rm -rf third_party; ln -s {persons} third_party",
        "a link to a repository": f"rm -rf third_party; ln -s {persons} third_party",
        "a link of a link": f"rm -rf third_party; ln -s {persons} $HOME/x; ln -s $HOME/x third_party",
        "the folder itself": f"rm -rf third_party/lib; ln -s {persons}/lib third_party/lib",
    }
    protocol = nested.new({"01-a": command(f"test -e $HOME/once || {{ touch $HOME/once; {lines[how]}; }}", RETRY)})
    for _ in range(2):
        done = nested.runner("run", protocol)
    assert (persons / "lib/thesis.txt").read_text() == "ten years\n", done.err
    assert done.code == 0 or "third_party" in done.err
    assert how == "a link to a repository" or untouched(persons)


def test_a_share_is_not_put_through_a_link(box: Box, persons: Path) -> None:
    box.write(".gitignore", "node_modules\n")
    box.write(".protocols/config.yaml", "workspace: {share: [web/node_modules]}\n")
    box.write("web/index.js", "1\n")
    box.commit("web")
    box.write("web/node_modules/x.js", "x\n")
    check = 'qa: {policy: light, checks: ["true"]}\n'
    protocol = box.new({"01-a": command(f"rm -rf web; ln -s {persons} web", check), "02-b": command("true", check)})
    told = box.runner("run", protocol, rc=0).err
    assert untouched(persons) and "web/node_modules" in told


WEDGES = {
    "nested": nest("x"),
    "nested and ignored": nest("cache"),
    "a folder as the result": "mkdir $RUNNER_RESULT; touch $RUNNER_RESULT/x",
    "a pipe as the result": "mkfifo $RUNNER_RESULT",
    "a link as the result": "ln -s /nonexistent $RUNNER_RESULT",
    "a file for the folder of results": "rm -rf $(dirname $RUNNER_RESULT); touch $(dirname $RUNNER_RESULT)",
    "a dangling link for a share's parent": "rm -rf web; ln -s nowhere web",
    "a file for HOME": "rm -rf $HOME; touch $HOME",
    "a dangling link for HOME": "rm -rf $HOME; ln -s nowhere $HOME",
    "a broken index": "echo broken > ../index",
    "folders for git's files": "rm -f ../index; mkdir ../index ../setup ../excludes",
    "a pipe for a file": "rm README.md; mkfifo README.md x",
    "no workspace": "rm -rf ../work; touch ../work",
}


QUICK_WEDGES = ("nested", "a pipe as the result", "a file for HOME", "folders for git's files", "no workspace")


def web(box: Box) -> None:
    box.write(".gitignore", "cache\nnode_modules\n")
    box.write(".protocols/config.yaml", "workspace: {share: [web/node_modules]}\n")
    box.write("web/index.js", "1\n")
    box.commit("web")
    box.write("web/node_modules/x.js", "x\n")


@pytest.mark.parametrize(
    "wedge", [pytest.param(one, marks=() if one in QUICK_WEDGES else pytest.mark.slow) for one in WEDGES]
)
def test_a_step_does_not_wedge_its_protocol(box: Box, wedge: str) -> None:
    web(box)
    protocol = box.new(
        {"01-a": command(f"test -e {box.home}/once || {{ touch {box.home}/once; {WEDGES[wedge]}; }}", RETRY),
         "02-b": command("cat src/app.py > b.txt")}
    )  # fmt: skip
    told = box.runner("run", protocol)
    if (
        told.code == 2
    ):  # it broke what git needs to look at the work; the next run begins with a workspace that is whole
        told = box.runner("run", protocol)
    assert box.state(protocol)["status"] == "completed", told.err
    assert box.git("show", f"{protocol}:b.txt") == "print('hello')\n"


@pytest.mark.parametrize(
    "wedge", mostly_slow(["nested", "no workspace", "nested and ignored", "a folder as the result"])
)
@pytest.mark.parametrize("dry", [False, True], ids=["", "dry"])
def test_clean_takes_away_what_a_step_left_without_looking_at_it(box: Box, wedge: str, dry: bool) -> None:
    web(box)
    protocol = box.new({"01-a": command(WEDGES[wedge])})
    box.runner("run", protocol)
    folder = space(box, protocol)
    assert os.path.lexists(folder)
    told = box.runner("clean", protocol, *(["--dry-run"] if dry else ["--yes"]), rc=0)
    assert f"workspace  {folder}" in told.out and os.path.lexists(folder) == dry


def test_a_link_that_was_committed_for_a_folder_stays_a_link(box: Box) -> None:
    protocol = box.new(
        {
            "01-a": command("ln -s src lib; ln -s ../README.md src/up"),
            "02-b": command("cat lib/app.py lib/up > b.txt"),
        }
    )
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:b.txt") == "print('hello')\n# a project\n"


def test_caches_and_links_in_them_outlive_a_reset(box: Box) -> None:
    box.write(".gitignore", "cache\n")
    box.commit("ignored")
    protocol = box.new(
        {"01-a": command("mkdir cache; echo 1 > cache/x; ln -s x cache/y"), "02-b": command("cat cache/y > b.txt")}
    )
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:b.txt") == "1\n"


def test_a_workspace_that_cannot_be_reset_twice_is_made_anew(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.write(".gitignore", "cache\n")
    box.commit("ignored")
    # git can remove no folder whose name is not ignored and whose path is too long
    protocol = box.new(
        {"01-a": command(f"mkdir cache; touch cache/x; {nest('x')}; rm -f last; exit 1"), "02-b": command("true")}
    )
    box.runner("run", protocol, rc=1)
    folder = space(box, protocol)
    assert (folder / "work/x").is_dir()
    file = box.worktree(protocol) / f".protocols/{protocol}/01-a.md"
    file.write_text(
        file.read_text().replace("exit 1", "exit 0").replace("mkdir cache;", "true;").replace("cd x", "cd cache")
    )
    box.runner("retry", protocol, rc=0)
    box.runner("run", protocol)
    assert not (folder / "work/x").exists()


def test_a_repository_in_the_place_of_a_file_is_refused(box: Box) -> None:
    make = "rm README.md; git init -q README.md; cd README.md; touch a; git add a"
    protocol = box.new({"01-a": command(f"{make}; git -c user.name=a -c user.email=a@b.test commit -qm a")})
    told = box.runner("run", protocol, rc=1)
    assert "the work holds a repository of its own: README.md" in told.err


@pytest.mark.parametrize("name", ["git~1", "d/.GIT", ".Git/config"])
def test_a_file_whose_name_git_does_not_take_is_not_passed_over(box: Box, name: str) -> None:
    protocol = box.new({"01-a": command(f"echo a > a; mkdir -p $(dirname {name}); echo b > {name}")})
    told = box.runner("run", protocol, rc=1)
    assert f"git takes no file of the name {name}" in told.err
    assert box.state(protocol)["status"] == "failed"


@pytest.mark.parametrize("look", ["collect", "tree_now"])
def test_a_file_whose_time_is_set_back_is_seen_to_change_within_a_second(box: Box, look: str) -> None:
    """git compares a file's ctime by seconds, and reads a file again by its mtime."""
    protocol = box.new({"01-a": command("true")})
    with box.session() as session:
        git, tip = session.git, box.git("rev-parse", protocol).strip()
        at = workspace.place(session.project, protocol, None)
        workspace.reset(at, tip, protocol)

        def left(text: str) -> tuple[str, int]:
            file = at.work / "version"
            file.write_text(text)
            os.utime(file, (0, 0))
            changed = int(file.stat().st_ctime)
            tree = workspace.collect(at, tip, ()).tree if look == "collect" else workspace.tree_now(at)
            return git.require(f"{tree}:version", "version").decode(), changed

        for number in range(0, 90, 2):
            (first, begin), (second, end) = left(f"{number:02}"), left(f"{number + 1:02}")
            assert (first, second) == (f"{number:02}", f"{number + 1:02}")
            if begin == end == int(time.time()) and number > 8:
                break
        else:
            pytest.fail("it takes more than a second here")


@pytest.mark.parametrize("how", ["itself", "a link", "a link above"])
def test_doctor_looks_for_lost_objects_below_the_workspace_alone(box: Box, persons: Path, how: str) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    work = space(box, protocol) / "work"
    (persons / "app.py").write_bytes((work / "src/app.py").read_bytes())
    if how == "a link":
        (work / "src/app.py").unlink()
        (work / "src/app.py").symlink_to(persons / "app.py")
    if how == "a link above":
        (work / "src").rename(persons / "src")
        (work / "src").symlink_to(persons / "src")
    for path in (box.path, box.worktree(protocol)):
        (path / "src/app.py").write_text("another\n")
    oid = box.git("rev-parse", f"{protocol}:src/app.py").strip()
    (box.path / ".git/objects" / oid[:2] / oid[2:]).unlink()
    with box.session() as session:
        found = objects.from_work_trees(session.project, {oid})
    assert found == ([oid] if how == "itself" else [])
    box.git("hash-object", "-w", persons / ("src/app.py" if how == "a link above" else "app.py"))


def test_a_share_is_not_taken_through_a_link_of_the_checkout(box: Box, persons: Path) -> None:
    """A protocol's branch may be checked out there, with a link that a step made."""
    box.write(".gitignore", "lib\n")
    box.write(".protocols/config.yaml", "workspace: {share: [web/lib]}\n")
    box.commit("share")
    (box.path / "web").symlink_to(persons)
    protocol = box.new({"01-a": command("cat web/lib/thesis.txt > got")})
    box.runner("run", protocol, rc=1)
    assert untouched(persons)


# --- as another user: root opens what is locked -----------------------------------------------------------------------

LOCKS = {
    "the folder of results": "chmod 000 $(dirname $RUNNER_RESULT)",
    "HOME": "chmod 000 $HOME",
    "all of its workspace": "mkdir -p a/b; touch a/b/c; chmod 000 a/b/c a/b a .",
    "an ignored cache": "mkdir -p cache/b; touch cache/b/c; chmod 000 cache/b cache",
    "the folder of its workspace": "chmod 000 ..",
}


@pytest.fixture
def users() -> Iterator[Box]:
    """A repository of a user's that is not root; its commands are run by `as_user`."""
    if os.geteuid() != 0:
        pytest.skip("only root can run something as another user")
    with tempfile.TemporaryDirectory() as name:
        box = make_box(Path(name) / "repo")
        web(box)
        first = box.new({"01-a": command("true", RETRY)})
        box.runner("run", first, rc=0)
        yield box


def as_user(box: Box, *args: str | Path, but: Path | None = None) -> tuple[int, str]:
    """Run the command line in a child that is not root; what it imports is imported already, as it may not be theirs to read.

    All files are theirs by then, `but` one.
    """
    for folder, folders, files in os.walk(box.path.parent):
        for path in (folder, *(os.path.join(folder, one) for one in (*folders, *files))):
            os.lchown(path, *((0, 0) if but and Path(path) == but else (65534, 65534)))
    told, child = box.path.parent / "told", os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.chdir(box.path)
            done = box.runner(*args)
            told.write_text(f"{done.code}\n{done.out}{done.err}")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    code, _, text = told.read_text().partition("\n")
    return int(code), text


@pytest.mark.no_agreement("another user's repository")
@pytest.mark.parametrize("lock", mostly_slow(LOCKS))
def test_a_step_of_a_plain_users_does_not_lock_them_out(users: Box, lock: str) -> None:
    line = f"test -e {users.home}/once || {{ touch {users.home}/once; {LOCKS[lock]}; }}"
    protocol = users.new({"01-a": command(line, RETRY), "02-b": command("true")})
    code, told = as_user(users, "run", protocol)
    assert code == 0, told


@pytest.mark.no_agreement("another user's repository")
@pytest.mark.parametrize(
    ("where", "mode"), mostly_slow(itertools.product(["work/cache/of-root", ".", "work"], [0o700, 0o755]), 1)
)
def test_doctor_finds_a_workspace_with_another_users_folder(users: Box, where: str, mode: int) -> None:
    protocol = users.new({"01-a": command("true"), "02-b": command("true")})
    users.runner("doctor")
    users.runner("step", protocol, rc=0)
    folder = space(users, protocol)
    (folder / where).mkdir(parents=True, exist_ok=True)
    (folder / where).chmod(mode)
    (folder / where / "f").touch()
    code, told = as_user(users, "doctor", but=folder / where)
    assert code == 2 and f"sudo rm -r {folder}" in told and str((folder / where).resolve()) in told, told
    code, told = as_user(users, "run", protocol, but=folder / where)
    assert code == 0 or f"sudo rm -r {folder}" in told, told
    os.system(f"rm -r {folder}")
    code, told = as_user(users, "doctor")
    assert code == 0, told
    assert as_user(users, "run", protocol)[0] == 0
