"""A protocol's plan as people wrote it: plan.md, context.md and the step files of one folder, parsed and held together.

The parser says what is wrong with a file, its line, and what to write; it never mends. Prose is kept as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from runner.errors import MalformedFileError, UnsupportedError
from runner.protocol import digest, ids, paths, words
from runner.protocol.model import Kind, OnFailure, PlanHeader, QaPolicy, StepHeader

STEP_LIMIT = 10_000
INPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Step:
    """One step file: its header, its prose, and what the whole plan makes of them."""

    slug: str
    number: int
    file: str  # the file's name, such as 02-deploy.md
    digest: str  # of the file's bytes
    header: StepHeader
    prose: str = field(repr=False)
    needs: tuple[str, ...]  # slugs
    goto: str | None
    qa: QaPolicy
    checks: tuple[str, ...]

    @property
    def on_failure(self) -> OnFailure:
        """What happens when it fails."""
        return self.header.on_failure


@dataclass(frozen=True, slots=True)
class Plan:
    """All that people say of a protocol. `steps` are in the order of their numbers."""

    header: PlanHeader
    prose: str = field(repr=False)
    digest: str  # of plan.md and context.md
    context: str | None
    steps: tuple[Step, ...]

    def step(self, slug: str) -> Step | None:
        """Return the step, or None where there is none of that name."""
        return next((step for step in self.steps if step.slug == slug), None)


def is_words_file(name: str) -> bool:
    """Return whether a file of this name in a plan's folder is read as a part of the plan."""
    return paths.is_words(name)


def parse(files: Mapping[str, bytes], where: str) -> Plan:
    """Return the plan that `files` (name in the folder to bytes) make; `where` is the folder, for messages.

    Raises:
        MalformedFileError: with the file and line.
    """
    if paths.PLAN not in files:
        raise MalformedFileError("there is no plan.md", where, "write one: front matter with `title: …`, and prose")
    plan_where = f"{where}/{paths.PLAN}"
    text = words.decode(files[paths.PLAN], plan_where)
    front, prose = words.split_front_matter(text, plan_where)
    value, lines = words.load_yaml(front, plan_where)
    header = words.validate(PlanHeader, value, lines, plan_where)
    for name in header.inputs:
        if not INPUT_NAME.fullmatch(name):
            raise MalformedFileError(
                f"`{name}` is no name for an input",
                _at(plan_where, lines, ("inputs", name)),
                "use letters, digits and _",
            )
    context = None
    if paths.CONTEXT in files:
        context = words.decode(files[paths.CONTEXT], f"{where}/{paths.CONTEXT}")
    told = {name: files[name] for name in (paths.PLAN, paths.CONTEXT) if name in files}
    return Plan(
        header=header,
        prose=prose,
        digest=digest.manifest_digest(told),
        context=context,
        steps=tuple(_steps(files, where, header)),
    )


def names(files: Mapping[str, object], where: str) -> dict[str, tuple[int, str]]:
    """Return slug to (number, file name) of the step files, or say which two or which name does not fit.

    Raises:
        MalformedFileError: a name that is no step's, or two steps with one number or slug.
    """
    found: dict[str, tuple[int, str]] = {}
    numbers: dict[int, str] = {}
    for name in sorted(files):
        if not name.endswith(".md") or name in (paths.PLAN, paths.CONTEXT, paths.LOG) or "/" in name:
            continue
        match = ids.STEP_FILE.fullmatch(name)
        if match is None or len(match["slug"]) > ids.SLUG_LIMIT:
            raise MalformedFileError(
                f"{name!r} is no name for a step",
                f"{where}/{name}:1",
                "call it NN-slug.md, with a slug of a-z, 0-9 and single hyphens",
            )
        number, slug = int(match["number"]), match["slug"]
        if number in numbers:
            raise MalformedFileError(
                f"two steps have the number {number}: {numbers[number]} and {name}",
                f"{where}/{name}:1",
                "give each step a number of its own",
            )
        if slug in found:
            raise MalformedFileError(
                f"two steps are called {slug}: {found[slug][1]} and {name}",
                f"{where}/{name}:1",
                "a step is known by its slug; rename one",
            )
        numbers[number], found[slug] = name, (number, name)
    if len(found) > STEP_LIMIT:
        raise MalformedFileError(
            f"{len(found):,} steps", where, f"at most {STEP_LIMIT:,} are run; make several protocols"
        )
    return dict(sorted(found.items(), key=lambda item: item[1][0]))


def _at(where: str, lines: words.Lines, path: words.Path) -> str:
    return f"{where}:{lines.get(path, 1)}"


def _steps(files: Mapping[str, bytes], where: str, plan: PlanHeader) -> Iterator[Step]:
    order = names(files, where)
    if not order:
        raise MalformedFileError("the plan has no steps", where, "add a file such as 01-first.md")
    needs_of: dict[str, tuple[str, ...]] = {}
    where_of: dict[str, str] = {}
    before: str | None = None
    made = []
    for slug, (number, name) in order.items():
        at = f"{where}/{name}"
        front, prose = words.split_front_matter(words.decode(files[name], at), at)
        value, lines = words.load_yaml(front, at)
        header = words.validate(StepHeader, value, lines, at)
        needs: tuple[str, ...] = (before,) if before else ()
        if header.needs is not None:
            needs = tuple(_resolve(ref, order, _at(at, lines, ("needs", i))) for i, ref in enumerate(header.needs))
        goto = None
        if header.on_failure.goto:
            goto = _resolve(header.on_failure.goto, order, _at(at, lines, ("on_failure", "goto")))
        if slug in needs:
            raise MalformedFileError(f"{slug} needs itself", _at(at, lines, ("needs",)), "remove it from `needs`")
        needs_of[slug], where_of[slug], before = needs, _at(at, lines, ("needs",)), slug
        asked = header.qa or plan.qa
        checks = asked.checks if asked else ()
        policy = asked.policy if asked and asked.policy else None
        if policy is None:
            policy = QaPolicy.LIGHT if checks or header.outputs else QaPolicy.SKIP
        made.append(
            Step(
                slug=slug,
                number=number,
                file=name,
                digest=digest.digest(files[name]),
                header=header,
                prose=prose,
                needs=needs,
                goto=goto,
                qa=policy,
                checks=checks,
            )
        )
    _refuse_cycles(needs_of, where_of)
    yield from made


def _resolve(reference: str, known: Mapping[str, object], where: str) -> str:
    slug = ids.find_step(reference, known)
    if slug is None:
        close = words.nearest(ids.step_slug(reference) or reference, known)
        hint = f"did you mean `{close}`?" if close else "name a step of this plan"
        raise MalformedFileError(f"there is no step `{reference}`", where, hint)
    return slug


def _refuse_cycles(needs: Mapping[str, tuple[str, ...]], where: Mapping[str, str]) -> None:
    done: set[str] = set()
    for start in needs:
        path: list[str] = []
        stack = [(start, iter(needs[start]))]
        if start in done:
            continue
        path.append(start)
        while stack:
            slug, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                done.add(slug)
                path.pop()
                stack.pop()
            elif following in path:
                circle = " → ".join([*path[path.index(following) :], following])
                raise MalformedFileError(f"the steps need each other: {circle}", where[slug], "remove one of the needs")
            elif following not in done:
                path.append(following)
                stack.append((following, iter(needs[following])))


def refuse_unsupported(plan: Plan, where: str) -> None:
    """Refuse by name what this version does not do yet: agent steps, `qa: full`, `approval:`.

    Raises:
        UnsupportedError: naming file and key.
    """

    def refuse(what: str, name: str, hint: str) -> UnsupportedError:
        return UnsupportedError(f"{what} is not supported by this version", f"{where}/{name}:1", hint)

    if plan.header.approval and plan.header.approval.when != "none":
        raise refuse("`approval:` on a plan", paths.PLAN, "remove the key, or put a step of kind human first")
    for step in plan.steps:
        if step.header.kind is Kind.AGENT:
            raise refuse("a step of kind agent (the default)", step.file, "write `kind: command`, `tool` or `human`")
        if step.qa is QaPolicy.FULL:
            raise refuse("`qa: full`", step.file, "write `qa: {policy: light, checks: [...]}`")
        if step.header.approval and step.header.approval.when != "none":
            raise refuse("`approval:`", step.file, "remove the key, or put a step of kind human before it")
