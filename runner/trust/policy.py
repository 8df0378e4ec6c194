"""The policy's decision on one action before it happens: allow, ask or deny, and the rule that decided (design §5).

Pure: no files, no clock. Among the rules that match, deny goes over ask and ask over allow, so the order of a file decides
nothing; a default applies only where no rule matched. Some paths are denied by every policy: git's own folders, the protocols'
files, paths that were not resolved. The caller describes the action, with paths as they are after links were followed, and acts on
the answer; approvals are judged elsewhere.

`deny`, `ask` and `protected` ignore case, as file systems may; `allow` does not. An unknown part of a call (the path that a shell
writes) matches no rule about it: that is why rules without `tool` are asked again about a step's changes.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from runner.lines import pattern
from runner.protocol import globs, paths
from runner.protocol.plans import Budget
from runner.protocol.strict_yaml import Path, shown
from runner.trust import programs

if TYPE_CHECKING:
    from runner.protocol.policy_file import Effect, Isolation, Narrowing, PolicyFile, Rule, Verdict

Fits = Callable[[str], object]

SEVERITY: Final[dict[Verdict, int]] = {"allow": 0, "ask": 1, "deny": 2}

# Changing one of these decides what is run, what is checked or what a model is told: a person looks first.
PROTECTED: Final = (
    ".github/**", ".gitlab-ci.yml", ".forgejo/**", "scripts/ci/**", "**/.gitattributes", "**/.gitmodules", "**/AGENTS.md",
    "**/CLAUDE.md", "**/GEMINI.md", "**/.cursorrules", "**/CODEOWNERS",
)  # fmt: skip

# The effects of our own tools for a model, `run` and `shell` as they are in a sandbox: for a call that is only thought of.
BUILT_IN: Final[dict[str, Effect]] = {
    **dict.fromkeys(
        ("read_file", "list_files", "search_text", "git", "fetch", "recall", "ask_person", "publish_artifact", "finish"), "read"
    ),
    **dict.fromkeys(("write_file", "edit_file", "apply_patch", "remember", "run", "shell"), "workspace"),
}  # fmt: skip

_AGENTS: Final = pattern(r"acp:[^/]+/([a-z_]+)")  # a call of a coding agent's, by the kind that it says


def is_agents(tool: str) -> bool:
    """Return whether a tool is the calls of a coding agent."""
    return _AGENTS.fullmatch(tool) is not None


def effect_of(tool: str) -> Effect | None:
    """Return the effect of a tool of ours, or of a call of a coding agent's, which works in the sandbox; None of any other."""
    found = _AGENTS.fullmatch(tool)
    if found is None:
        return BUILT_IN.get(tool)
    return "read" if found[1] in ("read", "search", "think", "fetch") else "workspace"


# --- what is asked ---------------------------------------------------------------------------------------------------


class Subject(NamedTuple):
    """An action that a policy decides on.

    `kind`: `call` of a tool; `command`, a step's own; `change`, what a step has left at its paths; `engine`, the choice of
    one; `isolation`, where commands run; `step`, its start. `paths`: after links were followed, from the repository's root.
    `argv`: the command; a line for a shell is `("sh", "-c", LINE)`. `step`: the slug of the step that it happens in.
    """

    kind: Literal["call", "command", "change", "engine", "isolation", "step"] = "call"
    tool: str | None = None
    effect: Effect = "external"
    paths: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    engine: str | None = None
    isolation: Isolation | None = None
    step: str | None = None
    untrusted: bool = False  # whether text that nobody vouches for stands in the context
    listed: str = ""  # the coworker's file that lists the tool by name
    vouched: bool = False  # whether that file's bytes stand on the trusted branch at that path
    configured: str = ""  # where the trusted branch names the hosts for this tool


class Decision(NamedTuple):
    """A decision. `rule`: the one that decided; `file` and `line`: its place, empty and 0 for a built-in one."""

    verdict: Verdict
    rule: str
    file: str = ""
    line: int = 0
    reason: str = ""

    @property
    def where(self) -> str:
        """The place of the rule, or that it is built in."""
        return f"{self.file}:{self.line}" if self.file else "built in"

    @property
    def why(self) -> str:
        """The rule, and its reason where it has one."""
        return f"{self.rule} · {self.reason}" if self.reason else self.rule


def call(
    tool: str, arguments: Mapping[str, Any], *, effect: Effect | None = None, paths: tuple[str, ...] | None = None
) -> Subject:
    """Return the subject of a call, with what its arguments name.

    `effect`: of its contract; without it that of our own tools, else external. `paths`: of a tool of ours, as they were
    resolved; without it those of the arguments `path` and `paths`, unresolved: good for asking beforehand, not for a
    decision. Of other tools it is always those, and only what could be a path of the repository.
    """
    given = effect or effect_of(tool) or "external"
    named = [path for path in (arguments.get("path"), *_list(arguments.get("paths"))) if isinstance(path, str) and path]
    if tool not in BUILT_IN and not (is_agents(tool) and paths):  # what it calls a path may be anything: only it knows
        plain = [posixpath.normpath(path) for path in named]
        paths = tuple(
            path for path in plain if not path.startswith("/") and path.split("/")[0] != ".." and "\0" not in path
        )
    if tool == "remember" and isinstance(arguments.get("name"), str):
        named = [f"{MEMORY}/{arguments['name']}.md"]
    argv: tuple[str, ...] = ()
    if tool == "run":
        argv = tuple(str(word) for word in _list(arguments.get("argv")))
    elif tool == "shell" or (is_agents(tool) and "command" in arguments):
        argv = ("sh", "-c", str(arguments.get("command", "")))
    host = _host_of(arguments["url"]) if isinstance(arguments.get("url"), str) else None
    return Subject(
        tool=tool,
        effect=given,
        paths=paths if paths is not None else tuple(path.removeprefix("./").rstrip("/") or path for path in named),
        argv=argv,
        hosts=(host,) if host is not None else (),
    )


def command(run: str | Sequence[str], *, step: str | None = None) -> Subject:
    """Return the subject of a command step: a line for a shell, or a list that is run as it is."""
    argv = ("sh", "-c", run) if isinstance(run, str) else tuple(run)
    return Subject(kind="command", effect="workspace", argv=argv, step=step)


def reached(host: str, *, step: str) -> Subject:
    """Return the subject of a host that a step's commands may reach, by an entry of its `network`."""
    name = host.strip("[]") if host.count(":") > 1 and "]:" not in host else host.rpartition("]:")[0].strip("[")
    return Subject(kind="command", effect="workspace", hosts=(name or host.partition(":")[0],), step=step)


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _host_of(url: str) -> str:
    match = re.match(
        r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#\\@]*@)?(\[[0-9A-Fa-f:.]+\]|[^/?#\\:@\s]+)(?::[0-9]*)?(?:[/?#]|\Z)", url
    )
    return match[1].strip("[]") if match else ""


# --- a policy, ready to be asked -------------------------------------------------------------------------------------


class _Compiled(NamedTuple):
    """A rule with its globs made ready; None where it says nothing."""

    said: Decision
    untrusted: bool
    tool: Fits | None
    path: Fits | None
    effect: frozenset[str] | None
    program: Fits | None
    argv: tuple[Fits, ...] | None
    more: bool  # whether further arguments may follow
    shell: bool | None
    host: Fits | None
    engine: Fits | None
    step: Fits | None
    runs: bool  # whether it says anything of what is run
    globs: tuple[str, ...]  # those of `path`, folded
    heads: tuple[str, ...]  # how a path has to begin, and to end, for one of these: told sooner than whether it fits
    tails: tuple[str, ...]


class Policy(NamedTuple):
    """A policy that was compiled once; `file`: None where there is no policy.yaml."""

    file: PolicyFile | None
    action: tuple[tuple[_Compiled, ...], tuple[_Compiled, ...]]  # what denies or asks, strictest first; what allows
    engine: tuple[tuple[_Compiled, ...], tuple[_Compiled, ...]]
    step: tuple[tuple[_Compiled, ...], tuple[_Compiled, ...]]
    engines: Fits | None
    hosts: Fits | None
    guarded: tuple[tuple[Fits, str, str, int], ...]  # what fits a protected path; the glob, file and line

    @property
    def digest(self) -> str | None:
        """The digest of the policy's bytes, or None."""
        return self.file.digest if self.file else None


class More(NamedTuple):
    """A narrowing, such as an agent file's `policies:`; `lines`: of its file, where it has the key `under`."""

    words: Narrowing
    where: str
    lines: Mapping[Path, int]
    under: Path = ()

    def line(self, *path: str | int) -> int:
        """Return the line of a key or item of it."""
        return self.lines.get((*self.under, *path), self.lines.get(self.under, 1))


def compiled(file: PolicyFile | None, more: Iterable[More] = ()) -> Policy:
    """Return a policy that can be asked; without a file the defaults alone. `more` can only make it stricter."""
    sources = [(file.content.rules, file.content.approval_required, file.where, file.line)] if file else []
    sources += [(one.words.rules, one.words.approval_required, one.where, one.line) for one in more]
    rules: list[tuple[Rule, str, int]] = []
    for written, tools, where, line in sources:
        rules += [(rule, where, line("rules", at)) for at, rule in enumerate(written)]
        rules += [(_short(tool), where, line("approval_required", at)) for at, tool in enumerate(tools)]
    by_kind: dict[str, tuple[tuple[_Compiled, ...], tuple[_Compiled, ...]]] = {}
    for about in ("action", "engine", "step"):
        made = [_compile(*rule) for rule in rules if rule[0].match.about == about]
        made.sort(key=lambda rule: -SEVERITY[rule.said.verdict])
        by_kind[about] = (
            tuple(rule for rule in made if rule.said.verdict != "allow"),
            tuple(rule for rule in made if rule.said.verdict == "allow"),
        )
    told = file.content if file else None
    guarded = [(_paths((glob,), folded=True), glob, "", 0) for glob in PROTECTED]
    if file:
        guarded += [
            (_paths((glob,), folded=True), glob, file.where, file.line("protected", at))
            for at, glob in enumerate(file.content.protected)
        ]
    return Policy(
        file,
        by_kind["action"],
        by_kind["engine"],
        by_kind["step"],
        _names(told.engines.allow, folded=False) if told and told.engines else None,
        _hosts(told.network.allow) if told and told.network else None,
        tuple(guarded),
    )


def _short(tool: str) -> Rule:
    from runner.protocol.policy_file import Match, Rule

    return Rule(ask=Match(tool=(tool,)))


def _compile(rule: Rule, file: str, line: int) -> _Compiled:
    match, folded = rule.match, rule.verdict != "allow"
    argv = match.argv
    more = bool(argv) and argv[-1] == "**"
    return _Compiled(
        Decision(rule.verdict, rule.text(), file, line, rule.reason or ""),
        rule.untrusted == "allow",
        _names(match.tool, folded=folded) if match.tool else None,
        _paths(match.path, folded=folded) if match.path else None,
        frozenset(match.effect) if match.effect else None,
        _names(match.program, folded=folded) if match.program else None,
        tuple(_names((one,), folded=folded) for one in (argv[:-1] if more else argv)) if argv else None,
        more,
        match.shell,
        _hosts(match.host) if match.host else None,
        _names(match.engine, folded=folded) if match.engine else None,
        _names(match.step, folded=folded) if match.step else None,
        bool(match.program or argv or match.shell is not None),
        tuple(globs.fold(glob) for glob in match.path),
        *_ends([globs.fold(glob) if folded else glob for glob in match.path]),
    )


def _ends(given: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    parts = [re.split(r"[*?]", glob) for glob in given]
    # `a/**` is `a` too, `**/a` is `a` too, and `a` what lies in it.
    return tuple(one[0].rstrip("/") for one in parts), tuple(one[-1].lstrip("/") if one[1:] else "" for one in parts)


def _names(given: Sequence[str], *, folded: bool) -> Fits:
    every = [globs.fold(glob) if folded else glob for glob in given]
    if not any(set("*?") & set(glob) for glob in every):
        return frozenset(every).__contains__
    return globs.compiled([globs.name_pattern(glob) for glob in every]).fullmatch


def _paths(given: Sequence[str], *, folded: bool) -> Fits:
    return globs.compiled([globs.path_pattern(globs.fold(glob) if folded else glob) for glob in given]).fullmatch


def _hosts(given: Sequence[str]) -> Fits:
    return globs.compiled([globs.name_pattern(_address(host) or host) for host in given] or ["(?!)"]).fullmatch


def _address(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def is_protected(policy: Policy, path: str) -> bool:
    """Return whether a path, folded, is protected by default or by the policy."""
    return any(fits(path) for fits, *_ in policy.guarded)


# --- asking ----------------------------------------------------------------------------------------------------------


def evaluate(policy: Policy, subject: Subject, named: Collection[str] = (), *, loose: bool = False) -> Decision:
    """Return the policy's decision on the subject; of several paths or hosts the strictest.

    `named`: the files that checks name, which are protected too (`programs.named_files`). `loose`: as older versions, which took an
    unknown program for one that starts no other; a record made by them keeps its verdict.
    """
    match subject.kind:
        case "isolation":
            return _isolation(policy, subject)
        case "engine":
            return _engine(policy, subject)
        case "step":
            strict, lax = policy.step
            rule = _first(strict, _Folded(step=globs.fold(subject.step or ""))) or _first(
                lax, _Folded(step=subject.step)
            )
            return rule.said if rule else _default("a step may start")
    found = [
        _action(policy, subject, path, host, named, loose)
        for path in (dict.fromkeys(subject.paths) or (None,))
        for host in (dict.fromkeys(subject.hosts) or (None,))
    ]
    return found[0] if len(found) == 1 else max(found, key=lambda one: SEVERITY[one.verdict])


class _Folded(NamedTuple):
    """A subject as rules look at it: one path, one host; folded for those that deny or ask."""

    tool: str | None = None
    path: str | None = None
    effect: str = ""
    programs: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
    shell: bool | None = None  # None where nothing is run
    unsure: bool = False  # what is run is not known to be a shell, nor to start nothing
    host: str | None = None
    engine: str | None = None
    step: str | None = None


def _action(
    policy: Policy, subject: Subject, path: str | None, host: str | None, named: Collection[str], loose: bool
) -> Decision:
    if path is not None and (wrong := _wrong_path(path, subject.effect)):
        return wrong
    fold = globs.fold
    argv = subject.argv
    shell = programs.starts_others(argv) if argv else None
    unsure = shell is False and not loose and not programs.starts_nothing(argv)
    address = None
    if host is not None:
        address = _plain_host(host)
        own = subject.tool in BUILT_IN or subject.kind == "command"
        if address is None and (own or policy.hosts or any(rule.host for rule in policy.action[0])):
            what = shown(host) or "no host is named"
            return Decision("deny", "a host is named by its plain name or address", reason=what)
        if address is not None and policy.hosts is not None and not policy.hosts(address):
            return _at(
                policy, "deny", "network: {allow: …}", ("network", "allow"), f"{shown(address)} is not one of them"
            )
    view = _Folded(
        tool=None if subject.tool is None else fold(subject.tool),
        path=None if path is None else fold(path),
        effect=subject.effect,
        programs=programs.may_start(argv, shell or unsure),
        argv=tuple(fold(word) for word in argv),
        shell=shell,
        unsure=unsure,
        host=address,
        engine=None if subject.engine is None else fold(subject.engine),
        step=None if subject.step is None else fold(subject.step),
    )
    strict, lax = policy.action
    said = _first(strict, view)
    # A shell is its own class, whichever tool it is run with.
    disguised = (bool(shell) or unsure) and (view.tool == "run" or is_agents(subject.tool or ""))
    if disguised and (said is None or said.said.verdict != "deny"):
        view = view._replace(tool="shell")
        both = (one for one in (said, _first(strict, view)) if one)
        said = max(both, key=lambda rule: SEVERITY[rule.said.verdict], default=None)
    if said is not None and said.said.verdict == "deny":
        return said.said
    plain = _Folded(
        tool="shell" if disguised else subject.tool,
        path=path,
        effect=subject.effect,
        programs=argv[:1],
        argv=argv,
        shell=shell,
        unsure=unsure,
        host=address,
        engine=subject.engine,
        step=subject.step,
    )
    allowing = _matching(lax, plain)
    if disguised and unsure:  # as a shell; or by a rule that names what is run
        plain = plain._replace(tool=subject.tool)
        allowing += [rule for rule in _matching(lax, plain) if (rule.program or rule.argv) and rule not in allowing]
    # Other tools' network is their own, or what config.yaml gives them; that they are called at all is asked about.
    closed = policy.hosts is None and not subject.configured and (subject.tool in BUILT_IN or subject.kind == "command")
    if address is not None and closed and not any(rule.host for rule in (*allowing, *([said] if said else []))):
        hint = f"name {shown(address)} under `network: {{allow: […]}}`"
        return Decision("deny", "default: no host is reached", reason=hint)
    if said is not None:
        return said.said
    if path is not None and subject.effect != "read":
        for guard in protected(policy, (path,), named):
            return guard
    return _otherwise(subject, allowing)


def _otherwise(subject: Subject, allowing: list[_Compiled]) -> Decision:
    """Return what holds where nothing denies or asks."""
    external = subject.effect == "external"
    if external and subject.untrusted:
        still = [rule for rule in allowing if rule.untrusted]
        if not still:
            reason = "the context has untrusted text"
            if allowing:
                return allowing[0].said._replace(
                    verdict="ask", reason=f"{reason}, and the rule has no `untrusted: allow`"
                )
            return Decision("ask", "default: external calls ask", reason=reason)
        allowing = still
    if allowing:
        return allowing[0].said
    if subject.kind == "command":
        return _default("a step's command is its author's word")
    if not external:
        return _default(
            "a step may change files" if subject.kind == "change" else f"{subject.effect} calls are allowed"
        )
    if subject.listed and subject.vouched:
        return Decision("allow", "the agent file lists it", subject.listed, 1)
    reason = f"{subject.listed} differs on the trusted branch" if subject.listed else ""
    return Decision("ask", "default: external calls ask", reason=reason)


def _engine(policy: Policy, subject: Subject) -> Decision:
    name = subject.engine or ""
    step = subject.step
    view = _Folded(engine=globs.fold(name), step=None if step is None else globs.fold(step))
    said = _first(policy.engine[0], view)
    if said:
        return said.said
    if policy.engines is not None and not policy.engines(name):
        return _at(policy, "deny", "engines: {allow: …}", ("engines", "allow"), f"{shown(name)} is not one of them")
    allowing = _first(policy.engine[1], _Folded(engine=name, step=step))
    return allowing.said if allowing else _default("any engine may be chosen")


def _isolation(policy: Policy, subject: Subject) -> Decision:
    asked = subject.isolation or "host"
    if policy.file is None:
        return _default("every isolation is allowed")
    from runner.protocol.policy_file import ISOLATIONS

    weakest = policy.file.content.isolation
    weaker = ISOLATIONS.index(asked) < ISOLATIONS.index(weakest)
    reason = f"{asked} is weaker than {weakest}" if weaker else ""
    return _at(policy, "deny" if weaker else "allow", f"isolation: {weakest}", ("isolation",), reason)


def _first(rules: tuple[_Compiled, ...], view: _Folded) -> _Compiled | None:
    """Return the first rule that matches: the strictest, since they are sorted."""
    tool, path, effect, step, engine, host = view.tool, view.path, view.effect, view.step, view.engine, view.host
    for rule in rules:
        if rule.tool is not None and (tool is None or not rule.tool(tool)):
            continue
        if rule.path is not None and (
            path is None or not path.endswith(rule.tails) or not path.startswith(rule.heads) or not rule.path(path)
        ):
            continue
        if rule.effect is not None and effect not in rule.effect:
            continue
        if rule.step is not None and (step is None or not rule.step(step)):
            continue
        if rule.engine is not None and (engine is None or not rule.engine(engine)):
            continue
        if rule.host is not None and (host is None or not rule.host(host)):
            continue
        if not rule.runs or _runs(rule, view):
            return rule
    return None


def _runs(rule: _Compiled, view: _Folded) -> bool:
    """Return whether what a rule says of a program fits."""
    if rule.shell is not None and view.shell is not rule.shell and not view.unsure:
        return False
    if rule.program is not None:
        for name in view.programs:
            if rule.program(name):
                break
        else:
            return False
    elif rule.argv is None:
        return True
    if rule.said.verdict == "allow" and view.shell and not rule.shell:
        return False  # what it starts besides is not what was allowed
    if rule.argv is None:
        return True
    if len(view.argv) < len(rule.argv) or (len(view.argv) > len(rule.argv) and not rule.more):
        return False
    first, *rest = rule.argv
    names = view.argv[:1] if rule.said.verdict == "allow" else (view.argv[0], view.argv[0].rpartition("/")[2])
    return any(first(name) for name in names) and all(
        fits(word) for fits, word in zip(rest, view.argv[1:], strict=False)
    )


def _matching(rules: tuple[_Compiled, ...], view: _Folded) -> list[_Compiled]:
    return [rule for rule in rules if _first((rule,), view)]


def _default(what: str) -> Decision:
    return Decision("allow", f"default: {what}")


def _at(policy: Policy, verdict: Verdict, rule: str, key: tuple[str, ...], reason: str) -> Decision:
    assert policy.file is not None
    return Decision(verdict, rule, policy.file.where, policy.file.line(*key), reason)


# --- paths, hosts ----------------------------------------------------------------------------------------------------

MEMORY: Final = paths.MEMORY.rstrip("/")


def _wrong_path(path: str, effect: Effect) -> Decision | None:
    """Return why nothing may happen at this path, whatever a policy says."""
    parts = path.split("/")
    if path != "." and (path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in parts)):
        return Decision("deny", "a path stays inside the repository", reason=shown(path))
    folded = globs.fold(path).split("/")
    if any(part in (".git", "git~1") for part in folded):
        return Decision("deny", "git's own folders are out of reach", reason=shown(path))
    if effect != "read" and folded[0] == paths.ROOT and not (folded[1:2] == ["memory"] and parts[0] == paths.ROOT):
        return Decision("deny", "below .protocols a step changes memory/ alone", reason=shown(path))
    return None


def _plain_host(host: str) -> str | None:
    """Return a host as globs see it, or None where it is written in a way that could be read as another one."""
    name = host.lower().removesuffix(".")
    if address := _address(name):
        return address
    if not re.fullmatch(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", name) or len(name) > 253:
        return None
    last = name.rpartition(".")[2]
    return None if last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last) else name


def read_by_setup(path: str) -> Decision:
    """Return that a changed file needs an approval because the setup reads it: another environment is made from it."""
    return Decision("ask", "workspace.on_change: the setup reads it", reason=shown(path))


def protected(policy: Policy, changed: Iterable[str], named: Collection[str] = ()) -> list[Decision]:
    """Return an ask for each of the changed paths that a person has to look at, with what protects it.

    `named`: the files that checks name, from `programs.named_files`.
    """
    found = []
    for path in changed:
        folded = globs.fold(path)
        if folded in named or path in named:
            found.append(Decision("ask", "protected: a check names or reads it", reason=shown(path)))
            continue
        for fits, glob, file, line in policy.guarded:
            if fits(folded):
                found.append(Decision("ask", f"protected: {glob}", file, line, shown(path)))
                break
    return found


# --- a step's diff ---------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """One path of a step's diff. Modes as git writes them, such as `100644`; None where the path is not there.

    `lines`: added and removed ones; `size`: bytes afterwards; `binary`: whether it is, afterwards.
    """

    path: str
    before: str | None
    after: str | None
    lines: int = 0
    size: int = 0
    binary: bool = False


def judge(
    policy: Policy, changes: Sequence[Change], *, step: str | None = None, named: Collection[str] = ()
) -> list[Decision]:
    """Return what of a step's diff is denied, or requires an approval (ask), the strictest first; empty where all is allowed.

    It asks the paths that are closed to all, rules about files without `tool`, protected paths, and the limits.
    """
    found = []
    for change in changes:
        subject = Subject(kind="change", effect="workspace", paths=(change.path,), step=step)
        said = evaluate(policy, subject, named)
        if said.verdict != "allow":
            found.append(
                said._replace(reason=" · ".join(dict.fromkeys(filter(None, (shown(change.path), said.reason)))))
            )
        elif change.after in LINKS:
            found += _moved(policy, change, step)
        if change.after == "160000" != change.before:
            found.append(Decision("ask", "a submodule is new", reason=shown(change.path)))
    if policy.file:
        found += _over(policy, changes)
    return sorted(found, key=lambda one: -SEVERITY[one.verdict])


LINKS: Final = ("120000", "160000")  # a symlink, a submodule


def _moved(policy: Policy, change: Change, step: str | None) -> Iterable[Decision]:
    """Yield the decisions on a link or submodule that takes the place of a folder with paths of a rule, or protected ones."""
    folded, reason = globs.fold(change.path), f"{shown(change.path)} is a link in its place"
    if folded.split("/")[0] == paths.ROOT:
        yield Decision("deny", "below .protocols there are no links", reason=shown(change.path))
        return
    view = _Folded(effect="workspace", step=None if step is None else globs.fold(step))
    for rule in policy.action[0]:
        if any(globs.could_hold(glob, folded) for glob in rule.globs) and _first((rule._replace(path=None),), view):
            yield rule.said._replace(reason=reason)
            return
    for _, glob, file, line in policy.guarded:
        if globs.could_hold(globs.fold(glob), folded):
            yield Decision("ask", f"protected: {glob}", file, line, reason)
            return


def _over(policy: Policy, changes: Sequence[Change]) -> Iterable[Decision]:
    assert policy.file is not None
    limits = policy.file.content.limits
    lines = sum(change.lines for change in changes)
    left = sum(change.size for change in changes if change.after is not None)
    for key, limit, there, of_what in (
        ("files", limits.files, len(changes), "files changed"),
        ("lines", limits.lines, lines, "lines changed"),
        ("total", limits.total_bytes, left, "bytes in all"),
    ):
        if limit is not None and there > limit:
            rule = f"limits: {{{key}: {getattr(limits, key)}}}"
            yield _at(policy, "ask", rule, ("limits", key), f"{there:,} {of_what}")
    most = limits.file_bytes
    for change in changes:
        if most is not None and change.after is not None and change.size > most:
            reason = f"{shown(change.path)} has {change.size:,} bytes"
            yield _at(policy, "ask", f"limits: {{file_size: {limits.file_size}}}", ("limits", "file_size"), reason)
        link = change.after == "120000"
        for key, verdict, is_so, what in (
            ("binaries", limits.binaries, change.binary and change.before is None, "a new binary file"),
            ("symlinks", limits.symlinks, link, "a symlink"),
            ("modes", limits.modes, change.after == "100755" != change.before, "may be executed now, and was not"),
        ):
            if is_so and verdict != "allow":
                yield _at(
                    policy, verdict, f"limits: {{{key}: {verdict}}}", ("limits", key), f"{shown(change.path)}: {what}"
                )


# --- budgets ----------------------------------------------------------------------------------------------


def stricter(*budgets: Budget | None) -> Budget:
    """Return the least of each key of the budgets: a policy's, an agent file's, a step's."""
    told = [budget for budget in budgets if budget is not None]

    def least(key: str) -> Any:
        values: list[Decimal | int] = [value for budget in told if (value := getattr(budget, key)) is not None]
        return min(values, default=None)

    return Budget.model_construct(**{key: least(key) for key in Budget.model_fields})


# --- advice ----------------------------------------------------------------------------------------------------------


def notes(file: PolicyFile) -> list[tuple[int, str]]:
    """Return (line, text) of rules that say less than their author may think."""
    found = []
    rules = file.content.rules
    holds_shells = any(
        rule.verdict != "allow" and (rule.match.shell or _names(rule.match.tool or ("-",), folded=True)("shell"))
        for rule in rules
    )
    for at, rule in enumerate(rules):
        match = rule.match
        if rule.verdict == "allow":
            continue
        if match.path and match.tool and "*" not in match.tool and set(match.tool) & set(_WRITING):
            text = "other tools and commands can change these files too; leave `tool` out, and the step's changes are judged"
            found.append((file.line("rules", at), text))
        if (match.program or match.argv) and not match.shell and not holds_shells:
            text = "a shell's text is not read: what it starts passes this rule; add one with `shell: true`"
            found.append((file.line("rules", at), text))
    for kind in _WRITTEN if file.content.own_work != "allow" else ():
        of = file.content.approvals.of(kind)
        able = {person: role for role in of.roles or file.content.roles for person in file.content.roles.get(role, ())}
        if 1 < of.count == len(able):
            text = (
                f"`approvals.{kind}` needs all of {', '.join(able)}: what one of them wrote can never pass `own_work`"
            )
            found.append((file.line("approvals", kind), text))
    if wrong := file.misread():
        found.append((file.line("approvals", "merge"), f"{wrong.what}; {wrong.hint}"))
    return found


_WRITTEN: Final = (
    "plan",
    "step",
    "protected-path",
    "merge",
)  # what people may have written; calls are the agent's work
_WRITING: Final = tuple(name for name, effect in BUILT_IN.items() if effect == "workspace")
