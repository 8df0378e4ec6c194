"""The `git` tool, which only reads: the arguments that a model may give, and the command for them.

It runs in the sandbox, with the workspace's repository, which an agent may have written. No program that its configuration,
attributes or hooks name is started, and a configuration that no option can turn off is refused (`refuse_configuration`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from runner.lines import lines_of
from runner.tools import ToolError

_DIFF = (
    *("-p", "-u", "--patch", "-s", "--no-patch", "--stat", "--numstat", "--shortstat", "--summary", "--name-only"),
    *("--name-status", "--raw", "-w", "-b", "--ignore-all-space", "--ignore-space-change", "--ignore-blank-lines"),
    *("--minimal", "--patience", "--histogram", "--word-diff", "--check", "-M", "-C", "-R", "--no-renames"),
    *("--find-renames", "-W", "--function-context", "-z", "--full-index", "--pickaxe-regex", "--pickaxe-all"),
    *("-m", "-c", "--cc", "--compact-summary", "--dirstat", "--text", "-a", "--no-prefix"),
)
_DIFF_VALUES = ("-U", "--unified", "--diff-filter", "-S", "-G", "--stat", "--abbrev", "-M", "-C", "--word-diff")
_LOG = (
    *("--oneline", "--all", "--branches", "--tags", "--graph", "--decorate", "--no-decorate", "--first-parent"),
    *("--merges", "--no-merges", "--reverse", "--follow", "-i", "--regexp-ignore-case", "-E", "-F", "--all-match"),
    *("--invert-grep", "--topo-order", "--date-order", "--full-history", "--simplify-merges", "--abbrev-commit"),
    *("--parents", "--left-right", "--cherry-pick"),
)
_LOG_VALUES = (
    *("-n", "--max-count", "--skip", "--since", "--after", "--until", "--before", "--author", "--committer", "--grep"),
    *("--format", "--pretty", "--date", "-L"),
)

# The options of each command, without and with a value.
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "status": (
        (
            "-s",
            "--short",
            "-b",
            "--branch",
            "-z",
            "--porcelain",
            "--long",
            "-u",
            "-uno",
            "-uall",
            "-unormal",
            "--ignored",
        ),
        ("--porcelain", "--untracked-files", "--ignored"),
    ),
    "diff": ((*_DIFF, "--cached", "--staged", "--merge-base"), _DIFF_VALUES),
    "log": ((*_DIFF, *_LOG), (*_DIFF_VALUES, *_LOG_VALUES)),
    "show": ((*_DIFF, *_LOG), (*_DIFF_VALUES, *_LOG_VALUES)),
    "blame": (
        (
            *("-w", "-M", "-C", "-l", "-s", "-t", "-e", "--show-email", "-p", "--porcelain", "--line-porcelain"),
            *("-n", "-f", "--root"),
        ),
        ("-L", "--since", "--abbrev", "--date"),
    ),
    "ls-files": (
        (
            *("-c", "--cached", "-d", "--deleted", "-m", "--modified", "-o", "--others", "-i", "--ignored", "-s"),
            *("--stage", "-u", "--unmerged", "-t", "-z", "--directory", "--no-empty-directory", "--exclude-standard"),
            *("--deduplicate", "--eol"),
        ),
        ("-x", "--exclude", "--abbrev"),
    ),
}
_VALUED = ("-n", "-S", "-G", "-L", "-U", "--max-count", "--skip", "--since", "--after", "--until", "--before", "--author",
           "--committer", "--grep", "--format", "--pretty", "--date", "--diff-filter", "--unified",
           "-x", "--exclude")  # may stand apart  # fmt: skip

# Each would start a program, or ask a person.
_OFF = (
    *("core.fsmonitor=false", "core.hooksPath=/dev/null", "core.pager=cat", "core.untrackedCache=false"),
    *("diff.external=", "core.editor=false", "core.askPass=", "credential.helper=", "protocol.allow=never"),
    *("safe.bareRepository=explicit",),
    *("gpg.program=false", "gpg.ssh.program=false", "gpg.x509.program=false", "log.showSignature=false"),
    *("submodule.recurse=false", "status.submoduleSummary=false", "diff.submodule=short", "core.commitGraph=false"),
    *("color.ui=false", "core.attributesFile=/dev/null", "core.quotePath=false", "gc.auto=0", "maintenance.auto=false"),
)
_ALWAYS = {
    "status": ("--ignore-submodules=all",),
    "diff": ("--no-ext-diff", "--no-textconv", "--ignore-submodules=all", "--no-color"),
    "log": ("--no-ext-diff", "--no-textconv", "--ignore-submodules=all", "--no-color"),
    "show": ("--no-ext-diff", "--no-textconv", "--ignore-submodules=all", "--no-color"),
    "blame": ("--no-progress",),
    "ls-files": (),
}
# The configuration of a workspace's own repository, and other harmless keys. Every other key may start a program
# (filters, drivers, aliases, includes), and they cannot all be listed.
_KNOWN = re.compile(
    r"core\.(?:repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode|symlinks|autocrlf|eol|safecrlf)"
    r"|extensions\.objectformat|user\.(?:name|email)|gc\.auto|init\.defaultbranch|color\..*|advice\..*|commit\.gpgsign"
    r"|branch\..*\.(?:remote|merge|rebase)|remote\..*\.(?:url|fetch)|pull\.rebase|push\.default|merge\.conflictstyle"
)


def command(args: Sequence[str], work: Path) -> tuple[tuple[str, ...], list[str]]:
    """Return the command, and its arguments that may be paths, which must stay in the workspace.

    Raises:
        ToolError: the arguments are not for reading.
    """
    if not args or args[0] not in COMMANDS:
        raise ToolError(
            f"git {args[0] if args else ''}: only {', '.join(COMMANDS)} are there, to read".replace("  ", " ")
        )
    name, words, paths, options = args[0], list[str](), list[str](), list[str]()
    flags, valued = COMMANDS[name]
    rest = list(args[1:])
    while rest:
        word = rest.pop(0)
        if "\0" in word:
            raise ToolError("an argument holds a NUL")
        if word == "--":
            paths, rest = rest, []
        elif word.startswith("-") and word != "-":
            options.append(_option(name, word, flags, valued))
            if word in _VALUED and word in valued:
                if not rest:
                    raise ToolError(f"git {name}: {word} needs a value")
                options.append(_value(name, word, rest.pop(0)))
        else:
            words.append(word)
    # git blame of 2.39 loses its file behind --end-of-options; no argument starts with a dash here, so it is not needed.
    end = () if name == "blame" else ("--end-of-options",)
    off = tuple(part for setting in _OFF for part in ("-c", setting))
    argv = (
        *("git", "--no-pager", "--no-replace-objects", "--no-optional-locks", *off),
        *(f"--git-dir={work / '.git'}", f"--work-tree={work}", name, *_ALWAYS[name], *options, *end, *words),
        *(("--", *paths) if paths or "--" in args else ()),
    )
    return argv, [path for word in (*words, *paths) for path in _maybe_paths(word)]


def _option(name: str, word: str, flags: Sequence[str], valued: Sequence[str]) -> str:
    head, equals, value = word.partition("=")
    if (equals and head in valued) or word in flags or (word in _VALUED and word in valued):
        if equals:
            _value(name, head, value)
        return word
    short = word[:2]
    if not word.startswith("--") and short in valued and len(word) > 2:  # -U5, -n3, -Stext, -M90%
        _value(name, short, word[2:])
        return word
    if name in ("log", "show") and word[1:].isdigit():
        return word
    near = get_close_matches(head, [*flags, *valued], 1)
    raise ToolError(f"git {name} {word}: this option is not for reading{f'; did you mean {near[0]}?' if near else ''}")


def _value(name: str, option: str, value: str) -> str:
    if "\0" in value:
        raise ToolError("an argument holds a NUL")
    if option in ("--format", "--pretty") and "%G" in value:
        raise ToolError(f"git {name} {option}: signatures are not looked at here")
    return value


def _maybe_paths(word: str) -> list[str]:
    """Return the paths in an argument that git may open: a path, a pathspec's path; not `REV:path`, which is read from objects."""
    if word.startswith(":"):  # :(magic)path, :/path, :!path, :^path; :path is the index's
        word = re.sub(r"^:(?:\([^)]*\)|[/!^]*)", "", word)
    return [word] if word and word != "-" else []


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of git: of its own variables only those that make it ask nobody and read nothing else."""
    kept = {key: value for key, value in env.items() if not key.startswith("GIT_")}
    return {
        **kept,
        **{"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1"},
        **{"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_PAGER": "cat"},
        **{"GIT_ALLOW_PROTOCOL": "", "LC_ALL": "C.UTF-8"},
    }


def listing(work: Path) -> tuple[str, ...]:
    """Return the command that lists the names in the repository's configuration, and starts no program that it names."""
    return ("git", "config", "--file", f"{work / '.git/config'}", "--no-includes", "--list", "--name-only")


def refuse_configuration(listed: str) -> None:
    """Refuse a repository whose configuration has a setting that is not known to be harmless.

    Raises:
        ToolError: naming the first setting that is not.
    """
    for name in lines_of(listed):
        if not _KNOWN.fullmatch(name.casefold()):
            raise ToolError(
                f"the workspace's .git/config sets {name[:100]}, which might start a program; git is not run with it"
                f" (`git config --unset-all {name[:100]}` takes it away)"
            )
