"""A protocol's plan as people wrote it: plan.md, context.md and the step files of one folder, parsed and held together.

The parser says what is wrong with a file, its line, and what to write; it never mends. Prose is kept as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field

from runner.errors import MalformedFileError, UnsupportedError
from runner.protocol import digest, document, ids, log, paths, references, words
from runner.protocol.model import Kind, OnFailure, PlanHeader, QaPolicy, StepHeader
from runner.values import dataclass

STEP_LIMIT = 10_000
REVIEW = "review"  # what QA's evidence calls a model's verdict


def output_check(glob: str) -> str:
    """Return what QA's evidence calls the look for an output."""
    return f"outputs: {log.cut(glob)}"


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
    lines: Mapping[str, int] = field(repr=False, compare=False)  # of the header's keys, for messages

    @property
    def on_failure(self) -> OnFailure:
        """What happens when it fails."""
        return self.header.on_failure

    @property
    def evidence(self) -> list[str]:
        """What the evidence of a QA that passed names, in its order: outputs, checks, a model's verdict."""
        named = [*map(output_check, self.header.outputs), *map(log.cut, self.checks)]
        return [*named, REVIEW] if self.qa is QaPolicy.FULL else named


@dataclass(frozen=True, slots=True)
class Plan:
    """All that people say of a protocol. `steps` are in the order of their numbers."""

    header: PlanHeader
    prose: str = field(repr=False)
    digest: str  # of plan.md and context.md
    context: str | None
    steps: tuple[Step, ...]
    lines: Mapping[str, int] = field(repr=False, compare=False)
    # Slug to the step's state that was seen to say the same: what `machine.edit_of` need not compare again.
    agreed: dict[str, object] = field(init=False, default_factory=dict, repr=False, compare=False)

    def step(self, slug: str) -> Step | None:
        """Return the step, or None where there is none of that name."""
        return next((step for step in self.steps if step.slug == slug), None)


def parse(files: Mapping[str, bytes], where: str) -> Plan:
    """Return the plan that `files` (name in the folder to bytes) make; `where` is the folder, for messages.

    Raises:
        MalformedFileError: with the file and line.
    """
    if paths.PLAN not in files:
        raise MalformedFileError("there is no plan.md", where, "write one: front matter with `title: …`, and prose")
    plan_where = f"{where}/{paths.PLAN}"
    text = document.decode(files[paths.PLAN], plan_where)
    front, prose = document.split_front_matter(text, plan_where)
    value, lines = document.load_yaml(front, plan_where)
    header = words.validate(PlanHeader, value, lines, plan_where)
    context = None
    if paths.CONTEXT in files:
        context = document.decode(files[paths.CONTEXT], f"{where}/{paths.CONTEXT}")
    told = {name: files[name] for name in (paths.PLAN, paths.CONTEXT) if name in files}
    return Plan(
        header=header,
        prose=prose,
        digest=digest.manifest_digest(told),
        context=context,
        steps=tuple(_steps(files, where, header)),
        lines=_key_lines(lines),
    )


def names(files: Mapping[str, object], where: str) -> dict[str, tuple[int, str]]:
    """Return slug to (number, file name) of the step files, or say which two or which name does not fit.

    Raises:
        MalformedFileError: a name that is no step's, or two steps with one number or slug.
    """
    found: dict[str, tuple[int, str]] = {}
    numbers: dict[int, str] = {}
    for name in sorted(files):
        if not name.lower().endswith(".md") or name in (paths.PLAN, paths.CONTEXT, paths.LOG) or "/" in name:
            continue
        shown = name if name.isprintable() else ascii(name)

        def refuse(what: str, hint: str, at: str = f"{where}/{shown}:1") -> MalformedFileError:
            return MalformedFileError(what, at, hint)

        match = ids.STEP_FILE.fullmatch(name)
        if match is None:
            raise refuse(
                f"`{shown}` is no name for a step", "call it NN-slug.md, with a slug of a-z, 0-9 and single hyphens"
            )
        number, slug = int(match["number"]), match["slug"]
        if len(slug) > ids.SLUG_LIMIT:
            raise refuse(f"`{slug}` is too long for a slug", f"use at most {ids.SLUG_LIMIT} characters")
        if slug == "plan":
            raise refuse("a step cannot be called plan", "in the record `plan` is plan.md; call the step planning")
        if number in numbers:
            what = f"two steps have the number {number}: {numbers[number]} and {name}"
            raise refuse(what, "give each step a number of its own")
        if slug in found:
            what = f"two steps are called {slug}: {found[slug][1]} and {name}"
            raise refuse(what, "a step is known by its slug; rename one")
        numbers[number], found[slug] = name, (number, name)
    if len(found) > STEP_LIMIT:
        raise MalformedFileError(
            f"{len(found):,} steps", where, f"at most {STEP_LIMIT:,} are run; make several protocols"
        )
    return dict(sorted(found.items(), key=lambda item: item[1][0]))


def _at(where: str, lines: document.Lines, path: document.Path) -> str:
    return f"{where}:{lines.get(path, 1)}"


def _key_lines(lines: document.Lines) -> dict[str, int]:
    return {str(path[0]): line for path, line in lines.items() if len(path) == 1}


def _steps(files: Mapping[str, bytes], where: str, plan: PlanHeader) -> Iterator[Step]:
    order = names(files, where)
    if not order:
        raise MalformedFileError("the plan has no steps", where, "add a file such as 01-first.md")
    needs_of: dict[str, tuple[str, ...]] = {}
    where_of: dict[str, str] = {}
    goto_of: dict[str, tuple[str, str]] = {}
    before: str | None = None
    made = []
    for slug, (number, name) in order.items():
        at = f"{where}/{name}"
        front, prose = document.split_front_matter(document.decode(files[name], at), at)
        value, lines = document.load_yaml(front, at)
        header = words.validate(StepHeader, value, lines, at)
        needs: tuple[str, ...] = (before,) if before else ()
        if header.needs is not None:
            needs, where_of[slug] = (), _at(at, lines, ("needs",))
            for index, reference in enumerate(header.needs):
                here = _at(at, lines, ("needs", index) if ("needs", index) in lines else ("needs",))
                need = _resolve(reference, order, here)
                if need == slug:
                    raise MalformedFileError(f"{slug} needs itself", here, "remove it from `needs`")
                if need in needs:
                    raise MalformedFileError(f"{slug} needs {need} twice", here, "keep one of them")
                needs = (*needs, need)
        goto = None
        if header.on_failure.goto:
            here = _at(at, lines, ("on_failure", "goto"))
            goto = _resolve(header.on_failure.goto, order, here)
            goto_of[slug] = goto, here
        _check_references(header, plan.inputs, order, at, lines)
        needs_of[slug], before = needs, slug
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
                lines=_key_lines(lines),
            )
        )
    _refuse_cycles(needs_of, where_of)
    _refuse_jumps(needs_of, goto_of)
    yield from made


def _resolve(reference: str, known: Mapping[str, object], where: str) -> str:
    slug = ids.find_step(reference, known)
    if slug is None:
        close = words.nearest(ids.step_slug(reference) or reference, known)
        hint = f"did you mean `{close}`?" if close else "name a step of this plan"
        raise MalformedFileError(f"there is no step `{reference}`", where, hint)
    return slug


def _check_references(
    header: StepHeader, inputs: Mapping[str, object], steps: Mapping[str, object], where: str, lines: document.Lines
) -> None:
    for key, value in header.with_.items():
        at = _at(where, lines, ("with", key))
        for name in references.names_in(value, at):
            kind, word = references.split(name, at)
            known = inputs if kind == "inputs" else steps
            if word not in known and not (kind == "steps" and ids.find_step(word, steps)):
                close = words.nearest(word, known)
                other = "name it under `inputs:` in plan.md" if kind == "inputs" else "name a step of this plan"
                what = f"there is no {'input' if kind == 'inputs' else 'step'} `{word}`"
                raise MalformedFileError(what, at, f"did you mean `{close}`?" if close else other)
    spliced = next(filter(None, map(references.variable_for, _texts(header.run))), None)
    if spliced:
        raise MalformedFileError(
            "a reference in `run`, which is given to the shell as it stands",
            _at(where, lines, ("run",)),
            f"write the environment variable ${spliced}",
        )


def _texts(run: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (run,) if isinstance(run, str) else run or ()


def _refuse_jumps(needs: Mapping[str, tuple[str, ...]], goto: Mapping[str, tuple[str, str]]) -> None:
    """Refuse a `goto` to a step that is not done whenever this one has failed: it goes back, or to itself."""
    if not goto:
        return
    bit = {slug: 1 << index for index, slug in enumerate(needs)}
    before: dict[str, int] = {}  # each step with all that it stands on
    for start in needs:
        stack = [start]
        while stack:
            missing = [need for need in needs[stack[-1]] if need not in before]
            if missing:
                stack += missing
                continue
            slug = stack.pop()
            before[slug] = bit[slug]
            for need in needs[slug]:
                before[slug] |= before[need]
    for slug, (target, where) in goto.items():
        if not before[slug] & bit[target]:
            raise MalformedFileError(
                f"{slug} does not come after {target}", where, f"go to {slug} itself, or to a step that it needs"
            )


def _refuse_cycles(needs: Mapping[str, tuple[str, ...]], where: Mapping[str, str]) -> None:
    done: set[str] = set()
    for start in needs:
        if start in done:
            continue
        path = {start: None}  # in order
        stack = [(start, iter(needs[start]))]
        while stack:
            slug, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                done.add(slug)
                path.popitem()
                stack.pop()
            elif following in path:
                circle = list(path)[list(path).index(following) :]
                told = [*circle[:5], "…"] if len(circle) > 6 else circle
                what = f"the steps need each other: {' → '.join([*told, following])}"
                at = next(where[name] for name in reversed(circle) if name in where)  # the others need what is before
                raise MalformedFileError(what, at, "remove one of the needs")
            elif following not in done:
                path[following] = None
                stack.append((following, iter(needs[following])))


def refuse_unsupported(plan: Plan, where: str) -> None:
    """Refuse by name what this version does not do yet.

    Raises:
        UnsupportedError: naming file and key.
    """

    def refuse(what: str, of: Plan | Step, key: str, hint: str) -> UnsupportedError:
        at = f"{where}/{of.file if isinstance(of, Step) else paths.PLAN}:{of.lines.get(key, 1)}"
        return UnsupportedError(f"{what} is not supported by this version", at, hint)

    for step in plan.steps:
        if step.header.budget and step.header.kind is not Kind.AGENT and step.qa is not QaPolicy.FULL:
            raise refuse(
                "`budget:` of a step that asks no model", step, "budget", "remove the key; `timeout:` bounds a command"
            )
