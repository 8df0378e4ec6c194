"""The programs and files that a command line starts, as far as its text shows: a shell, other programs, the files of a check.

Nobody reads a shell's text: a shell, or a program that starts what its arguments name, is reported and judged as such. So is every
program that is not on the short list of those that start nothing: awk, make, npx and the dynamic linker start what arguments say,
and there is no end of such programs.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from runner.lines import pattern
from runner.protocol import globs

SHELLS: Final = frozenset({
    "sh", "ash", "bash", "dash", "zsh", "ksh", "mksh", "rbash", "fish", "csh", "tcsh", "pwsh", "powershell", "busybox", "toybox",
})  # fmt: skip
# Programs that start another one, which their arguments name.
STARTERS: Final = frozenset({
    "chroot", "chrt", "doas", "entr", "env", "eval", "exec", "firejail", "flock", "ionice", "nice", "nohup", "nsenter",
    "parallel", "proot", "script", "setarch", "setpriv", "setsid", "ssh", "stdbuf", "strace", "su", "sudo", "systemd-run",
    "taskset", "time", "timeout", "unbuffer", "unshare", "watch", "xargs",
})  # fmt: skip
# Options that make a program start another one, or run text as code: how an argument begins, by program.
STARTING: Final[dict[str, tuple[str, ...]]] = {
    "find": ("-exec", "-ok"),
    "fd": ("-x", "-X", "--exec"),
    "git": ("--upload-pack", "--receive-pack", "--exec", "--ext-diff", "--open-files-in-pager"),
    "tar": (
        "--checkpoint-action",
        "--to-command",
        "--use-compress-program",
        "-I",
        "--rsh-command",
        "-F",
        "--info-script",
    ),
    "rsync": ("-e", "--rsh"),
    "rg": ("--pre",),
    "sort": ("--compress-program",),
}
# The same for options that count only before the first word that is none.
LEADING: Final[dict[str, re.Pattern[str]]] = {
    "git": pattern("-c|--config-env|--exec-path"),
    "python": pattern("-[A-Za-z]*c"),
    "perl": pattern("-[A-Za-z]*[eE]"),
    "php": pattern("-r|--run"),
    **dict.fromkeys(("ruby", "lua"), pattern("-[A-Za-z]*e")),
    **dict.fromkeys(("node", "bun", "deno"), pattern("-[a-z]*[ep]|--eval|--print|eval")),
}


# Programs that only look at the files they are given: these are what a check checks.
LOOKING: Final = frozenset({
    "[", "cat", "cmp", "diff", "egrep", "fgrep", "file", "grep", "head", "jq", "ls", "md5sum", "rg", "sha256sum", "stat",
    "tail", "test", "wc",
})  # fmt: skip


def starts_others(argv: Sequence[str]) -> bool:
    """Return whether a command is a shell, or starts programs that its arguments name: the text of these is not judged."""
    name = globs.fold(argv[0].rpartition("/")[2])
    if name in SHELLS or name in STARTERS:
        return True
    name = re.sub(r"[0-9.]+\Z", "", name)  # python3.12
    if any(word.startswith(STARTING.get(name, ())) for word in argv[1:]):
        return True
    leading, before = LEADING.get(name), ""
    for word in argv[1:] if leading else ():
        assert leading is not None
        if leading.match(word):
            return True
        if not word.startswith("-") and before not in ("-W", "-X", "-I", "-r", "-C"):  # whose value it is
            return False
        before = word
    return False


# Programs that start nothing, whatever their arguments and the files they read say. One that runs a pager, a hook, a plug-in or what a
# configuration names, such as git, does not belong here; nor does one with an option for it, but those of `_OPTIONS`.
STARTING_NOTHING: Final = frozenset({
    "[", "base64", "basename", "cat", "chmod", "cksum", "cmp", "comm", "cp", "cut", "date", "df", "dirname", "du", "echo", "egrep",
    "expand", "expr", "false", "fgrep", "find", "fold", "grep", "head", "id", "join", "jq", "ln", "ls", "md5sum", "mkdir", "mktemp",
    "mv", "nl", "od", "paste", "printf", "pwd", "readlink", "realpath", "rev", "rg", "rm", "rmdir", "seq", "sha1sum", "sha256sum",
    "sha512sum", "sleep", "sort", "stat", "tac", "tail", "tee", "test", "touch", "tr", "true", "uname", "uniq", "wc", "whoami",
})  # fmt: skip
# The arguments with which one of these starts another: GNU takes any beginning of a long option that is no other's.
_OPTIONS: Final[dict[str, re.Pattern[str]]] = {
    "find": pattern("-exec|-ok"),
    "rg": pattern("--pre|--hostname-bin|--search-zip|-[A-Za-z0-9]*z"),
    "sort": pattern("--co"),
}
_PLACES: Final = ("", "/bin/", "/usr/bin/")  # of a program that is the system's, and not a file of that name


def starts_nothing(argv: Sequence[str]) -> bool:
    """Return whether a command is known to start no other program."""
    place, slash, name = argv[0].rpartition("/")
    if name not in STARTING_NOTHING or place + slash not in _PLACES:
        return False
    starting = _OPTIONS.get(name)
    return starting is None or not any(starting.match(word) for word in argv[1:])


def may_start(argv: Sequence[str], shell: bool | None) -> tuple[str, ...]:
    """Return what may be started, by name and as it was given, for a rule that denies or asks."""
    if not argv:
        return ()
    found = [globs.fold(word) for word in (argv if shell else argv[:1])]
    return tuple(dict.fromkeys([*found, *(word.rpartition("/")[2] for word in found)]))


def _commands(checks: Iterable[str]) -> Iterator[list[str]]:
    """Yield the arguments of each command of check lines, as far as they show without a shell."""
    for line in checks:
        for part in re.split(r"[;&|()\n]+", line):
            found = [word for word in re.split(r"[\s<>\"'`$]+", part) if word and not re.match(r"-|[A-Za-z_]+=", word)]
            if found:
                yield found


def named_files(checks: Iterable[str]) -> frozenset[str]:
    """Return the arguments of check lines that may be files that decide: `sh scripts/test.sh -v` names `scripts/test.sh`.

    A file that a command only looks at, such as `grep`'s, is the object of the check, and no part of it.
    """
    found = {word for words_ in _commands(checks) if words_[0] not in LOOKING for word in words_}
    return frozenset(globs.fold(word.removeprefix("./")) for word in found)


def named_programs(checks: Iterable[str]) -> frozenset[str]:
    """Return of `named_files` what the check runs: the first word of each command, and the script of an interpreter."""
    found: set[str] = set()
    for words_ in _commands(checks):
        for word in words_:
            found.add(globs.fold(word.removeprefix("./")))
            name = globs.fold(word.rpartition("/")[2])
            if not (name in SHELLS or name in STARTERS or re.sub(r"[0-9.]+\Z", "", name) in STARTING):
                break
    return frozenset(found)


# What a program reads to learn what its check does, by the names of programs: globs of names beside the folder where it runs. Tests,
# and what they share, are no such file: a person who reads the change sees them, and agents write them.
_NODE: Final = (
    "package.json", "package.json5", "package.yaml", "pnpm-workspace.yaml", ".npmrc", ".yarnrc*", ".pnpmfile.*", 
    "jest.config.*", "vitest.config.*", ".mocharc.*",
)  # fmt: skip
_INI: Final = ("tox.ini", "setup.cfg", "pyproject.toml")
_PYTEST: Final = (*_INI, "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml")
INPUTS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("make", "gmake"), ("gnumakefile", "makefile")),
    **dict.fromkeys(("npm", "npx", "pnpm", "pnpx", "yarn", "bun", "bunx", "jest", "vitest", "mocha"), _NODE),
    # pytest begins with the folder of the tests and takes the first of these that it finds upwards.
    **dict.fromkeys(("pytest", "py.test"), (*_PYTEST, *(f"*/{name}" for name in _PYTEST), "conftest.py")),
    "tox": (*_INI, "tox.toml", "toxfile.py"),
    "nox": ("noxfile.py",),
    "go": ("go.work",),
    "cargo": ("cargo.toml", ".cargo/config", ".cargo/config.toml", "rust-toolchain", "rust-toolchain.toml"),
}
_MODULES: Final = frozenset({"pytest", "unittest", "tox", "nox", "coverage"})  # a file of that name would run instead
# Python imports them as it starts, where PYTHONPATH names their folder.
_AT_START: Final = tuple(f"{at}{name}customize.py" for at in ("", "*/") for name in ("site", "user"))
_SCRIPTED: Final = LEADING.keys() - {"git"}
_FOLDER: Final = pattern(r"(?:\bcd|\s-C|\s--(?:prefix|directory|cwd|dir))[\s=]*([^\s;&|()]+)")
_MODULE: Final = pattern(r"\s-[A-Za-z]*m\s*([A-Za-z_][\w.]*)")


def inputs(checks: Sequence[str]) -> re.Pattern[str]:
    """Return what fits the folded paths from which programs of check lines learn what to do.

    `make` reads a Makefile, `npm` the scripts of package.json; an interpreter reads its script, or the module that is named.
    """
    found: set[str] = set()
    for line in checks:
        named = [one.strip("\"'").rstrip("/").removeprefix("./") for one in _FOLDER.findall(line)]
        folders = ["", *(f"{_literal(one)}/" for one in named)]
        names = {path for name in _MODULE.findall(line) for path in _files_of(name)}
        for words in _commands([line]):
            if words[0] in LOOKING:
                continue
            is_script = False
            for word in words:
                name = word.rpartition("/")[2]
                names.update(INPUTS.get(name, ()), _files_of(name) if name in _MODULES else ())
                if name.startswith("python") or name in _MODULES:
                    names.update(_AT_START)
                if is_script:
                    names.add(_literal(word.removeprefix("./")))
                is_script = (is_script and "." not in word) or re.sub(r"[0-9.]+\Z", "", name) in _SCRIPTED
        found |= {globs.fold(f"{folder}{name}") for folder in folders for name in names}
    return pattern("|".join(map(fnmatch.translate, sorted(found))) or r"(?!)")


def _literal(word: str) -> str:
    """Return an argument in which no character is a glob's."""
    return re.sub(r"([*?[])", r"[\1]", word)


def _files_of(module: str) -> tuple[str, ...]:
    path = module.replace(".", "/")
    return f"{path}.py", f"{path}/__init__.py", f"{path}/__main__.py"


# What people and agents change in a manifest every day, and no test runner reads.
_EVERYDAY: Final[dict[str, frozenset[str]]] = {
    "package.json": frozenset({
        "name", "version", "description", "keywords", "author", "contributors", "license", "repository", "bugs", "homepage", "funding",
        "files", "main", "module", "types", "exports", "bin", "engines", "dependencies", "devDependencies", "peerDependencies",
        "peerDependenciesMeta", "optionalDependencies", "bundledDependencies",
    }),
    "cargo.toml": frozenset({
        "version", "description", "keywords", "categories", "authors", "license", "repository", "homepage", "documentation", "readme",
        "features", "dependencies", "dev-dependencies", "build-dependencies",
    }),
}  # fmt: skip


def same_for_checks(path: str, before: bytes | None, after: bytes | None) -> bool:
    """Return whether a change of a manifest leaves alone what test runners read: a new dependency does, a new script does not."""
    name = globs.fold(path.rpartition("/")[2])
    try:
        return _deciding(name, before) == _deciding(name, after)
    except (ValueError, RecursionError, AttributeError):
        return False


def _deciding(name: str, data: bytes | None) -> object:
    import tomllib  # here, because few steps change a project's checks

    match name:
        case "package.json":
            told = json.loads(data or b"{}")
            return {key: value for key, value in told.items() if key not in _EVERYDAY[name]}
        case "cargo.toml":
            return _pruned(tomllib.loads((data or b"").decode()), _EVERYDAY[name])
        case "pyproject.toml":
            told = tomllib.loads((data or b"").decode()).get("tool", {})
            return told.get("pytest"), told.get("tox")
        case "setup.cfg":
            parts = re.split(r"(?m)^(?=\[)", "\n".join((data or b"").decode("utf-8-sig").splitlines()))
            return [part for part in parts if re.match(r"\[[^\]]*(?:pytest|tox)", part)]
    return data


def _pruned(value: Any, keys: frozenset[str]) -> Any:
    if not isinstance(value, dict):
        return value
    left = {key: _pruned(one, keys) for key, one in value.items() if key not in keys}
    return {key: one for key, one in left.items() if one != {}}
