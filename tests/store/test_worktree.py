"""A person's worktree follows its branch: what is theirs stays theirs, whenever the follow is cut, whatever state it is in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import InTheWayError
from runner.git import BLOB, EXECUTABLE, LINK, Git, Ident, TreeEntry
from runner.store import worktree
from runner.store.environment import Clone, StateDir
from tests.conftest import Box, command, make_box
from tests.store.test_shapes import fingerprint

WHO = Ident("Runner", "runner@example.test", 1_700_000_000)
REF = "refs/heads/main"
Content = dict[str, str]  # path to text; `*` in front of it: executable, `@`: a link


def write_tree(git: Git, content: Content) -> str:
    """Write a tree of text files."""
    changes: dict[str, TreeEntry | None] = {}
    for path, text in content.items():
        mode = {"*": EXECUTABLE, "@": LINK}.get(text[:1], BLOB)
        changes[path] = TreeEntry(mode, git.write("blob", text.removeprefix("*").removeprefix("@").encode()))
    return git.edit_tree(None, changes) or git.write_tree({})


def commit(git: Git, content: Content, *parents: str) -> str:
    """Write a commit of text files."""
    return git.write_commit(write_tree(git, content), parents, WHO, WHO, b"x\n")


class Desk:
    """A repository whose main work tree is on a branch that moves from `old` to `new`."""

    def __init__(self, box: Box, old: Content, new: Content) -> None:
        self.box, self.session = box, box.session()
        self.git: Git = self.session.git
        self.old = commit(self.git, old)
        self.new = commit(self.git, new, self.old)
        box.git("update-ref", REF, self.old)
        box.git("reset", "-q", "--hard")
        box.git("clean", "-qffdx")

    @property
    def dirs(self) -> StateDir:
        """Where notes lie."""
        return self.session.dirs

    def follow(self) -> None:
        """Move the branch and follow, as a transition does."""
        env = self.session.env
        with worktree.prepare(Clone(self.git, self.dirs, env), REF, self.old, self.new) as follows:
            self.git.update_refs({REF: (self.new, self.old)}, "test")
            for follow in follows:
                follow.finish()

    def cut(self, moves: bool = True, between: Callable[[], object] = lambda: None) -> None:
        """Prepare, move the branch, and die."""
        with worktree.prepare(self.session.project, REF, self.old, self.new):
            if moves:
                self.git.update_refs({REF: (self.new, self.old)}, "test")
            between()

    def settle(self) -> None:
        """Do what the next start does."""
        worktree.finish_follows(self.session.project, REF)

    def status(self) -> str:
        """What the person's git says."""
        return self.box.git("status", "--porcelain", "--untracked-files=all")

    def matches(self, commit: str) -> bool:
        """Whether index and files are exactly a commit's."""
        return (
            self.box.git("write-tree").strip() == self.box.git("rev-parse", f"{commit}^{{tree}}").strip()
            and not self.status()
        )

    def close(self) -> None:
        """End what is held open."""
        self.session.close()


@pytest.fixture
def desk(box: Box, request: pytest.FixtureRequest) -> Callable[[Content, Content], Desk]:
    """Makes desks."""

    def make(old: Content, new: Content) -> Desk:
        made = Desk(box, old, new)
        request.addfinalizer(made.close)
        return made

    return make


Desks = Callable[[Content, Content], Desk]
OLD = {"keep": "keep\n", "edit": "old\n", "gone": "gone\n", "d/x": "x\n", "mode": "m\n", "link": "@keep"}
NEW = {
    "keep": "keep\n",
    "edit": "new\n",
    "added": "added\n",
    "d/x": "x\n",
    "d/new": "n\n",
    "mode": "*m\n",
    "link": "@edit",
}
# A few files change or come, and none goes: git does not have to look at all others.
MORE = {**OLD, "edit": "new\n", "added": "added\n", "d/new": "*n\n", "e/f/g": "g\n"}


def looks(here: Desk, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets each git command that follows."""
    seen: list[str] = []
    run = worktree.Follow._run

    def watched(at: worktree.Follow, *args: str, data: bytes = b"") -> bytes:
        seen.append(args[0])
        return run(at, *args, data=data)

    monkeypatch.setattr(worktree.Follow, "_run", watched)
    return seen


@pytest.mark.parametrize("new", [NEW, MORE], ids=["some-go", "some-come"])
def test_follows(desk: Desks, new: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    here = desk(OLD, new)
    seen = looks(here, monkeypatch)
    here.follow()
    assert here.matches(here.new)
    assert seen == (["read-tree"] * 2 if new == NEW else ["update-index", "checkout-index"])
    assert not list(here.dirs.follows.glob("*")) and not (here.box.path / ".git/index.lock").exists()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (".gitattributes", "edit text eol=crlf\n"),
        ("é", "not ASCII\n"),
        (".GitHub/x", "git alone knows which names are its own\n"),
        ("link2", "@keep"),
        ("keep/x", "x\n"),
    ],
)
def test_what_comes_and_is_not_plain_is_left_to_a_git_that_looks_at_all(
    desk: Desks, path: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = desk(OLD, {**{name: one for name, one in OLD.items() if not path.startswith(f"{name}/")}, path: text})
    seen = looks(here, monkeypatch)
    here.follow()
    assert here.matches(here.new) and seen == ["read-tree"] * 2


def test_what_comes_to_a_sparse_worktree_is_left_to_a_git_that_looks_at_all(
    box: Box, desk: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.git("sparse-checkout", "set", "d")
    here = desk({"d/x": "x\n"}, {"d/x": "x\n", "e/new": "n\n"})
    seen = looks(here, monkeypatch)
    here.follow()
    assert seen == ["read-tree"] * 2 and here.matches(here.new) and not (here.box.path / "e").exists()


def test_what_comes_is_converted_as_the_attributes_say(desk: Desks, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"keep": "keep\n", ".gitattributes": "a.txt text eol=crlf\n"}
    here = desk(old, {**old, "a.txt": "a\n", "a.md": "a\n"})
    seen = looks(here, monkeypatch)
    here.follow()
    assert here.matches(here.new) and "read-tree" not in seen
    assert (here.box.path / "a.txt").read_bytes() == b"a\r\n" and (here.box.path / "a.md").read_bytes() == b"a\n"


def test_what_a_person_puts_there_meanwhile_is_not_written_over(desk: Desks) -> None:
    """A file comes once the branch has moved, where a new one goes: after the last look, and before git writes."""
    here = desk(OLD, MORE)
    said: list[str] = []
    who = here.session.env._replace(say=said.append)
    with worktree.prepare(Clone(here.git, here.dirs, who), REF, here.old, here.new) as follows:
        here.git.update_refs({REF: (here.new, here.old)}, "test")
        (follow,) = follows
        assert follow.rewrite is not None and follow.rewrite.done()
        here.box.write("added", "mine\n")
        follow._replace(rewrite=_Done(*follow.rewrite)).finish()
    assert "could not be updated" in said[0] and (here.box.path / "added").read_text() == "mine\n"
    here.settle()
    assert (here.box.path / "added").read_text() == "mine\n"
    assert here.status() == " M added\n" and (here.box.path / "e/f/g").read_text() == "g\n"


class _Done(worktree.Rewrite):
    """One whose files were looked at for the last time."""

    def done(self) -> bool:
        return True


@pytest.mark.parametrize("meanwhile", ["added", "e", "edit"])
def test_what_changed_since_it_could_follow_is_found(desk: Desks, meanwhile: str) -> None:
    here = desk(OLD, MORE)
    said: list[str] = []
    who = here.session.env._replace(say=said.append)
    with worktree.prepare(Clone(here.git, here.dirs, who), REF, here.old, here.new) as follows:
        here.git.update_refs({REF: (here.new, here.old)}, "test")
        here.box.write(meanwhile, "mine\n")
        follows[0].finish()
    assert "could not be updated" in said[0]
    here.settle()
    assert (here.box.path / meanwhile).read_text() == "mine\n"


# --- states of a person's worktree -------------------------------------------------------------------------------------


def staged(box: Box) -> None:
    box.write("keep", "staged\n")
    box.git("add", "keep")


def changed(box: Box) -> None:
    box.write("keep", "changed\n")


def both(box: Box) -> None:
    staged(box)
    changed(box)


def untracked(box: Box) -> None:
    box.write("mine", "mine\n")
    box.write("d/mine", "mine\n")


def ignored(box: Box) -> None:
    box.write(".git/info/exclude", "mine\n")
    box.write("mine", "mine\n")


def deleted(box: Box) -> None:
    (box.path / "keep").unlink()


def removed(box: Box) -> None:
    box.git("rm", "-q", "keep")


def moved(box: Box) -> None:
    box.git("mv", "keep", "kept")


def assumed(box: Box) -> None:
    box.git("update-index", "--assume-unchanged", "keep")
    box.write("keep", "hidden\n")


def skipped(box: Box) -> None:
    box.git("update-index", "--skip-worktree", "keep")
    box.write("keep", "hidden\n")


def intended(box: Box) -> None:
    box.write("mine", "mine\n")
    box.git("add", "-N", "mine")


def touched(box: Box) -> None:
    for name in ("keep", "edit", "gone"):
        os.utime(box.path / name, (1, 1))


def split(box: Box) -> None:
    box.git("update-index", "--split-index")
    staged(box)


def merging(box: Box) -> None:
    """A merge that is being made, without conflicts."""
    side = box.git("commit-tree", "-p", "HEAD", "-m", "side", box.git("rev-parse", "HEAD^{tree}").strip()).strip()
    box.write(".git/MERGE_HEAD", f"{side}\n")
    staged(box)


STATES = [
    staged,
    changed,
    both,
    untracked,
    ignored,
    deleted,
    removed,
    moved,
    assumed,
    skipped,
    intended,
    touched,
    split,
    merging,
]


def picture(box: Box) -> tuple[str, str, dict[str, bytes]]:
    """What a person has that no commit has: status, index and files of the paths that the branch leaves alone."""
    names = ("keep", "kept", "mine", "d/mine")
    index = "".join(
        line
        for line in box.git("ls-files", "-v", "-s", "--debug").splitlines(True)
        if line.split("\t")[-1].strip() in names
    )
    files = {name: (box.path / name).read_bytes() for name in names if (box.path / name).is_file()}
    return box.git("status", "--porcelain", "--untracked-files=all"), index, files


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("way", ["follow", "crash", "some-come"])
def test_what_is_not_in_the_way_stays(desk: Desks, state: Callable[[Box], None], way: str) -> None:
    new = MORE if way == "some-come" else NEW
    here = desk(OLD, new)
    state(here.box)
    before = picture(here.box)
    if way == "crash":
        here.cut()
        here.settle()
    else:
        here.follow()
    assert picture(here.box) == before
    for name, text in new.items():
        if name != "keep" and not text.startswith("@"):
            assert (here.box.path / name).read_text() == text.removeprefix("*")
    assert (here.box.path / "gone").exists() == ("gone" in new)
    assert os.readlink(here.box.path / "link") == new["link"].removeprefix("@")


def dirty(path: str, text: str = "mine\n", *, add: bool = False, flag: str = "") -> Callable[[Box], None]:
    """A person's own content at a path that the branch changes."""

    def act(box: Box) -> None:
        if flag:
            box.git("update-index", flag, path)
        box.write(path, text)
        if add:
            box.git("add", "-f", path)

    return act


def deleted_edit(box: Box) -> None:
    (box.path / "edit").unlink()


def ignored_added(box: Box) -> None:
    box.write(".git/info/exclude", "added\nd/new\n")
    box.write("d/new", "mine\n")


def file_for_folder(box: Box) -> None:
    shutil.rmtree(box.path / "d")
    box.write("d", "mine\n")


def folder_for_file(box: Box) -> None:
    box.write("added/inner", "mine\n")


def conflict(box: Box) -> None:
    box.git("checkout", "-q", "-b", "side")
    box.write("keep", "side\n")
    box.git("commit", "-qam", "side")
    box.git("checkout", "-q", "main")
    box.write("keep", "main\n")
    box.git("commit", "-qam", "main")
    box.git("merge", "side", check=False)


IN_THE_WAY = {
    "changed": (dirty("edit"), "edit"),
    "staged": (dirty("edit", add=True), "edit"),
    "untracked": (dirty("added"), "added"),
    "untracked and the same": (dirty("added", "added\n"), "added"),
    "untracked and added": (dirty("added", add=True), "added"),
    "deleted": (deleted_edit, "edit"),
    "to be deleted": (dirty("gone"), "gone"),
    "assumed unchanged": (dirty("edit", flag="--assume-unchanged"), "edit"),
    "skip-worktree": (dirty("edit", flag="--skip-worktree"), "edit"),
    "ignored": (ignored_added, "d/new"),
    "file for a folder": (file_for_folder, "d"),
    "folder for a file": (folder_for_file, "added/inner"),
}


@pytest.mark.parametrize("new", [NEW, MORE], ids=["some-go", "some-come"])
@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_is_in_the_way_is_named_and_nothing_moves(desk: Desks, name: str, new: Content) -> None:
    state, path = IN_THE_WAY[name]
    if path == "gone" and "gone" in new:
        return  # it stays
    here = desk(OLD, new)
    state(here.box)
    before = here.status(), here.box.git("ls-files", "-v", "-s")
    with pytest.raises(InTheWayError, match=path):
        here.follow()
    assert (here.status(), here.box.git("ls-files", "-v", "-s")) == before
    assert here.git.ref(REF) == here.old
    assert not list(here.dirs.follows.glob("*")) and not list((here.box.path / ".git").glob("*index*lock"))


def test_conflicts_of_a_merge_are_told(desk: Desks) -> None:
    here = desk(OLD, NEW)
    conflict(here.box)
    box = here.box
    here.old = box.git("rev-parse", "main").strip()
    here.new = commit(here.git, {**NEW, "keep": "main\n"}, here.old)
    before = here.status()
    assert "UU keep" in before
    with pytest.raises(InTheWayError, match="merge"):
        here.follow()
    assert here.status() == before


def test_an_edit_as_fast_as_the_index_is_seen(desk: Desks) -> None:
    """Same size, same times: git looks into files as new as its index, and so must a copy of it."""
    here = desk(OLD, NEW)
    path, index = here.box.path / "edit", here.box.path / ".git/index"
    os.utime(path, ns=(10**18, 10**18))
    here.box.git("update-index", "--refresh")
    told = path.stat()
    with path.open("r+") as file:
        file.write("MIN\n")  # as long as `old\n`, in the same place
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
    os.utime(index, ns=(10**18, 10**18))
    here.box.git("config", "core.trustctime", "false")
    with pytest.raises(InTheWayError, match="edit"):
        here.follow()
    assert path.read_text() == "MIN\n"


# --- cut at every point ------------------------------------------------------------------------------------------------


def test_cut_before_the_ref_moved(desk: Desks) -> None:
    here = desk(OLD, NEW)
    here.cut(moves=False)
    assert list(here.dirs.follows.glob("*"))
    here.settle()
    assert here.matches(here.old) and not list(here.dirs.follows.glob("*"))


@pytest.mark.parametrize("done", range(8))
def test_cut_among_the_files(desk: Desks, done: int) -> None:
    """However many files were written, and with the index of before."""
    here = desk(OLD, NEW)

    def write_some() -> None:
        for path, (_, after) in list(here.git.changed(here.old, here.new).items())[:done]:
            at = here.box.path / path
            at.unlink(missing_ok=True)
            if after is None:
                continue
            data = here.git.blob(after.oid) or b""
            if after.mode == LINK:
                at.symlink_to(data.decode())
            else:
                at.write_bytes(data)
                at.chmod(0o755 if after.mode == EXECUTABLE else 0o644)

    here.cut(between=write_some)
    here.settle()
    assert here.matches(here.new) and not list(here.dirs.follows.glob("*"))


def test_cut_after_all_but_the_note(desk: Desks) -> None:
    here = desk(OLD, NEW)
    index, other = here.box.path / ".git/index", here.box.path / ".git/other"

    def finish() -> None:
        shutil.copy2(index, other)
        here.box.git("read-tree", "-m", "-u", here.old, here.new, env={"GIT_INDEX_FILE": str(other)})
        other.replace(index)

    here.cut(between=finish)
    here.settle()
    assert here.matches(here.new)


def test_cut_and_edited_before_it_is_settled(desk: Desks) -> None:
    here = desk(OLD, NEW)
    here.cut()
    here.box.write("edit", "mine\n")
    here.box.write("added", "mine too\n")
    here.settle()
    assert (here.box.path / "edit").read_text() == "mine\n" and (here.box.path / "added").read_text() == "mine too\n"
    assert here.status() == " M added\n M edit\n"
    assert not (here.box.path / "gone").exists()


def test_cut_and_the_branch_went_on_meanwhile(desk: Desks) -> None:
    here = desk(OLD, NEW)
    here.cut()
    later = commit(here.git, {**NEW, "later": "l\n"}, here.new)
    here.box.git("update-ref", REF, later)
    here.settle()
    assert here.box.git("write-tree").strip() == here.box.git("rev-parse", f"{here.new}^{{tree}}").strip()
    assert here.status() == "D  later\n", "what the worktree lacks is what came without a follow"


def test_cut_and_the_person_switched_away(desk: Desks) -> None:
    here = desk(OLD, NEW)
    here.cut()
    here.box.git("symbolic-ref", "HEAD", "refs/heads/elsewhere")
    here.box.git("update-ref", "refs/heads/elsewhere", here.old)
    here.settle()
    assert here.matches(here.old) and not list(here.dirs.follows.glob("*"))


def test_cut_where_a_link_stands_on_the_way(desk: Desks, tmp_path: Path) -> None:
    here = desk({"d/x": "old\n", "d/y": "y\n"}, {"d/x": "new\n"})
    here.cut()
    shutil.copytree(here.box.path / "d", tmp_path / "theirs")
    shutil.rmtree(here.box.path / "d")
    (here.box.path / "d").symlink_to(tmp_path / "theirs")
    here.settle()
    assert (tmp_path / "theirs/x").read_text() == "old\n" and (tmp_path / "theirs/y").exists()


@pytest.mark.parametrize("key", ["core.fileMode", "core.symlinks"])
def test_cut_where_the_disk_cannot_tell_modes(box: Box, desk: Desks, key: str) -> None:
    box.git("config", key, "false")
    here = desk({"run": "*x\n", "link": "@run", "edit": "old\n"}, {"run": "*y\n", "link": "@edit", "edit": "new\n"})
    if key == "core.symlinks":
        assert not (box.path / "link").is_symlink()
    else:
        (box.path / "run").chmod(0o644)
    here.cut()
    here.settle()
    assert here.matches(here.new)
    assert (box.path / "run").read_text() == "y\n"


def test_follow_that_fails_after_the_ref_moved_is_told_and_settled(desk: Desks) -> None:
    here = desk(OLD, NEW)
    said: list[str] = []
    who = here.session.env._replace(say=said.append)
    with worktree.prepare(Clone(here.git, here.dirs, who), REF, here.old, here.new) as follows:
        here.git.update_refs({REF: (here.new, here.old)}, "test")
        here.box.write("edit", "in between\n")
        for follow in follows:
            follow.finish()
    assert "could not be updated" in said[0]
    here.settle()
    assert (here.box.path / "edit").read_text() == "in between\n"
    assert here.status() == " M edit\n"


# --- properties --------------------------------------------------------------------------------------------------------

NAMES = ("a", "b", "d/a", "d/b", "d/e/f", "d", "g/a")


def consistent(content: dict[str, str]) -> Content:
    """Drop names that would be file and folder at once."""
    return {path: text for path, text in content.items() if not any(other.startswith(f"{path}/") for other in content)}


contents = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["1\n", "2\n", "*1\n", "@1"]), min_size=1).map(
    consistent
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Box:
    """One repository for many examples."""
    return make_box(tmp_path_factory.mktemp("shared") / "repo")


@given(
    old=contents,
    new=contents,
    mine=st.dictionaries(st.sampled_from((*NAMES, "mine")), st.sampled_from(["1\n", "mine\n"]), max_size=3),
)
def test_never_loses_a_byte(shared: Box, old: Content, new: Content, mine: Content) -> None:
    """Whatever stands in the worktree: it follows wholly, or it is refused and nothing changed; what is the person's stays."""
    here = Desk(shared, old, new)
    try:
        written = {}
        for path, text in consistent(mine).items():
            at = shared.path / path
            if any(parent.is_symlink() or parent.is_file() for parent in at.parents) or at.is_dir():
                continue
            at.unlink(missing_ok=True)
            shared.write(path, text)
            if old.get(path) != text:
                written[path] = text
        before = here.status()
        try:
            here.follow()
        except InTheWayError:
            assert here.status() == before and here.git.ref(REF) == here.old
        else:
            assert shared.git("diff", "--cached", "--name-only", here.new) == ""
            if not written:
                assert here.matches(here.new)
        for path, text in written.items():
            assert (shared.path / path).read_text() == text
    finally:
        here.close()


@pytest.mark.slow
@given(old=contents, new=contents)
def test_cut_and_settled_is_as_if_it_had_followed(shared: Box, old: Content, new: Content) -> None:
    here = Desk(shared, old, new)
    try:
        here.cut()
        here.settle()
        assert here.matches(here.new), here.status()
    finally:
        here.close()


# --- through the command line ------------------------------------------------------------------------------------------


def test_checkout_index_and_files_are_left_byte_for_byte(box: Box) -> None:
    """The person's main checkout, with something in every state, after a whole run."""
    box.write("s.txt", "1\n")
    box.write("t.txt", "1\n")
    box.commit()
    box.write("s.txt", "staged\n")
    box.git("add", "s.txt")
    box.write("t.txt", "changed\n")
    box.write("u.txt", "untracked\n")
    status = box.git("status", "--porcelain")
    stamp = (box.path / ".git/index").stat().st_mtime_ns
    before = fingerprint(box.path)
    protocol = box.new({"01-a": command("echo a > u.txt; echo b > s.txt"), "02-b": command("rm t.txt")})
    for words in (["run"], ["status"], ["show"], ["diff"], ["verify"], ["log"]):
        box.runner(*words, protocol)
    assert box.state(protocol)["status"] == "completed"
    assert fingerprint(box.path) == before and (box.path / ".git/index").stat().st_mtime_ns == stamp
    assert box.git("status", "--porcelain") == status


def test_uncommitted_words_in_a_conflict_are_not_taken_up(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    tree = box.worktree(protocol)
    path = f".protocols/{protocol}/02-b.md"
    text = (tree / path).read_text()
    box.git("checkout", "-q", "-b", "side", cwd=tree)
    (tree / path).write_text(text + "side\n")
    box.git("commit", "-qam", "side", cwd=tree)
    box.git("checkout", "-q", protocol, cwd=tree)
    (tree / path).write_text(text + "ours\n")
    box.git("commit", "-qam", "ours", cwd=tree)
    box.git("merge", "side", cwd=tree, check=False)
    tip = box.git("rev-parse", protocol)
    result = box.runner("step", protocol, rc=4)
    assert "conflict" in result.err and path in result.err
    assert box.git("rev-parse", protocol) == tip and "<<<<" in (tree / path).read_text()


def test_adopting_that_is_cut_leaves_nothing_staged_backwards(box: Box) -> None:
    """The ref moved to the person's own commit, and then the process died."""
    protocol = box.new({"01-a": command("echo a > a.txt")})
    tree = box.worktree(protocol)
    path = tree / f".protocols/{protocol}/01-a.md"
    path.write_text(path.read_text() + "More.\n")
    ref = f"refs/heads/{protocol}"
    with box.session() as session:
        git, old = session.git, session.git.ref(ref)
        assert old is not None
        there = git.checked_out(ref)[0]
        words = worktree.uncommitted(git, there, f".protocols/{protocol}")
        assert list(words) == [f".protocols/{protocol}/01-a.md"]
        made = git.commit(old)
        assert made is not None
        new = git.write_commit(git.edit_tree(made.tree, words) or "", (old,), WHO, WHO, b"edit\n")
        for there in git.checked_out(ref):
            worktree.note(session.dirs, there, ref, old, new)
        git.update_refs({ref: (new, old)}, "test")
    assert "MM" in box.git("status", "--porcelain", cwd=tree) or "M " in box.git("status", "--porcelain", cwd=tree)
    count = box.count(protocol)
    box.runner("step", protocol, rc=0)
    assert box.git("status", "--porcelain", cwd=tree) == ""
    assert box.count(protocol) == count + 1, "the edit was not committed twice"


def test_what_was_cut_is_not_forgotten_where_git_cannot_look(box: Box) -> None:
    """A disk that is full stops git itself: the note of what is still to be finished stays."""
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    there = box.path.parent / "repo.worktrees" / protocol
    old = box.git("rev-parse", protocol)
    box.runner("step", protocol, rc=0)
    (there / "a.txt").unlink()
    head = box.path / ".git/worktrees" / protocol / "HEAD"
    note = box.path / ".git/runner/follows/0123456789abcdef.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    told = {"worktree": str(there), "git_dir": str(head.parent), "ref": f"refs/heads/{protocol}"}
    note.write_text(json.dumps({**told, "old": old, "new": box.git("rev-parse", protocol)}))
    head.write_bytes(b"")
    box.runner("step", protocol)
    assert note.exists()


def test_where_git_cannot_refresh_the_index_no_work_of_a_persons_is_said_to_be_in_the_way(
    box: Box, tmp_path: Path
) -> None:
    """A sweep found it: on a bad disk what only looks changed, by its times, was taken for a person's edit."""
    protocol = box.new({"01-a": command("echo a > a.txt; rm README.md")})
    os.utime(box.worktree(protocol) / f".protocols/{protocol}/log.md", (1_600_000_000, 1_600_000_000))
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/git"
    fake.write_text(
        '#!/bin/sh\ncase " $* " in *" update-index -q --refresh "*) echo "fatal: unable to write new index" >&2; exit 128;;\n'
        f'esac\nexec {shutil.which("git")} "$@"\n'
    )
    fake.chmod(0o755)
    done = box.runner("step", protocol, env={"PATH": f"{fake.parent}:{os.environ['PATH']}"})
    assert (done.code, "work of yours" in done.err) == (2, False), done.err
    assert "unable to write new index" in done.err
    box.runner("run", protocol, rc=0)


@pytest.mark.parametrize(
    "change",
    [
        "echo more >> .protocols/0001-a/plan.md",
        "t=$(stat -c %y .protocols/0001-a/plan.md); printf 'B' > .protocols/0001-a/plan.md; touch -d \"$t\" .protocols/0001-a/plan.md",
        "chmod +x .protocols/0001-a/plan.md",
        "rm .protocols/0001-a/plan.md",
        "rm .protocols/0001-a/plan.md; ln -s ../../README.md .protocols/0001-a/plan.md",
        "touch .protocols/0001-a/03-new.md",
        "mkdir .protocols/0001-a/sub; touch .protocols/0001-a/sub/file",
    ],
)
def test_an_edit_of_any_kind_is_seen_as_git_sees_it(box: Box, change: str) -> None:
    box.write(".protocols/0001-a/plan.md", "A")
    box.write(".protocols/0001-a/01-a.md", "a step")
    box.commit()
    session = box.session()
    [tree] = session.git.checked_out(REF)
    assert worktree.uncommitted(session.git, tree, ".protocols/0001-a") == {}
    box.git("update-index", "--refresh")
    subprocess.run(["sh", "-ec", change], cwd=box.path, env=box.environment(), check=True)
    seen = worktree.uncommitted(session.git, tree, ".protocols/0001-a")
    assert bool(seen) == (box.git("status", "--porcelain", "-uall", "--", ".protocols") != "")


@pytest.mark.parametrize(
    "change",
    [
        "touch -d @1 .protocols/0001-a/plan.md",
        "git rm -q --cached .protocols/0001-a/plan.md",
        "git update-index --chmod=+x .protocols/0001-a/plan.md",
        "git update-index --cacheinfo 100644,$(git rev-parse HEAD:README.md),.protocols/0001-a/plan.md",
        "git update-index --add --cacheinfo 100644,$(git rev-parse HEAD:README.md),.protocols/0001-a/09-staged.md",
    ],
)
def test_what_only_looks_changed_or_is_only_in_the_index_is_no_edit(box: Box, change: str) -> None:
    box.write(".protocols/0001-a/plan.md", "A")
    box.commit()
    session = box.session()
    [tree] = session.git.checked_out(REF)
    subprocess.run(["sh", "-ec", change], cwd=box.path, env=box.environment(), check=True)
    assert worktree.uncommitted(session.git, tree, ".protocols/0001-a") == {}
