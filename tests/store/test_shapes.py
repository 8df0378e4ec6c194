"""Every shape of repository that git allows: a protocol runs to its end in it, verifies, and a person's files stay as they were."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.git import Git
from tests.conftest import Box, clone, command, make_box, mostly_slow

STEPS = {
    "01-a": command("echo a > a.txt"),
    "02-b": command("cat a.txt > b.txt", 'qa: {policy: light, checks: ["test -e b.txt"]}\n'),
}


def fingerprint(folder: Path) -> dict[str, str]:
    """Return every file of a checkout, its index included, by its bytes and mode; of `.git` only the index and HEAD."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if inside.parts[0] == ".git" and str(inside) not in (".git/index", ".git/HEAD"):
            continue
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            found[str(inside)] = f"{mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        elif stat.S_ISLNK(mode):
            found[str(inside)] = f"-> {os.readlink(path)}"
    return found


def goes(box: Box, steps: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a protocol to its end here, and hold what is always to hold."""
    cwd = cwd or box.path
    before = fingerprint(cwd)
    made = box.runner("new", "A plan", "--plan", box.plan(steps or STEPS), cwd=cwd, rc=0)
    protocol = made.out.strip()
    box.runner("run", protocol, cwd=cwd, rc=0)
    assert box.state(protocol)["status"] == "completed"
    box.runner("verify", protocol, cwd=cwd, rc=0)
    assert fingerprint(cwd) == before, "the person's checkout changed"
    assert (
        box.git("fsck", "--no-dangling", check=False).replace("notice: HEAD points to an unborn branch", "").strip()
        == ""
    )
    return protocol


def listed(box: Box, protocol: str) -> set[str]:
    """The files of a protocol's branch, without the record."""
    names = box.git("ls-tree", "-r", "-z", "--name-only", protocol).split("\0")
    return {name for name in names if name and not name.startswith(".protocols/")}


def shown(box: Box, protocol: str, cwd: Path | None = None) -> str:
    """What `git status` tells of the protocol's worktree."""
    return box.git("status", "--porcelain", cwd=cwd or box.worktree(protocol))


# --- formats, clones, places -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_object_formats(tmp_path: Path, object_format: str) -> None:
    box = make_box(tmp_path / "repo", f"--object-format={object_format}")
    protocol = goes(box)
    assert shown(box, protocol) == ""


def test_linked_worktree(box: Box, tmp_path: Path) -> None:
    box.git("worktree", "add", "-q", "-b", "side", tmp_path / "linked")
    protocol = goes(box, cwd=tmp_path / "linked")
    assert box.worktree(protocol).parent == tmp_path / "repo.worktrees"


def test_worktree_that_is_locked(box: Box) -> None:
    protocol = box.new(STEPS)
    box.git("worktree", "lock", box.worktree(protocol))
    box.runner("run", protocol, rc=0)
    assert shown(box, protocol) == "" and (box.worktree(protocol) / "a.txt").exists()


def test_shallow_clone(remote: Box, tmp_path: Path) -> None:
    remote.write("more.txt", "more\n")
    remote.commit()
    remote.git("push", "-q", "origin", "main")
    remote.git("clone", "-q", "--depth=1", f"file://{tmp_path}/origin.git", tmp_path / "shallow", cwd=tmp_path)
    box = Box(tmp_path / "shallow", remote.home, remote.env)
    goes(box)


def test_partial_clone_fetches_what_a_step_needs(remote: Box, tmp_path: Path) -> None:
    remote.write("old.txt", "old\n")
    remote.git("checkout", "-q", "-b", "other")
    remote.write("only-there.txt", "there\n")
    remote.commit()
    remote.git("push", "-q", "origin", "other")
    remote.git("config", "uploadpack.allowFilter", "true", cwd=tmp_path / "origin.git")
    remote.git("clone", "-q", "--filter=blob:none", f"file://{tmp_path}/origin.git", tmp_path / "partial", cwd=tmp_path)
    box = Box(tmp_path / "partial", remote.home, remote.env)
    missing = box.git("rev-list", "--objects", "--missing=print", "--all").count("?")
    assert missing, "the clone lacks nothing, so nothing is shown here"
    protocol = box.runner(
        "new", "A plan", "--base", "other", "--plan", box.plan({"01-a": command("cat only-there.txt > copy.txt")}), rc=0
    ).out.strip()
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:copy.txt") == "there\n"
    box.runner("verify", protocol, rc=0)


def test_shared_clone(box: Box, tmp_path: Path) -> None:
    box.git("clone", "-q", "--shared", box.path, tmp_path / "shared", cwd=tmp_path)
    other = Box(tmp_path / "shared", box.home, box.env)
    goes(other)


def test_bare_repository_serves_reading_and_recording(box: Box, tmp_path: Path) -> None:
    box.git("clone", "-q", "--bare", box.path, tmp_path / "bare.git", cwd=tmp_path)
    bare = Box(tmp_path / "bare.git", box.home, box.env)
    bare.git("remote", "remove", "origin")
    protocol = bare.new(STEPS)
    assert bare.runner("show", protocol, "--json", rc=0).json()["path"] is None
    bare.runner("step", protocol, rc=0)
    bare.runner("run", protocol, rc=0)
    bare.runner("verify", protocol, rc=0)
    assert listed(bare, protocol) == {"README.md", "src/app.py", "a.txt", "b.txt"}
    assert not (tmp_path / "bare.git.worktrees").exists()


def test_submodule_checkout_is_a_repository_of_its_own(box: Box, tmp_path: Path) -> None:
    """Its git directory is not its work tree, although `git worktree list` says so."""
    inner = make_box(tmp_path / "inner")
    box.git("submodule", "--quiet", "add", inner.path, "sub")
    box.commit("sub")
    sub = Box(box.path / "sub", box.home, box.env)
    gitdir = box.path / ".git/modules/sub"
    before = sorted(path.name for path in gitdir.iterdir())
    protocol = goes(sub)
    assert set(sorted(path.name for path in gitdir.iterdir())) - set(before) <= {"runner", "worktrees", "refs", "logs"}
    sub.git("worktree", "remove", "--force", sub.worktree(protocol))
    sub.git("checkout", "-q", protocol)
    sub.runner("verify", protocol, rc=0)
    again = sub.new({"01-a": command("echo again > again.txt")}, title="Again")
    sub.git("worktree", "remove", "--force", sub.worktree(again))
    sub.git("checkout", "-q", again)
    sub.runner("run", again, rc=0)
    assert (sub.path / "again.txt").read_text() == "again\n" and shown(sub, again, sub.path) == ""
    assert not (gitdir / "again.txt").exists()


def test_separate_git_directory(tmp_path: Path) -> None:
    box = make_box(tmp_path / "repo", f"--separate-git-dir={tmp_path / 'elsewhere'}")
    protocol = goes(box)
    assert box.worktree(protocol) is not None
    assert not any(path.name == "a.txt" for path in (tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", mostly_slow(["quote'\"$(x)", "-n", "space dir ünï", "a:b", "line\u2028sep"]))
def test_odd_places(tmp_path: Path, name: str) -> None:
    box = make_box(tmp_path / name)
    protocol = goes(box)
    assert shown(box, protocol) == ""


def test_detached_head(box: Box) -> None:
    box.git("checkout", "-q", "--detach")
    goes(box)


def test_dirty_checkout_is_not_looked_at(box: Box) -> None:
    box.write("README.md", "changed\n")
    box.write("src/app.py", "staged\n")
    box.git("add", "src/app.py")
    box.write("new.txt", "untracked\n")
    box.write(".gitignore", "kept.txt\n")
    box.write("kept.txt", "ignored\n")
    protocol = goes(box)
    assert listed(box, protocol) == {"README.md", "src/app.py", "a.txt", "b.txt"}
    assert box.git("show", f"{protocol}:README.md") == "# a project\n"


# --- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["--local", "--global"])
def test_autocrlf(box: Box, scope: str) -> None:
    """The person's line ends stand in their worktree, LF in the objects; git sees no change either way."""
    box.git("config", scope, "core.autocrlf", "true")
    protocol = goes(box)
    tree = box.worktree(protocol)
    assert (tree / "a.txt").read_bytes() == b"a\r\n"
    assert box.git("cat-file", "-p", f"{protocol}:a.txt") == "a\n"
    assert shown(box, protocol) == ""
    assert box.git("cat-file", "-s", f"{protocol}:README.md").strip() == "12"


def test_uncommitted_edit_with_crlf_becomes_what_git_would_commit(box: Box) -> None:
    box.git("config", "--global", "core.autocrlf", "true")
    protocol = box.new({"01-a": command("echo a > a.txt")})
    path = box.worktree(protocol) / f".protocols/{protocol}/01-a.md"
    path.write_bytes(path.read_bytes().replace(b"echo a", b"echo edited"))
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:a.txt") == "edited\n"
    assert shown(box, protocol) == ""


SWITCHES = [
    ("core.ignorecase", "true"),
    ("core.fileMode", "false"),
    ("core.symlinks", "false"),
    ("core.splitIndex", "true"),
    ("core.logAllRefUpdates", "false"),
    ("core.untrackedCache", "true"),
    ("core.trustctime", "false"),
    ("core.safecrlf", "true"),
    ("core.quotePath", "true"),
    ("index.version", "4"),
    ("feature.manyFiles", "true"),
    ("status.showUntrackedFiles", "no"),
    ("submodule.recurse", "true"),
    ("merge.renames", "false"),
    ("color.ui", "always"),
    ("core.bigFileThreshold", "1"),
    ("core.compression", "0"),
    ("log.showSignature", "true"),
    ("i18n.commitEncoding", "latin1"),
]


@pytest.mark.parametrize(("key", "value"), mostly_slow(SWITCHES, 3))
def test_settings_of_the_repository(box: Box, key: str, value: str) -> None:
    box.git("config", key, value)
    box.git("status")
    protocol = goes(box)
    assert shown(box, protocol) == ""


def test_changes_are_seen_where_the_repository_says_not_to_look_for_them(box: Box) -> None:
    box.git("config", "core.ignoreStat", "true")
    protocol = box.new(
        {"01-a": command("echo a > README.md"), "02-b": command("test $(cat README.md) = a && echo b > README.md")}
    )
    path = box.worktree(protocol) / f".protocols/{protocol}/02-b.md"
    path.write_text(path.read_text().replace("echo b", "echo edited"))
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:README.md") == "edited\n"
    assert shown(box, protocol) == ""


def test_modes_and_links_where_the_repository_says_it_has_none(box: Box) -> None:
    """`core.fileMode=false` is about the person's disk; the workspace stands on another one."""
    box.git("config", "core.fileMode", "false")
    protocol = goes(box, {"01-a": command("echo x > run.sh; chmod +x run.sh; ln -s run.sh link")})
    tree = box.git("ls-tree", protocol, "run.sh", "link")
    assert "100755 blob" in tree and "120000 blob" in tree
    assert shown(box, protocol) == ""


def test_ignorecase_does_not_fold_the_workspace(box: Box) -> None:
    box.git("config", "core.ignorecase", "true")
    protocol = goes(box, {"01-a": command("echo lower > name.txt"), "02-b": command("echo upper > NAME.txt")})
    assert {"name.txt", "NAME.txt"} <= listed(box, protocol)


def test_sparse_checkout_of_the_person_stays_sparse(box: Box) -> None:
    box.write("other/file.txt", "other\n")
    box.commit()
    box.git("sparse-checkout", "set", "src")
    assert not (box.path / "other").exists()
    goes(box)
    protocol = box.new(
        {"01-a": command("echo new > other/file.txt; echo in > src/in.txt; echo o > other/more.txt")}, title="Two"
    )
    tree = box.worktree(protocol)
    assert sorted(path.name for path in tree.iterdir() if path.is_dir()) == [".protocols", "src"]
    assert [path.name for path in (tree / ".protocols").iterdir()] == [protocol] and shown(box, protocol) == ""
    box.git("sparse-checkout", "set", "src", ".protocols", cwd=tree)
    assert not (tree / "other").exists()
    box.runner("run", protocol, rc=0)
    assert not (tree / "other").exists() and (tree / "src/in.txt").exists()
    assert shown(box, protocol) == ""
    assert box.git("show", f"{protocol}:other/file.txt") == "new\n"


@pytest.mark.parametrize(
    ("patterns", "shown_there"),
    [
        (("src", ".protocols/agents"), {"agents"}),
        (("src", ".protocols"), {"agents", "workflows", "0001-a-plan"}),
        (("--no-cone", "/*", "!/.protocols/[0-9]*/"), {"agents", "workflows"}),
        (("--no-cone", "src/"), set()),
    ],
)
def test_a_sparse_worktree_has_its_own_protocol_and_what_the_person_s_has(
    box: Box, patterns: tuple[str, ...], shown_there: set[str]
) -> None:
    box.write(".protocols/agents/reader.yaml", "name: reader\n")
    box.write(".protocols/workflows/w/plan.md", "---\ntitle: W\n---\nx\n")
    box.commit()
    ended = box.new({"01-a": command("true")})
    box.runner("run", ended, rc=0)
    box.git("merge", "-q", ended)
    box.git("worktree", "remove", box.worktree(ended))
    box.git("branch", "-D", ended)
    box.git("sparse-checkout", "set", *patterns)
    protocol = box.new({"01-b": command("echo b > src/b.txt")}, title="Two")
    there = box.worktree(protocol)
    assert {path.name for path in (there / ".protocols").iterdir() if path.is_dir()} == {protocol, *shown_there}
    box.runner("run", protocol, rc=0)
    assert (there / "src/b.txt").exists() and shown(box, protocol) == ""
    box.runner("merge", protocol, rc=0)
    assert box.git("status", "--porcelain") == "" and (box.path / "src/b.txt").exists()


def test_signing_person_signs_words_and_the_runner_does_not(box: Box) -> None:
    key = box.home / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (box.home / "signers").write_text(f"alice@example.test {key.with_suffix('.pub').read_text()}")
    for name, value in {
        "commit.gpgsign": "true",
        "gpg.format": "ssh",
        "user.signingkey": str(key),
        "gpg.ssh.allowedSignersFile": str(box.home / "signers"),
    }.items():
        box.git("config", "--global", name, value)
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    path = box.worktree(protocol) / f".protocols/{protocol}/02-b.md"
    path.write_text(path.read_text().replace("true", "echo b > b.txt"))
    box.runner("run", protocol, rc=0)
    kinds = {
        line.split("\t")[1]: line.split("\t")[0]
        for line in box.git("log", "--first-parent", "--format=%G?\t%s", protocol).splitlines()
    }
    assert kinds[f"{protocol}: edit 02-b.md"] == "G"
    assert next(sign for subject, sign in kinds.items() if "created" in subject or "planned" in subject) == "G"
    assert {sign for subject, sign in kinds.items() if "step-completed" in subject or " completed" in subject} == {"N"}
    for oid in box.git("rev-list", "--first-parent", protocol, "^main").split():
        if box.git("log", "-1", "--format=%G?", oid).strip() != "N":
            box.git("verify-commit", oid)
    box.runner("verify", protocol, rc=0)


def test_signing_that_fails_writes_nothing(box: Box) -> None:
    box.git("config", "--global", "commit.gpgsign", "true")
    box.git("config", "--global", "gpg.format", "ssh")
    box.git("config", "--global", "user.signingkey", str(box.home / "no-such-key"))
    before = box.git("for-each-ref")
    result = box.runner("new", "A plan", "--plan", box.plan(STEPS), rc=2)
    assert "could not be signed" in result.err and "next:" in result.err
    assert box.git("for-each-ref") == before


def test_identity_of_a_conditional_include(box: Box) -> None:
    """A person who is somebody else in this folder is somebody else here too."""
    (box.home / "work").write_text("[user]\n name = Work Alice\n email = alice@work.test\n")
    with (box.home / ".gitconfig").open("a") as file:
        file.write(f'[includeIf "gitdir:{box.path}/"]\n path = {box.home}/work\n')
    nobody = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"), "")
    protocol = box.runner("new", "A plan", "--plan", box.plan(STEPS), env=nobody, rc=0).out.strip()
    assert box.git("log", "-1", "--format=%an <%ae>", protocol).strip() == "Work Alice <alice@work.test>"


# --- code that configuration would run ---------------------------------------------------------------------------------

HOOKS = (
    "pre-commit", "prepare-commit-msg", "commit-msg", "post-commit", "post-checkout", "post-merge", "pre-push",
    "reference-transaction", "post-index-change", "fsmonitor-watchman", "pre-auto-gc", "post-rewrite", "update",
    "applypatch-msg", "push-to-checkout", "sendemail-validate", "p4-changelist",
)  # fmt: skip


def arm(box: Box, canary: Path) -> Callable[[str], str]:
    """Fill a repository's configuration with all that git would run; each leaves a file in `canary`."""
    canary.mkdir()
    for hook in HOOKS:
        at = box.path / ".git/hooks" / hook
        at.parent.mkdir(exist_ok=True)
        at.write_text(f"#!/bin/sh\ntouch '{canary}/hook-{hook}'\nexit 1\n")
        at.chmod(0o755)

    def run(name: str) -> str:
        script = canary.parent / f"run-{name}"
        script.write_text(f"#!/bin/sh\ntouch '{canary}/{name}'\nexit 1\n")
        script.chmod(0o755)
        return str(script)

    return run


def hostile(box: Box, run: Callable[[str], str]) -> None:
    """Write the configuration itself, included from a second file too."""
    config = box.path / ".git/config"
    text = f"""
[core]
 fsmonitor = {run("fsmonitor")}
 hooksPath = {box.path / ".git/hooks"}
 sshCommand = {run("ssh")}
 gitProxy = {run("proxy")}
 pager = {run("pager")}
 editor = {run("editor")}
 askPass = {run("askpass")}
 attributesFile = {box.path / "attributes"}
 alternateRefsCommand = {run("alternate")}
[diff]
 external = {run("diff-external")}
[diff "text"]
 textconv = {run("textconv")}
 command = {run("diff-command")}
[filter "evil"]
 clean = {run("clean")}
 smudge = {run("smudge")}
 required = true
[filter "worse"]
 process = {run("process")}
[filter "a=b"]
 clean = {run("clean-equals")}
 smudge = {run("smudge-equals")}
[merge "text"]
 driver = {run("merge")}
[merge]
 default = text
[credential]
 helper = !{run("credential")}
[gpg]
 program = {run("gpg")}
[gpg "ssh"]
 program = {run("gpg-ssh")}
 defaultKeyCommand = {run("gpg-key")}
[gpg "openpgp"]
 program = {run("gpg-openpgp")}
[sequence]
 editor = {run("sequence")}
[interactive]
 diffFilter = {run("difffilter")}
[pager]
 status = {run("pager-status")}
 log = {run("pager-log")}
 diff = {run("pager-diff")}
[alias]
 status = !{run("alias-status")}
 cat-file = !{run("alias-cat-file")}
[protocol]
 allow = always
[protocol "ext"]
 allow = always
[protocol "file"]
 allow = always
[uploadpack]
 packObjectsHook = {run("packobjects")}
[trailer "x"]
 command = {run("trailer")}
[log]
 showSignature = true
[gc]
 auto = 1
[maintenance]
 auto = true
[submodule]
 recurse = true
[include]
 path = {box.path / "included"}
"""
    with config.open("a") as file:
        file.write(text)
    (box.path / "included").write_text(
        f'[filter "included"]\n clean = {run("clean-included")}\n smudge = {run("smudge-included")}\n'
    )
    (box.path / "attributes").write_text("* filter=evil diff=text merge=text\n")
    (box.path / ".git/info").mkdir(exist_ok=True)
    (box.path / ".git/info/attributes").write_text("README.md diff=text merge=text\n")


def commands(box: Box, protocol: str) -> list[list[str]]:
    """Every command that reads or records."""
    return [
        ["status"], ["status", protocol], ["list"], ["show", protocol], ["log", protocol], ["diff", protocol],
        ["verify", protocol], ["doctor"], ["pause", protocol], ["resume", protocol], ["step", protocol], ["run", protocol],
        ["status"], ["diff", protocol], ["verify", "--all"], ["merge", protocol], ["clean", "--yes"], ["doctor", "--fix"],
    ]  # fmt: skip


def test_nothing_of_a_hostile_repository_runs(box: Box, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    run = arm(box, canary)
    attributes = "*.txt filter=evil diff=text merge=text\n*.a filter=worse\n*.b filter=a=b\n*.c filter=included\n"
    box.write(".gitattributes", attributes)
    for name in ("x.txt", "x.a", "x.b", "x.c"):
        box.write(name, "tracked\n")
    box.git("-c", "core.hooksPath=/dev/null", "add", "-A")
    box.git("-c", "core.hooksPath=/dev/null", "commit", "-qm", "files")
    hostile(box, run)
    steps = {
        "01-a": command("echo a > a.md; git --version > /dev/null"),
        "02-b": command("echo b > b.md", 'qa: {policy: light, checks: ["test -e b.md"]}\n'),
        "03-c": command("echo c > x.txt", "on_failure: {then: block}\n"),
    }
    protocol = box.new(steps)
    tree = box.worktree(protocol)
    (tree / f".protocols/{protocol}/02-b.md").write_text(
        (tree / f".protocols/{protocol}/02-b.md").read_text() + "\nMore.\n"
    )
    (tree / "x.txt").touch()
    codes = {" ".join(words): box.runner(*words).code for words in commands(box, protocol)}
    assert sorted(path.name for path in canary.iterdir()) == []
    assert codes[f"step {protocol}"] == 0 and codes[f"verify {protocol}"] == 0
    assert 70 not in codes.values(), codes
    assert "filters: [evil]" in box.log(protocol), "a filter on a changed path is told"


def test_hostile_configuration_of_one_worktree_or_one_branch(box: Box, tmp_path: Path) -> None:
    """What a linked worktree's own configuration, or a conditional include, names as drivers does not run either."""
    canary = tmp_path / "canary"
    run = arm(box, canary)
    for hook in (box.path / ".git/hooks").iterdir():
        hook.unlink()
    box.write(".gitattributes", "*.x filter=one\n*.y filter=two\n")
    for name in ("f.x", "f.y"):
        box.write(name, "tracked\n")
    box.commit()
    protocol = box.new({"01-a": command("echo a > a.md"), "02-b": command("echo b > b.md")})
    tree = box.worktree(protocol)
    box.git("config", "extensions.worktreeConfig", "true")
    box.git("config", "--worktree", "filter.one.clean", run("one-clean"), cwd=tree)
    box.git("config", "--worktree", "filter.one.smudge", run("one-smudge"), cwd=tree)
    (tmp_path / "branch").write_text(f'[filter "two"]\n clean = {run("two-clean")}\n smudge = {run("two-smudge")}\n')
    box.git("config", f"includeIf.onbranch:{protocol}.path", str(tmp_path / "branch"))
    for name in ("f.x", "f.y"):
        (tree / name).write_text("tracked\n")  # as it was, with another time: git looks into it
        os.utime(tree / name, (1, 1))
    box.runner("run", protocol, rc=0)
    box.runner("status", protocol, rc=0)
    assert sorted(path.name for path in canary.iterdir()) == []
    assert (tree / "b.md").exists()


def test_hostile_submodule_is_not_entered(box: Box, tmp_path: Path) -> None:
    """git asks a checked-out submodule for its status with the submodule's own configuration."""
    canary = tmp_path / "canary"
    inner = make_box(tmp_path / "inner")
    box.git("submodule", "--quiet", "add", inner.path, "sub")
    box.commit("sub")
    protocol = box.new({"01-a": command("echo a > README.md"), "02-b": command("rm README.md")})
    tree = box.worktree(protocol)
    box.git("submodule", "--quiet", "update", "--init", cwd=tree)
    run = arm(box, canary)
    gitdir = Path(box.git("rev-parse", "--absolute-git-dir", cwd=tree / "sub").strip())
    with (gitdir / "config").open("a") as file:
        file.write(f'[core]\n fsmonitor = {run("sub-fsmonitor")}\n[filter "x"]\n clean = {run("sub-clean")}\n')
    (tree / "sub/README.md").write_text("dirty\n")
    box.runner("run", protocol, rc=0)
    assert sorted(path.name for path in canary.iterdir()) == []
    assert box.git("-c", "core.fsmonitor=false", "status", "--porcelain", "--ignore-submodules=all", cwd=tree) == ""


def test_promisor_remote_that_runs_a_command(box: Box, tmp_path: Path) -> None:
    """An object that is missing is not fetched by whatever the repository's configuration names."""
    canary = tmp_path / "canary"
    run = arm(box, canary)
    for hook in (box.path / ".git/hooks").iterdir():
        hook.unlink()
    protocol = box.new(STEPS)
    oid = box.git("rev-parse", "main:README.md").strip()
    (box.path / f".git/objects/{oid[:2]}/{oid[2:]}").unlink()
    with (box.path / ".git/config").open("a") as file:
        file.write(
            '[core]\n repositoryformatversion = 1\n[extensions]\n partialClone = evil\n[protocol "ext"]\n allow = always\n'
            f'[remote "evil"]\n url = ext::{run("ext")} %S\n promisor = true\n partialclonefilter = blob:none\n vcs = x\n'
        )
    result = box.runner("step", protocol)
    assert result.code not in (0, 70), result.err
    assert sorted(path.name for path in canary.iterdir()) == []


def test_replace_refs_and_grafts_change_nothing(box: Box) -> None:
    protocol = box.new(STEPS)
    box.runner("step", protocol, rc=0)
    tip, first = box.git("rev-parse", protocol).strip(), box.git("rev-parse", "main").strip()
    box.git("replace", tip, first)
    box.write(".git/info/grafts", f"{tip}\n")
    box.runner("verify", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    box.runner("verify", protocol, rc=0)
    assert (
        int(
            box.git(
                "--no-replace-objects",
                "-c",
                "advice.graftFileDeprecated=false",
                "rev-list",
                "--count",
                tip,
                env={"GIT_GRAFT_FILE": "/dev/null"},
            )
        )
        > 1
    )


def test_as_from_a_hook_of_another_repository(box: Box, tmp_path: Path) -> None:
    """What git exports to hooks and aliases points elsewhere; it is not followed."""
    other = make_box(tmp_path / "other")
    before, refs = fingerprint(other.path), other.git("for-each-ref")
    env = {
        "GIT_DIR": str(other.path / ".git"),
        "GIT_WORK_TREE": str(other.path),
        "GIT_INDEX_FILE": str(other.path / ".git/index"),
        "GIT_OBJECT_DIRECTORY": str(other.path / ".git/objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": "/nonexistent",
        "GIT_NAMESPACE": "x",
        "GIT_COMMON_DIR": str(other.path / ".git"),
        "GIT_PREFIX": "src/",
        "GIT_QUARANTINE_PATH": "/nonexistent",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.fsmonitor",
        "GIT_CONFIG_VALUE_0": f"touch {tmp_path}/ran",
        "GIT_CONFIG_PARAMETERS": f"'core.fsmonitor'='touch {tmp_path}/ran'",
        "GIT_EXTERNAL_DIFF": f"touch {tmp_path}/ran",
        "GIT_EDITOR": f"touch {tmp_path}/ran",
        "GIT_PAGER": f"touch {tmp_path}/ran",
        "GIT_EXEC_PATH": "/nonexistent",
        "GIT_TEMPLATE_DIR": "/nonexistent",
        "GIT_CEILING_DIRECTORIES": str(box.path.parent),
        "GIT_DEFAULT_HASH": "sha256",
    }
    made = box.runner("new", "A plan", "--plan", box.plan(STEPS), env=env, rc=0)
    protocol = made.out.strip()
    for words in (["step"], ["run"], ["verify"], ["show"]):
        box.runner(*words, protocol, env=env, rc=0)
    assert box.state(protocol)["status"] == "completed"
    assert fingerprint(other.path) == before and other.git("for-each-ref") == refs
    assert not (tmp_path / "ran").exists()


def test_work_tree_that_configuration_names(box: Box, tmp_path: Path) -> None:
    """A `core.worktree` that points at somebody else's folder gets none of our files."""
    victim = tmp_path / "victim"
    victim.mkdir()
    protocol = box.new({"01-a": command("echo a > a.txt")})
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("checkout", "-q", protocol)
    box.git("config", "core.worktree", str(victim))
    box.runner("run", protocol, cwd=box.path)
    assert list(victim.iterdir()) == []


def test_bare_repository_hidden_in_a_tree(box: Box, tmp_path: Path) -> None:
    hidden = box.path / "docs/hidden"
    box.git("init", "-q", "--bare", hidden)
    (hidden / "sub").mkdir()
    with (hidden / "config").open("a") as file:
        file.write(f"[core]\n fsmonitor = touch {tmp_path}/ran\n worktree = {hidden / 'sub'}\n")
    result = box.runner("status", cwd=hidden / "sub")
    assert result.code == 2 and "not a git repository" in result.err
    assert not (tmp_path / "ran").exists()


# --- submodules, LFS ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("populated", [True, False])
def test_submodules(box: Box, tmp_path: Path, populated: bool) -> None:
    inner = make_box(tmp_path / "inner")
    box.git("submodule", "--quiet", "add", inner.path, "sub")
    box.commit("sub")
    if not populated:
        box.git("submodule", "--quiet", "deinit", "-f", "sub")
    protocol = goes(box, {"01-a": command("ls -A sub > listed.txt"), "02-b": command("echo b > b.txt")})
    assert box.git("show", f"{protocol}:listed.txt") == ""
    assert box.git("ls-tree", protocol, "sub").startswith("160000 commit")
    assert shown(box, protocol) == ""


def test_work_in_a_submodule_is_told_not_lost(box: Box, tmp_path: Path) -> None:
    inner = make_box(tmp_path / "inner")
    box.git("submodule", "--quiet", "add", inner.path, "sub")
    box.commit("sub")
    protocol = box.new(
        {"01-a": command("test ! -e sub/lost.txt || exit 9; echo x > sub/lost.txt", "on_failure: {retry: 1}\n")}
    )
    result = box.runner("run", protocol, rc=1)
    assert "submodule sub" in box.log(protocol), result.err
    assert '"code": 9' not in box.log(protocol) and "code: 9" not in box.log(protocol), (
        "the second attempt found leftovers"
    )


def test_lfs_files_that_are_left_alone_are_no_problem(box: Box) -> None:
    """Without git-lfs here, as its pointers: they are data."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 5\n"
    box.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    box.write("big.bin", pointer)
    box.commit()
    for name, value in {
        "clean": "git-lfs clean -- %f",
        "smudge": "false",
        "process": "false",
        "required": "true",
    }.items():
        box.git("config", f"filter.lfs.{name}", value)
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo changed > big.bin")})
    box.runner("step", protocol, rc=0)
    result = box.runner("step", protocol, rc=1)
    assert "filters: [lfs]" in box.log(protocol), result.err
    assert box.git("show", f"{protocol}:big.bin") == pointer
    assert (box.worktree(protocol) / "big.bin").read_text() == pointer


@pytest.mark.parametrize("mine", [True, False])
def test_filter_that_the_trusted_branch_allows(box: Box, tmp_path: Path, mine: bool) -> None:
    """It runs as the person set it up, never as the repository's configuration says."""
    box.write(".gitattributes", "*.bin filter=lfs -text\n")
    box.write(".protocols/config.yaml", "filters: [lfs]\n")
    box.commit()
    box.git("config", "--local", "filter.lfs.clean", f"touch {tmp_path}/ran; cat")
    if mine:
        box.git("config", "--global", "filter.lfs.clean", "tr a-z A-Z")
        box.git("config", "--global", "filter.lfs.required", "true")
    protocol = box.new({"01-a": command("echo content > big.bin")})
    result = box.runner("run", protocol)
    if mine:
        assert box.git("cat-file", "-p", f"{protocol}:big.bin") == "CONTENT\n", result.err
    else:
        assert "not set up on this machine" in box.log(protocol) and "big.bin" not in listed(box, protocol)
    assert not (tmp_path / "ran").exists()


# --- what a step may leave ---------------------------------------------------------------------------------------------


def test_odd_names(box: Box) -> None:
    line = """printf x > ./-n; printf x > 'quote".txt'; printf x > 'new
line.txt'; printf x > 'ünï.txt'; printf x > ':(top)magic'; printf x > '*'; mkdir 'a b'; printf x > 'a b/#'; printf x > 'tab\t.txt'"""
    protocol = goes(box, {"01-a": command(line), "02-b": command("rm ./-n; printf y > 'new\nline.txt'")})
    assert {'quote".txt', "new\nline.txt", "ünï.txt", ":(top)magic", "*", "a b/#", "tab\t.txt"} <= listed(box, protocol)
    assert "-n" not in listed(box, protocol)
    assert shown(box, protocol) == ""
    with Git.open(box.path) as git:
        assert git.blob(f"refs/heads/{protocol}:new\nline.txt") == b"y"


def test_names_that_are_not_utf8(box: Box) -> None:
    protocol = goes(box, {"01-a": command(r"printf x > $(printf 'b\351t')")})
    assert box.git("-c", "core.quotePath=true", "ls-tree", "--name-only", protocol).count(r'"b\351t"') == 1
    assert shown(box, protocol) == ""


def test_moves_of_files_and_folders(box: Box) -> None:
    steps = {
        "01-a": command("mkdir d && echo 1 > d/x && echo 2 > d/y && echo 3 > f"),
        "02-b": command("rm -r d && echo file > d && rm f && mkdir f && echo in > f/in"),
        "03-c": command("rm d && mkdir d && echo again > d/x && rm -r f && ln -s d/x f && mv README.md READYOU.md"),
        "04-d": command("rm -r d f src && chmod +x READYOU.md && mkdir empty"),
    }
    protocol = box.new(steps)
    tree = box.worktree(protocol)
    for _ in steps:
        box.runner("step", protocol, rc=0)
        assert shown(box, protocol) == ""
    assert listed(box, protocol) == {"READYOU.md"}
    assert box.git("ls-tree", protocol, "READYOU.md").startswith("100755")
    assert sorted(path.name for path in tree.iterdir()) == [".git", ".protocols", "READYOU.md"]


def test_links_are_data(box: Box, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("mine\n")
    line = f"ln -s {tmp_path}/outside out; ln -s ../../../etc/passwd up; ln -s nowhere dangling; ln -s . self"
    protocol = goes(box, {"01-a": command(line), "02-b": command("rm out; mkdir out; echo x > out/secret")})
    assert (tmp_path / "outside/secret").read_text() == "mine\n"
    assert box.git("show", f"{protocol}:up") == "../../../etc/passwd"
    assert shown(box, protocol) == ""


def test_person_s_link_on_the_way_is_not_followed(box: Box, tmp_path: Path) -> None:
    box.write("d/f.txt", "one\n")
    box.commit()
    protocol = box.new({"01-a": command("echo two > d/f.txt")})
    tree = box.worktree(protocol)
    shutil.copytree(tree / "d", tmp_path / "theirs")
    shutil.rmtree(tree / "d")
    (tree / "d").symlink_to(tmp_path / "theirs")
    result = box.runner("step", protocol, rc=4)
    assert "d/f.txt" in result.err
    assert (tmp_path / "theirs/f.txt").read_text() == "one\n"


def test_nested_repositories_are_told(box: Box) -> None:
    empty = "git init -q nested"
    full = f"{empty} && cd nested && echo x > x && git add x && git -c user.name=x -c user.email=x@x commit -qm x"
    for line in (empty + " && echo x > nested/x", full):
        protocol = box.new({"01-a": command(line)})
        box.runner("step", protocol, rc=1)
        assert "repository of its own: nested" in box.log(protocol)
        assert listed(box, protocol) == {"README.md", "src/app.py"}


def test_nested_repositories_that_are_ignored_are_left_alone(box: Box) -> None:
    box.write(".gitignore", "cache/\n")
    box.commit()
    protocol = goes(
        box,
        {
            "01-a": command("mkdir cache && git init -q cache/dep && echo a > a.txt"),
            "02-b": command("test -d cache/dep/.git"),
        },
    )
    assert "a.txt" in listed(box, protocol)


def test_commits_of_the_step_s_own_are_folded_in(box: Box) -> None:
    line = (
        "git config user.email x@x; git config user.name x; echo 1 > one; git add one; git commit -qm one; "
        "git checkout -q -b elsewhere; echo 2 > two; git add -A; git commit -qm two; git log | wc -l > count; git gc -q"
    )
    protocol = box.new({"01-a": command(line)})
    before = box.count(protocol)
    box.runner("run", protocol, rc=0)
    assert box.count(protocol) == before + 1
    assert {"one", "two", "count"} <= listed(box, protocol)
    assert "elsewhere" not in box.git("branch", "-a")
    box.runner("verify", protocol, rc=0)


def test_the_workspace_s_own_git_is_never_run_by_us(box: Box, tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    line = (
        "mkdir -p .git/hooks; for h in pre-commit post-checkout reference-transaction post-index-change; do "
        f"printf '#!/bin/sh\\ntouch {canary}\\n' > .git/hooks/$h; chmod +x .git/hooks/$h; done; "
        f"git config core.fsmonitor 'touch {canary}'; git config filter.x.clean 'touch {canary}';"
        " git config core.worktree /; echo '* filter=x' > .git/info/attributes; echo a > a.txt"
    )
    goes(
        box,
        {
            "01-a": command(line),
            "02-b": command(
                "test ! -e .git/info/attributes && echo b > b.txt", 'qa: {policy: light, checks: ["true"]}\n'
            ),
        },
    )
    assert not canary.exists()


def test_git_file_in_place_of_the_workspace_s_repository(box: Box, tmp_path: Path) -> None:
    """A `.git` that points at the person's repository is thrown away before anything looks at it."""
    for line in (
        f"rm -rf .git; echo 'gitdir: {box.path}/.git' > .git",
        f"rm -rf .git; ln -s {box.path}/.git .git",
        "rm -rf .git",
    ):
        goes(box, {"01-a": command(f"{line}; echo a > a.txt"), "02-b": command("git status")})
    assert (box.path / ".git/HEAD").exists()


@pytest.mark.parametrize(
    "line", mostly_slow(['d=$PWD; cd ..; rm -rf "$d"; ln -s /etc "$d"', 'rm -rf "$PWD"', 'mv "$PWD" "$PWD.away"'], 1)
)
def test_step_that_removes_its_workspace(box: Box, line: str) -> None:
    protocol = box.new({"01-a": command(line), "02-b": command("echo b > b.txt")})
    box.runner("step", protocol, rc=1)
    assert "removed its own workspace" in box.log(protocol)
    assert listed(box, protocol) == {"README.md", "src/app.py"}
    other = box.new({"01-a": command("echo b > b.txt")}, title="Other")
    box.runner("run", other, rc=0)
    box.runner("verify", protocol, rc=0)


def test_unreadable_leftovers(box: Box) -> None:
    """As another user than root: what a step locked is opened again, kept, and reset."""
    steps = {
        "01-a": command("mkdir -p deep/er; echo x > deep/er/f; echo y > g; chmod 0 g deep/er deep"),
        "02-b": command(
            "cat deep/er/f g; chmod 0 src; mkdir junk; echo j > junk/j; chmod 0 junk; exit 1",
            "on_failure: {retry: 1}\n",
        ),
    }
    protocol = box.new(steps)
    box.runner("step", protocol, rc=0)
    assert {"deep/er/f", "g"} <= listed(box, protocol)
    box.runner("run", protocol, rc=1)
    assert "junk/j" not in listed(box, protocol)
    assert "src/app.py" in listed(box, protocol)


@pytest.mark.slow
def test_many_files(box: Box) -> None:
    protocol = goes(
        box,
        {
            "01-a": command("mkdir many; for i in $(seq 5000); do echo $i > many/$i; done"),
            "02-b": command("rm -r many"),
        },
    )
    middle = box.git("rev-list", "--first-parent", protocol).split()[1]
    assert len(box.git("ls-tree", "--name-only", f"{middle}:many").split()) == 5000
    assert shown(box, protocol) == ""


@pytest.mark.slow
def test_a_big_file(box: Box) -> None:
    protocol = goes(box, {"01-a": command("truncate -s 49MB big.bin"), "02-b": command("rm big.bin")})
    assert shown(box, protocol) == ""


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("echo x > .protocols/config.yaml", False),
        ("echo x >> .protocols/$RUNNER_PROTOCOL/log.md", False),
        ("rm -r .protocols", False),
        ("mkdir -p .protocols/9999-other; echo x > .protocols/9999-other/plan.md", False),
        ("rm -r .protocols; ln -s /etc .protocols", False),
        ("mkdir -p .protocols/memory; ln -s /etc/passwd .protocols/memory/link.md", False),
        ("mkdir -p .protocols/memory; echo fact > .protocols/memory/fact.md", True),
    ],
)
def test_below_the_protocols_folder(box: Box, line: str, allowed: bool) -> None:
    protocol = box.new({"01-a": command(line)})
    box.runner("run", protocol, rc=0 if allowed else 1)
    assert box.state(protocol)["status"] == ("completed" if allowed else "failed")
    box.runner("verify", protocol, rc=0)
    changed = box.git("diff", "--name-only", "main", protocol, "--", ".protocols", f":!.protocols/{protocol}").split()
    assert changed == ([".protocols/memory/fact.md"] if allowed else [])


def test_empty_folders_and_caches_do_not_count(box: Box) -> None:
    line = "mkdir -p empty/deep __pycache__ node_modules/x .venv/bin; touch __pycache__/a.pyc node_modules/x/y .venv/z a.pyc .DS_Store"
    protocol = goes(box, {"01-a": command(line), "02-b": command("test -e node_modules/x/y && test ! -e empty")})
    assert listed(box, protocol) == {"README.md", "src/app.py"}


# --- beside the runner -------------------------------------------------------------------------------------------------


def test_gc_between_the_steps(box: Box) -> None:
    protocol = box.new({f"0{number}-s{number}": command(f"echo {number} > f{number}") for number in range(1, 5)})
    for _ in range(4):
        box.git("gc", "-q", "--prune=now")
        box.git("pack-refs", "--all")
        box.git("reflog", "expire", "--expire=now", "--all")
        box.runner("step", protocol, rc=0)
    box.git("gc", "-q", "--prune=now")
    box.runner("verify", protocol, rc=0)
    assert box.git("fsck", "--no-dangling") == ""
    assert shown(box, protocol) == ""


def test_clone_of_the_branch_verifies(remote: Box) -> None:
    protocol = goes(remote)
    remote.git("push", "-q", "origin", protocol)
    other = clone(remote, "bob")
    other.git("checkout", "-q", protocol)
    other.runner("verify", protocol, rc=0)
