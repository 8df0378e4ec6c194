"""A step works at the checkout's path, with the environment that the person made there, on the step's own code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.executor.calls import _below
from runner.sandbox.bubblewrap import Bubblewrap
from runner.store import workspace
from tests.conftest import Box, command, make_box
from tests.executor.minds import agent, ask, finish, mind, say, texts
from tests.people import governed, person

SANDBOX = {"RUNNER_EXECUTOR": "sandbox"}
WHOSE = 'python -c "import pkg; print(pkg.__file__, pkg.whose)"'


@pytest.fixture(autouse=True)
def works() -> None:
    if (why := Bubblewrap().check()) is not None:
        pytest.skip(f"allowed: no sandbox here: {why}")


@pytest.fixture
def installed(box: Box) -> Box:
    """A project in src layout with a virtual environment in which it is installed as `pip install -e .` does it."""
    box.write("src/pkg/__init__.py", 'whose = "base"\n')
    box.write(".gitignore", ".venv/\n__pycache__/\nsrc/pkg/_version.py\n")
    box.commit("a package")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", box.path / ".venv"], check=True)
    (packages,) = (box.path / ".venv/lib").glob("python*/site-packages")
    (packages / "pkg.pth").write_text(f"{box.path.resolve()}/src\n")
    return box


def line(*checks: str) -> str:
    return f"qa: {{checks: {json.dumps(checks)}}}\n" if checks else ""


def ran(box: Box, run: str, *checks: str, rc: int = 0) -> str:
    """Run one command step in the sandbox, and return the protocol's id."""
    protocol = box.new({"01-work": command(run, line(*checks))})
    box.runner("run", protocol, env=SANDBOX, rc=rc)
    return protocol


def output(box: Box, protocol: str, *options: str) -> str:
    return box.runner("show", protocol, "work", "--output", *options, rc=0).out


def test_a_step_and_its_check_stand_where_the_checkout_is(box: Box) -> None:
    here = box.path.resolve()
    protocol = ran(box, "pwd -P; ls -A", "pwd -P; ls -A")
    for options in ((), ("--check", "1")):
        lines = output(box, protocol, *options).splitlines()
        assert str(here) in [one.strip(" |") for one in lines]


def test_in_another_worktree_it_is_the_main_ones_path(box: Box) -> None:
    protocol = box.new({"01-work": command("pwd -P > where.txt")})
    other = box.path.parent / "other"
    box.git("worktree", "add", "-q", "--detach", str(other))
    box.runner("run", protocol, env=SANDBOX, cwd=other, rc=0)
    assert box.git("show", f"{protocol}:where.txt").strip() == str(box.path.resolve())


def test_without_a_checkout_it_is_the_workspaces_own_path(box: Box, tmp_path: Path) -> None:
    box.git("clone", "-q", "--bare", box.path, tmp_path / "bare.git", cwd=tmp_path)
    bare = Box(tmp_path / "bare.git", box.home, box.env)
    bare.git("remote", "remove", "origin")
    protocol = ran(bare, "pwd -P > where.txt")
    with bare.session() as session:
        space = workspace.place(session.project, protocol, None)
    assert bare.git("show", f"{protocol}:where.txt").strip() == str(space.work.resolve())


def test_what_is_installed_as_editable_is_the_steps_code(installed: Box) -> None:
    installed.write("src/pkg/__init__.py", 'whose = "unfinished"\n')  # of the person's, not committed
    change = 'printf "whose = \\"step\\"\\n" > src/pkg/__init__.py'
    protocol = ran(installed, f"{WHOSE}; {change}", WHOSE)
    at = f"{installed.path.resolve()}/src/pkg/__init__.py"
    assert f"{at} base" in output(installed, protocol)
    assert f"{at} step" in output(installed, protocol, "--check", "1")
    assert (installed.path / "src/pkg/__init__.py").read_text() == 'whose = "unfinished"\n'


@pytest.mark.parametrize(
    ("policy", "option", "is_used"),
    [(None, (), True), (None, ("--ci",), False), ("found", ("--ci",), True), ("made", (), False)],
)  # fmt: skip
def test_where_the_environment_may_come_from(
    installed: Box, policy: str | None, option: tuple[str, ...], is_used: bool
) -> None:
    if policy:
        installed.write(".protocols/policy.yaml", f"repo: {'6f0c' * 8}\nenvironment: {policy}\n")
        installed.commit("a policy")
    protocol = installed.new({"01-work": command("test -e .venv && echo yes > seen.txt || echo no > seen.txt")})
    installed.runner("run", protocol, *option, env={**SANDBOX, "RUNNER_PUBLISH": "never"})
    assert installed.git("show", f"{protocol}:seen.txt").strip() == ("yes" if is_used else "no")


def test_the_record_and_show_name_the_environment(installed: Box) -> None:
    protocol = ran(installed, "touch done.txt", "true")
    assert installed.log(protocol).count('"environment":"found .venv"') == 2  # of the step, and of its check
    assert "with the checkout's .venv" in installed.runner("show", protocol, "work", rc=0).out


def test_the_environment_cannot_be_changed_by_a_step(installed: Box) -> None:
    spoil = "for f in .venv/lib/python*/site-packages; do touch $f/usercustomize.py; done"
    ran(installed, f"! ({spoil}) && touch done.txt", f"! ({spoil})")
    assert not list((installed.path / ".venv").rglob("usercustomize.py"))


def test_files_of_the_environment_that_hold_credentials_are_empty(installed: Box) -> None:
    (installed.path / ".venv/pip.conf").write_text("index-url = https://me:token@example.test/\n")
    protocol = ran(installed, "wc -c < .venv/pip.conf > size.txt")
    assert installed.git("show", f"{protocol}:size.txt").strip() == "0"


def test_an_attempt_that_resumes_finds_its_home_as_it_left_it(box: Box) -> None:
    calls = (
        [("shell", {"command": "printf ke%s pt > ~/note"}), ask("Which colour?")],
        [("shell", {"command": "cat ~/note"})],
    )
    with mind(box, say(*calls[0]), say(*calls[1]), finish()) as wire:
        protocol = box.new({"01-work": agent(), "02-next": command("test ! -e ~/note")})
        box.runner("run", protocol, env=SANDBOX, rc=3)
        box.runner("answer", protocol, "blue", rc=0)
        box.runner("run", protocol, env=SANDBOX, rc=0)
    assert "kept" in texts(wire.bodies[-1])


def test_credentials_deep_in_what_is_shared_are_empty_too(installed: Box) -> None:
    installed.write(".gitignore", ".venv/\ndata/\n")
    installed.write(".protocols/config.yaml", "workspace: {share: [data]}\n")
    installed.commit("shared")
    for name in (".venv/etc/pip.conf", "data/a/b/.env.local", "data/aws/credentials", "data/aws/credentials.py"):
        (installed.path / name).parent.mkdir(parents=True, exist_ok=True)
        (installed.path / name).write_text("token\n")
    files = ".venv/etc/pip.conf data/a/b/.env.local data/aws/credentials"
    ran(installed, f"cat {files} > seen.txt; test ! -s seen.txt && grep token data/aws/credentials.py")


def test_an_environment_that_came_with_a_branch_is_not_taken(installed: Box) -> None:
    """It is the commit's own then, in the workspace and in the export; a link is none either."""
    (installed.path / ".venv").rename(installed.path.parent / "elsewhere")
    (installed.path / ".venv").symlink_to(installed.path.parent / "elsewhere")
    protocol = ran(installed, "test ! -e .venv && touch none.txt", "test ! -e .venv")
    assert installed.git("ls-tree", protocol, "none.txt")


def test_what_the_commit_has_in_the_environments_place_is_the_commits(installed: Box) -> None:
    installed.git("add", "-f", ".venv/pyvenv.cfg")
    installed.git("commit", "-qm", "a mistake")
    protocol = ran(installed, "ls .venv > listed.txt", "test $(ls .venv) = pyvenv.cfg")
    assert installed.git("show", f"{protocol}:listed.txt") == "pyvenv.cfg\n"


def test_a_file_that_the_build_generates_is_there(installed: Box) -> None:
    installed.write("pyproject.toml", '[tool.hatch.build.hooks.vcs]\nversion-file = "src/pkg/_version.py"\n')
    installed.commit("the version is generated")
    (installed.path / "src/pkg/_version.py").write_text('version = "1.2"\n')
    look = 'python -c "import pkg._version as v; print(v.version)" | grep -x 1.2'
    protocol = ran(installed, f"{look} && touch done.txt", look)
    assert "_version" not in installed.git("ls-tree", "-r", "--name-only", protocol)


def test_other_files_are_named_by_globs(installed: Box) -> None:
    installed.write(".gitignore", ".venv/\n*_pb2.py\n.env\n")
    installed.write(
        ".protocols/config.yaml", 'workspace: {generated: ["src/**/*_pb2.py", "src/.env", "src/pkg/__init__.py"]}\n'
    )
    installed.commit("generated code")
    for name in ("src/pkg/one_pb2.py", "other_pb2.py", "src/.env"):
        (installed.path / name).write_text("x = 1\n")
    look = "test -f src/pkg/one_pb2.py && test ! -e other_pb2.py && test ! -e src/.env"
    protocol = ran(installed, f"{look} && touch done.txt", look)
    assert "pb2" not in installed.git("ls-tree", "-r", "--name-only", protocol)


@pytest.mark.parametrize("name", [".env", "../secret.txt", "/etc/hostname", ".git/config"])
def test_no_other_file_is_taken_for_a_generated_one(installed: Box, name: str) -> None:
    installed.write("pyproject.toml", f'[tool.setuptools_scm]\nversion_file = "{name}"\n')
    installed.write(".gitignore", ".venv/\n.env\nsecret.txt\n")
    installed.commit("a wrong version file")
    for path in (installed.path / ".env", installed.path.parent / "secret.txt"):
        path.write_text("a secret\n")
    look = "! grep -rsx --exclude-dir=.protocols 'a secret' . ../secret.txt"
    ran(installed, f"{look} && touch done.txt", look)


def test_packages_of_node_are_found_by_the_steps_code(box: Box) -> None:
    box.write(".gitignore", "node_modules/\n")
    box.commit("ignored")
    (box.path / "node_modules/left").mkdir(parents=True)
    (box.path / "node_modules/left/index.js").write_text("exports.pad = 1\n")
    (box.path / "node_modules/.npmrc").write_text("//registry/:_authToken=secret\n")
    ran(
        box,
        "cat node_modules/left/index.js > seen.txt; ! test -s node_modules/.npmrc",
        "test -f node_modules/left/index.js",
    )


def test_a_workspace_inside_the_checkout_stays_at_its_own_path(installed: Box) -> None:
    installed.write(".protocols/config.yaml", "workspace: {path: .work}\n")
    installed.commit("workspaces inside")
    protocol = ran(
        installed, f"pwd -P > where.txt; {WHOSE.split(' -c')[0]} -c 'import sys; print(sys.prefix)' >> where.txt"
    )
    where, prefix = installed.git("show", f"{protocol}:where.txt").splitlines()
    assert where.startswith(f"{installed.path.resolve()}/.work/") and prefix.endswith("/.venv")


MAKE = "mkdir -p ~/tools deps && cp needs.txt ~/tools/needs && cp needs.txt deps/needs && echo x >> ~/times && pwd -P > ~/where"


@pytest.fixture
def made(box: Box) -> Box:
    """A project whose setup makes something in HOME, and a folder that git ignores."""
    box.write("needs.txt", "of the base\n")
    box.write(".gitignore", "deps/\n")
    box.write(".protocols/config.yaml", f"workspace: {{setup: '{MAKE}'}}\n")
    box.commit("a setup")
    return box


def test_what_a_setup_makes_is_seen_by_steps_and_checks(made: Box) -> None:
    look = f"cat ~/tools/needs deps/needs && test $(cat ~/where) = {made.path.resolve()}"
    protocol = ran(made, f"{{ {look}; }} > seen.txt", look)
    assert made.git("show", f"{protocol}:seen.txt") == "of the base\nof the base\n"
    assert "deps" not in made.git("ls-tree", "-r", "--name-only", protocol)


def test_it_is_made_once_for_all_protocols(made: Box) -> None:
    """The record names it by what it was made of."""
    for _ in range(2):
        protocol = ran(made, "cat ~/times > times.txt", "grep -c x ~/times | grep -x 1")
        assert made.git("show", f"{protocol}:times.txt") == "x\n"
    (folder,) = made.home.glob(".local/state/protocol-runner/*/environments/*")
    assert (folder / "home/tools/needs").is_file()
    assert f"with environment {folder.name[:12]}" in made.runner("show", protocol, "work", rc=0).out


def test_a_step_that_changes_what_the_setup_reads_makes_no_other_environment(made: Box) -> None:
    made.write(".protocols/config.yaml", f"workspace: {{setup: '{MAKE}', key: [needs.txt]}}\n")
    made.commit("a key")
    protocol = made.new({
        "01-change": command("echo of the step > needs.txt", line("grep -x 'of the base' deps/needs")),
        "02-after": command("cat deps/needs > seen.txt"),
    })  # fmt: skip
    told = made.runner("run", protocol, env=SANDBOX, rc=0).err
    assert made.git("show", f"{protocol}:seen.txt") == "of the base\n"
    assert told.count("needs.txt is not as on main, from which the environment was made") == 1


def test_a_changed_manifest_on_the_base_makes_another_one(made: Box) -> None:
    made.write(".protocols/config.yaml", f"workspace: {{setup: '{MAKE}', key: [needs.txt]}}\n")
    made.commit("a key")
    ran(made, "grep -x 'of the base' deps/needs && touch one.txt")
    made.write("needs.txt", "of later\n")
    made.commit("other needs")
    ran(made, "grep -x 'of later' deps/needs && touch two.txt")


def test_an_environment_that_nothing_used_for_30_days_goes_when_another_is_made(made: Box) -> None:
    made.write(".protocols/config.yaml", f"workspace: {{setup: '{MAKE}', key: [needs.txt]}}\n")
    made.commit("a key")
    ran(made, "touch one.txt")
    (old,) = environments(made)
    recent, begun, dead = (old.with_name(name) for name in ("recent", "making-1", "making-4194305"))
    shutil.copytree(old, recent)
    for folder, days in ((old, 31), (recent, 29)):
        os.utime(folder / "made", (time.time() - days * 86_400,) * 2)
    for folder in (begun, dead):  # of a process that is there, and of one that no kernel could have
        folder.mkdir()
    made.write("needs.txt", "of later\n")
    made.commit("other needs")
    ran(made, "touch two.txt")
    assert not {old, dead} & {*environments(made)} and {recent, begun} < {*environments(made)}
    (new,) = {*environments(made)} - {recent, begun}
    assert (new / "made").is_file()


def environments(box: Box) -> list[Path]:
    return sorted(box.home.glob(".local/state/protocol-runner/*/environments/*"))


def test_what_is_made_is_read_only(made: Box) -> None:
    spoil = "! touch ~/tools/new deps/new && ! rm -r deps/needs && touch done.txt"
    ran(made, spoil, "test ! -e ~/tools/new && test ! -e deps/new")


def test_a_setup_that_fails_leaves_nothing_and_is_run_again(made: Box) -> None:
    made.write(".protocols/config.yaml", "workspace: {setup: 'touch ~/half; exit 3'}\n")
    made.commit("a setup that fails")
    protocol = made.new({"01-work": command("touch done.txt")})
    for _ in range(2):
        assert "setup failed: exit 3" in made.runner("run", protocol, env=SANDBOX, rc=1).err
    assert not list(made.home.glob(".local/state/protocol-runner/*/environments/*"))


USER_SITE = "$(python3 -c 'import site; print(site.getusersitepackages())')"
PY = "python3 -c 'import sys; sys.exit(0)'"


@pytest.mark.parametrize(
    ("plant", "trap"),
    [
        ("echo exit 0 > ~/.profile; mkdir -p ~/bin; touch ~/planted", "test -e ~/planted -o -e ~/.profile -o -e ~/bin"),
        ("touch $(dirname $RUNNER_RESULT)/planted", "test -e $(dirname $RUNNER_RESULT)/planted"),
        ("mkdir -p ~/.cache && touch ~/.cache/planted", "test -e ~/.cache/planted"),
        ("mkdir build && echo '*' > build/.gitignore && touch build/planted", "test -e build/planted"),
        ("git config --global alias.x y; git config alias.x y", "test -e ~/.gitconfig -o -e .git"),
        (f"mkdir -p {USER_SITE} && echo 'print(42)' > {USER_SITE}/usercustomize.py", f"{PY} | grep 42"),
        (f"mkdir -p {USER_SITE} && echo 'import sys; print(42)' > {USER_SITE}/x.pth", f"{PY} | grep 42"),
        ("echo 'print(42)' > conftest.py", "test -e conftest.py"),
        ("echo registry=http://evil.test/ > ~/.npmrc; cp ~/.npmrc .npmrc", "test -e ~/.npmrc -o -e .npmrc"),
        ("mkdir bin && printf '#!/bin/sh\\necho 42' > bin/mine && chmod +x bin/mine", "mine | grep 42"),
    ],
)  # fmt: skip
def test_a_check_sees_nothing_of_a_step_but_its_commit(box: Box, plant: str, trap: str) -> None:
    """Not by HOME, nor by what git ignores, though a folder of the checkout is on PATH."""
    box.write(".gitignore", "conftest.py\n.npmrc\nbin/\n")
    box.commit("ignored")
    (box.path / "bin").mkdir()
    env = {**SANDBOX, "PATH": f"{box.path}/bin:/usr/bin:/bin"}
    protocol = box.new({"01-work": command(f"{{ {plant}; }} && {trap} && touch done.txt", line(f"! ({trap})"))})
    box.runner("run", protocol, env=env, rc=0)
    assert "qa-passed" in box.log(protocol)


def setup(box: Box, run: str, more: str = "") -> None:
    box.write(".protocols/config.yaml", f"workspace:\n  setup: {json.dumps(run)}\n{more}")
    box.commit("a setup")


GROWS = command("echo 2 > requirements.txt", "outputs: [requirements.txt]\nqa: {checks: ['grep 2 deps/needs']}\n")
NEXT = command("grep 2 deps/needs && touch next.txt", "needs: [work]\n")


def grown(box: Box, more: str = "") -> str:
    box.write(".gitignore", "deps/\n")
    box.write("requirements.txt", "1\n")
    setup(box, "mkdir deps && cp requirements.txt deps/needs", more)
    return box.new({"01-work": GROWS, "02-next": NEXT})


def test_a_change_of_what_the_setup_reads_is_approved_before_its_checks_and_makes_another_environment(
    tmp_path: Path,
) -> None:
    alice = person(tmp_path / "people", "alice")
    box = governed(tmp_path / "repo", [alice])
    protocol = grown(box)
    told = box.runner("run", protocol, env=SANDBOX, rc=3)
    assert "requirements.txt (workspace.on_change: the setup reads it)" in told.out + told.err
    assert "qa-" not in box.log(protocol)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("run", protocol, env=SANDBOX, rc=0)
    assert box.log(protocol).count("approval-asked") == 1
    box.runner("verify", protocol, rc=0)


def test_an_approved_environment_is_made_anew_where_it_is_gone(tmp_path: Path) -> None:
    alice = person(tmp_path / "people", "alice")
    box = governed(tmp_path / "repo", [alice])
    protocol = grown(box)
    box.runner("run", protocol, env=SANDBOX, rc=3)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    for _ in range(2):
        for folder in box.home.glob(".local/state/protocol-runner/*/environments"):
            shutil.rmtree(folder)
        box.runner("step", protocol, env=SANDBOX, rc=0)
    assert box.state(protocol)["steps"]["next"]["status"] == "completed"


def test_a_change_that_is_rejected_makes_no_environment(tmp_path: Path) -> None:
    alice = person(tmp_path / "people", "alice")
    box = governed(tmp_path / "repo", [alice])
    protocol = grown(box)
    box.runner("run", protocol, env=SANDBOX, rc=3)
    box.runner("reject", protocol, "--yes", env=alice.env, rc=0)
    box.runner("run", protocol, env=SANDBOX, rc=3)
    assert len(list(box.home.glob(".local/state/protocol-runner/*/environments/*"))) == 1


def test_an_approval_of_other_changes_makes_no_environment_of_these(tmp_path: Path) -> None:
    """What a step changed while nobody was asked is in the tree that a person approves another step's changes of."""
    alice = person(tmp_path / "people", "alice")
    box = governed(tmp_path / "repo", [alice])
    box.write(".gitignore", "deps/\n")
    box.write("requirements.txt", "1\n")
    setup(box, "mkdir deps && cp requirements.txt deps/needs", "  on_change: keep\n")
    steps = {"01-work": command("echo 2 > requirements.txt"), "02-ci": command("mkdir .github && touch .github/x")}
    protocol = box.new({**steps, "03-next": command("grep 1 deps/needs && touch next.txt")})
    box.runner("step", protocol, env=SANDBOX, rc=0)
    setup(box, "mkdir deps && cp requirements.txt deps/needs", "  on_change: ask\n")
    box.runner("run", protocol, env=SANDBOX, rc=3)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("run", protocol, env=SANDBOX, rc=0)


@pytest.mark.parametrize("governs", [True, False])
def test_nobody_is_asked_where_the_environment_is_kept(tmp_path: Path, governs: bool) -> None:
    """By `keep`; and, where no policy says who decides, without the key."""
    box = (
        governed(tmp_path / "repo", [person(tmp_path / "people", "alice")]) if governs else make_box(tmp_path / "repo")
    )
    protocol = grown(box, "  on_change: keep\n" if governs else "")
    told = box.runner("run", protocol, env=SANDBOX, rc=1)
    assert "requirements.txt is not as on main" in told.err


def test_without_a_policy_a_question_at_the_keyboard_waits(box: Box) -> None:
    protocol = grown(box, "  on_change: ask\n")
    box.runner("run", protocol, env=SANDBOX, rc=3)
    assert "you, at a terminal" in box.runner("status", protocol).out


@pytest.mark.parametrize("named", [".", "./", "src"])
def test_a_folder_that_a_setup_installs_makes_no_other_environment(box: Box, named: str) -> None:
    box.write("src/a.py", "1\n")
    setup(box, f"ls {named} > ~/seen")
    protocol = box.new({"01-work": command("echo 2 > src/a.py && test -s ~/seen", line("test -s ~/seen"))})
    assert "not as on main" not in box.runner("run", protocol, env=SANDBOX, rc=0).err
    box.write("src/a.py", "3\n")
    box.commit("code")
    ran(box, "test -s ~/seen && touch done.txt")
    assert len(list(box.home.glob(".local/state/protocol-runner/*/environments/*"))) == 1


TOKEN = {
    "PACKAGES": "s3cr3t-of-the-index",
    "PIP_INDEX_URL": "https://me:pass@example.test/",
    "HTTPS_PROXY": "http://proxy.test:1",
}


def test_a_setup_gets_settings_and_what_is_named_and_no_step_does(box: Box) -> None:
    setup(
        box,
        'echo "$PACKAGES" | wc -c > ~/size; echo "${PIP_INDEX_URL:-none} $HTTPS_PROXY $HOME" > ~/rest',
        "  env: [PACKAGES, HOME]\n",
    )
    look = 'grep 20 ~/size && grep -x "none http://proxy.test:1 /run/runner/home" ~/rest && test -z "$PACKAGES$HTTPS_PROXY"'
    protocol = box.new({"01-work": command(f"{look} && touch done.txt", line(look))})
    box.runner("run", protocol, env={**SANDBOX, **TOKEN}, rc=0)


@pytest.mark.parametrize(
    "leaves",
    ["mkdir -p ~/.config && echo url=$PACKAGES > ~/.config/pip.conf", "printf %s $PACKAGES | base64 > gen.txt"],
)
def test_an_environment_that_holds_the_value_of_a_variable_is_refused(box: Box, leaves: str) -> None:
    box.write(".gitignore", "gen.txt\n")
    setup(box, leaves, "  env: [PACKAGES]\n")
    protocol = box.new({"01-work": command("true")})
    told = box.runner("run", protocol, env={**SANDBOX, **TOKEN}, rc=1).err
    file = "gen.txt" if "gen.txt" in leaves else "~/.config/pip.conf"
    assert f"the workspace's setup left the value of PACKAGES in {file}" in told and TOKEN["PACKAGES"] not in told
    (folder,) = box.home.glob(".local/state/protocol-runner/*/environments")
    assert not list(folder.iterdir())


def test_a_setup_that_fails_says_which_variables_it_had_not_and_prints_none(box: Box) -> None:
    setup(box, "echo $PACKAGES; false", "  env: [PACKAGES, ABSENT]\n")
    told = box.runner("run", box.new({"01-work": command("true")}), env={**SANDBOX, **TOKEN}, rc=1).err
    assert "ABSENT of workspace.env is not set" in told and "`workspace: {env: [PIP_INDEX_URL]}` passes it" in told
    assert "[PACKAGES]" in told and TOKEN["PACKAGES"] not in told


def test_a_setup_can_read_the_certificates_that_a_variable_names(box: Box) -> None:
    (box.path.parent / "ca.pem").write_text("a certificate\n")
    setup(box, "cat $SSL_CERT_FILE > ~/seen")
    protocol = box.new({"01-work": command("grep 'a certificate' ~/seen && touch done.txt")})
    box.runner("run", protocol, env={**SANDBOX, "SSL_CERT_FILE": str(box.path.parent / "ca.pem")}, rc=0)


def test_a_link_that_a_setup_leaves_shows_nothing_of_the_machine(box: Box) -> None:
    secret = box.path.parent / "secret"
    secret.mkdir()
    (secret / "key").write_text("a secret\n")
    box.write(".gitignore", "stolen\ngenkey\n")
    setup(
        box, f"ln -s {secret} stolen; ln -s {secret}/key genkey; ln -s {secret} ~/stolen; ln -s {secret}/key ~/genkey"
    )
    look = "! cat stolen/key genkey ~/stolen/key ~/genkey 2>/dev/null | grep secret"
    ran(box, f"{look} && touch done.txt", look)


def test_what_a_setup_leaves_is_there_as_it_left_it(box: Box) -> None:
    box.write(".gitignore", "gentool\nbig.bin\n.env\nlatest\n.venv\n")
    make = "printf '#!/bin/sh\\necho it runs\\n' > gentool; chmod +x gentool; head -c 1500000 /dev/zero > big.bin; echo A=1 > .env"
    setup(box, f"{make}; mkdir ~/env; ln -s ~/env .venv; mkdir ~/.cache")
    look = "./gentool && test $(wc -c < big.bin) = 1500000 && grep A=1 .env && test -d .venv"
    ran(box, f"{look} && mkdir -p ~/.cache && touch ~/.cache/x done.txt", look)


def test_a_setup_has_a_repository_and_leaves_none(box: Box) -> None:
    setup(
        box,
        "git status --porcelain > ~/status; git rev-parse HEAD > ~/head; cd $(git rev-parse --show-toplevel) && pwd > ~/top",
    )
    base = box.git("rev-parse", "HEAD").strip()
    look = f"test ! -s ~/status && grep {base} ~/head && grep -x {box.path.resolve()} ~/top"
    ran(box, f"{look} && touch done.txt", f"{look} && test ! -e .git")


def test_an_environment_that_a_power_cut_left_is_made_again(made: Box) -> None:
    ran(made, "cat deps/needs && touch one.txt")
    (folder,) = made.home.glob(".local/state/protocol-runner/*/environments/*")
    (folder / "made").write_text("")
    ran(made, "cat deps/needs && touch two.txt", "cat deps/needs")


def test_the_policy_forbids_what_is_shared_too(box: Box) -> None:
    box.write(".gitignore", "data/\n")
    box.write(".protocols/config.yaml", "workspace: {share: [data]}\n")
    box.write(".protocols/policy.yaml", f"repo: {'6f0c' * 8}\nenvironment: made\n")
    box.commit("shared, and forbidden")
    (box.path / "data").mkdir()
    protocol = box.new({"01-work": command("test -e data && echo yes > seen.txt || echo no > seen.txt")})
    box.runner("run", protocol, env=SANDBOX)
    assert box.git("show", f"{protocol}:seen.txt").strip() == "no"


def test_a_file_of_credentials_that_is_a_link_stops_no_step(installed: Box) -> None:
    (installed.path.parent / "pip.conf").write_text("a secret\n")
    (installed.path / ".venv/pip.conf").symlink_to(installed.path.parent / "pip.conf")
    look = "! cat .venv/pip.conf"
    ran(installed, f"{look} && touch done.txt", look)


def test_a_folder_of_a_generated_file_that_becomes_a_link_stops_no_check(installed: Box) -> None:
    installed.write("pyproject.toml", '[tool.hatch.build.hooks.vcs]\nversion-file = "src/pkg/_version.py"\n')
    installed.write(".gitignore", ".venv/\n_version.py\n")
    installed.commit("the version is generated")
    (installed.path / "src/pkg/_version.py").write_text('version = "1.2"\n')
    ran(installed, "mv src/pkg src/real && ln -s real src/pkg", "test -L src/pkg && test -f src/real/__init__.py")


def test_a_generated_file_behind_a_link_keeps_no_other_one_away(installed: Box) -> None:
    installed.write(".protocols/config.yaml", 'workspace: {generated: ["**/*_pb2.py"]}\n')
    installed.write(".gitignore", ".venv/\n*_pb2.py\n")
    installed.commit("generated code")
    for name in ("src/pkg/one_pb2.py", "two_pb2.py"):
        (installed.path / name).write_text("x = 1\n")
    protocol = installed.new(
        {
            "01-link": command("mv src/pkg src/real && ln -s real src/pkg && rm two_pb2.py"),
            "02-work": command("test -f two_pb2.py && touch done.txt"),
        }
    )
    installed.runner("run", protocol, env=SANDBOX, rc=0)


def test_an_environment_below_the_checkout_that_is_on_path_is_shown(box: Box) -> None:
    box.write(".gitignore", ".direnv/\n")
    box.commit("direnv")
    tools = box.path / ".direnv/python-3.11"
    (tools / "bin").mkdir(parents=True)
    (tools / "pyvenv.cfg").write_text("")
    (tools / "bin/mytool").write_text("#!/bin/sh\necho it runs\n")
    (tools / "bin/mytool").chmod(0o755)
    protocol = box.new({"01-work": command("mytool > seen.txt", line("mytool"))})
    box.runner("run", protocol, env={**SANDBOX, "PATH": f"{tools}/bin:/usr/bin:/bin"}, rc=0)
    assert box.git("show", f"{protocol}:seen.txt") == "it runs\n"


@pytest.mark.parametrize(
    ("activated", "first"), [(None, "checkout"), ("", "checkout"), (sys.prefix, "checkout"), ("other", "other")]
)
def test_an_environment_of_the_checkout_is_first_on_path_unless_another_is_activated(
    installed: Box, tmp_path: Path, activated: str | None, first: str
) -> None:
    """The runner's own is no other one: it may run from an activated environment."""
    other = tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    (other / "pyvenv.cfg").write_text("")
    for folder, name in ((other, "other"), (installed.path / ".venv", "checkout")):
        (folder / "bin/whose").write_text(f"#!/bin/sh\necho {name}\n")
        (folder / "bin/whose").chmod(0o755)
    env = {**SANDBOX, "PATH": f"{other}/bin:/usr/bin:/bin"}
    env |= {} if activated is None else {"VIRTUAL_ENV": str(other) if activated == "other" else activated}
    protocol = installed.new({"01-work": command("whose > whose.txt", line(f"whose | grep -x {first}"))})
    installed.runner("run", protocol, env=env, rc=0)
    assert installed.git("show", f"{protocol}:whose.txt").strip() == first


@pytest.fixture
def built(box: Box) -> Box:
    """A project with cargo's folder, which commands write into."""
    box.write(".gitignore", "/target/\n")
    box.commit("ignored")
    box.write("target/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n")
    box.write("target/debug/lib.rlib", "of the checkout\n")
    os.utime(box.path / "target/debug/lib.rlib", (1_000_000_000,) * 2)
    return box


def test_a_step_and_its_checks_each_write_into_a_copy_of_what_a_build_made(built: Box) -> None:
    look = "grep -x 'of the checkout' target/debug/lib.rlib && test $(stat -c %Y target/debug/lib.rlib) = 1000000000"
    spoil = "echo spoilt | tee target/debug/lib.rlib target/new"
    check = f"{look} && test ! -e target/new && {spoil}"
    protocol = ran(built, f"{look} && {spoil} && touch done.txt", check, f"{look} || grep -x spoilt target/new")
    assert "target" not in built.git("ls-tree", "-r", "--name-only", protocol)
    assert (built.path / "target/debug/lib.rlib").read_text() == "of the checkout\n"
    assert not (built.path / "target/new").exists()
    assert "the checkout's target" in built.runner("show", protocol, "work", rc=0).out


def test_a_folder_of_builds_that_the_step_s_commit_does_not_ignore_is_none_of_its_work(built: Box) -> None:
    built.write(".gitignore", "nothing\n")
    built.git("add", ".gitignore")
    built.git("commit", "-qm", "no longer ignored")
    protocol = ran(built, "test ! -e target && touch done.txt")
    assert "target" not in built.git("ls-tree", "-r", "--name-only", protocol)


@pytest.mark.parametrize("why", ["it changes, or has something that cannot be read", "it has more than 2 GB"])
def test_a_folder_of_builds_that_cannot_be_copied_stops_no_step(built: Box, why: str) -> None:
    if "changes" in why:
        os.mkfifo(built.path / "target/pipe")
    else:
        os.truncate(built.path / "target/debug/lib.rlib", 2_000_000_001)
    protocol = built.new({"01-work": command("test ! -e target && touch done.txt", line("true"))})
    said = built.runner("run", protocol, env=SANDBOX, rc=0).err
    assert said.count(f"steps and checks do not have {built.path.resolve()}/target: {why}") == 1


def test_programs_of_rustup_find_their_toolchain(box: Box) -> None:
    """They look for it in HOME, which is another one inside."""
    for name, text in (
        (".cargo/bin/cargo", 'exec "${RUSTUP_HOME:-$HOME/.rustup}/toolchains/stable/cargo"'),
        (".rustup/toolchains/stable/cargo", "echo it runs"),
    ):
        at = box.home / name
        at.parent.mkdir(parents=True)
        at.write_text(f"#!/bin/sh\n{text}\n")
        at.chmod(0o755)
    protocol = box.new({"01-work": command("cargo > seen.txt", line("cargo"))})
    box.runner("run", protocol, env={**SANDBOX, "PATH": f"{box.home}/.cargo/bin:/usr/bin:/bin"}, rc=0)
    assert box.git("show", f"{protocol}:seen.txt") == "it runs\n"


def test_a_step_sees_nothing_of_the_home_of_the_one_before(box: Box) -> None:
    protocol = box.new({
        "01-plant": command("touch ~/planted && mkdir ~/.cache && touch ~/.cache/kept one.txt"),
        "02-look": command("test ! -e ~/planted && test -e ~/.cache/kept && touch two.txt"),
    })  # fmt: skip
    box.runner("run", protocol, env=SANDBOX, rc=0)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("src/a.txt", "src/a.txt"), ("/proj/secret/x", "secret/x"), ("/workspace/secret/x", "secret/x"), ("/proj", "."),
        ("/proj/../proj/secret/x", None), ("../x", None), ("/etc/passwd", None), ("/project/x", None),
        ("link/x", "secret/x"), ("up/x", "secret/x"), ("out/x", None), ("src/../link/x", "secret/x"),
        ("node_modules/own/x", "secret/x"), ("node_modules/lib/x", "node_modules/lib/x"), ("node_modules/deep/own/x", "secret/x"),
    ],
)  # fmt: skip
def test_a_path_of_a_call_is_judged_as_the_tools_find_it(tmp_path: Path, path: str, found: str | None) -> None:
    for folder in ("src", "secret"):
        (tmp_path / folder).mkdir()
    (tmp_path / "link").symlink_to("/proj/secret")
    (tmp_path / "src/up").symlink_to("../secret")
    (tmp_path / "up").symlink_to("src/up")
    (tmp_path / "out").symlink_to("/etc")
    bound = tmp_path / "checkout/node_modules"
    for name, target in (("own", "../secret"), ("deep/own", "../../secret")):
        (bound / name).parent.mkdir(parents=True, exist_ok=True)
        (bound / name).symlink_to(target)
    assert _below(str(tmp_path), ("/proj", "/workspace"), path, {"node_modules": bound}) == found


def test_doctor_names_ignored_files_in_the_source_that_no_step_is_shown(installed: Box) -> None:
    installed.write(".gitignore", ".venv/\n*.pyc\n*_pb2.py\n*.so\n.env\n")
    installed.write(".protocols/config.yaml", 'workspace: {generated: ["src/**/*_pb2.py"]}\n')
    installed.commit("ignored files")
    for name in ("src/pkg/one_pb2.py", "src/pkg/fast.so", "src/pkg/old.pyc", "src/.env", "top.so"):
        (installed.path / name).write_text("")
    (installed.path / ".pytest_cache").mkdir()
    for name in (".gitignore", "README.md"):  # as pytest leaves it
        (installed.path / ".pytest_cache" / name).write_text("*\n")
    sandboxed = {"RUNNER_EXECUTOR": "sandbox"}
    assert "1 file in the source that git ignores: src/pkg/fast.so" in installed.runner("doctor", env=sandboxed).out
    (installed.path / "src/pkg/x\nall is well\x1b[2J.so").write_text("")
    assert r"fast.so, 'src/pkg/x\nall is well\x1b[2J.so'" in installed.runner("doctor", env=sandboxed).out
    assert "that git ignores" not in installed.runner("doctor", env={"RUNNER_EXECUTOR": "host"}).out
