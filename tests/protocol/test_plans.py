"""Plans: what people may write, and what they are told where they may not: file, line, key, and what to write instead."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from runner.errors import MalformedFileError, UnsupportedError
from runner.protocol import plans
from runner.protocol.plans import QaPolicy, StepKind

PLAN = "---\ntitle: t\ninputs: {version: 1}\n---\nprose\n"
STEP = '---\ntitle: a\nkind: command\nrun: "true"\n---\nx\n'


def parse(files: Mapping[str, str | bytes]) -> plans.Plan:
    told = {"plan.md": PLAN, **files}
    return plans.parse({name: text.encode() if isinstance(text, str) else text for name, text in told.items()}, "P")


def step(lines: str, *, title: str = "a") -> str:
    """A step file whose front matter has these lines from its line 3 on."""
    return f"---\ntitle: {title}\n{lines}\n---\n"


COMMAND = "kind: command\nrun: x\n"
WRITE = "write the environment variable"
*FIRST, LAST = map(repr, map(str, StepKind))
KINDS = f"`kind` should be {', '.join(FIRST)} or {LAST}"


@pytest.mark.parametrize(
    ("lines", "line", "what", "hint"),
    [
        # unknown, missing, mistyped keys
        ("knid: human", 3, "unknown key `knid`", "did you mean `kind`?"),
        ("kind: human\nwith_: {}", 4, "unknown key `with_`", "did you mean `with`?"),
        ("kind: human\napproval: {roles: [x]}", 4, "the key `when` is missing", "add `when: …`, 'none', 'before' or 'after'"),
        ("kind: human\nzzzzzz: 1", 4, "unknown key `zzzzzz`", "known keys: agent, approval, budget, decompose, engine, kind"),
        ("kind: human\nchecks: [x]", 4, "unknown key `checks`", "write `qa: {checks: [COMMAND]}`"),
        ("kind: human\nqa: {polcy: light}", 4, "unknown key `qa.polcy`", "did you mean `policy`?"),
        ("kind: human\nbudget:\n  usd: 1\n  token: 2", 6, "unknown key `budget.token`", "did you mean `tokens`?"),
        ("kind: human\non_failure: {retyr: 1}", 4, "unknown key `on_failure.retyr`", "did you mean `retry`?"),
        ("kind: human\n0777: 1", 4, "unknown key `0777`", "known keys"),
        ("kind: comand", 3, KINDS, "did you mean `command`?"),
        ("kind: [command]", 3, KINDS, "did you mean `command`?"),
        ("kind: Command", 3, "`kind` should be", "did you mean `command`?"),
        ("kind:", 3, "`kind` has no value", "write one, or remove the key"),
        ("kind: human\nagent:", 4, "`agent` has no value", "write one, or remove the key"),
        ("kind: human\nagent: null", 4, "`agent` has no value", "write one, in quotes if it is meant as text"),
        ("kind: human\nagent: a b", 4, "`agent` should be the name of an agent file", "write the name of a file"),
        ("kind: human\nagent: ../x", 4, "`agent` should be the name of an agent file", "write the name of a file"),
        ("kind: human\nengine: |\n  a\n  b", 4, "`engine` should be one line of text", "write it on one line"),
        # run, tool, with
        ("kind: command", 3, "`kind` is command, and there is nothing to run", "add `run: …`"),
        ("kind: command\nrun: []", 3, "`kind` is command, and there is nothing to run", "add `run: …`"),
        ("kind: command\nrun: ' '", 4, "`run` should not be empty", "write something"),
        ("kind: command\nrun: {a: b}", 4, "`run` should be text", "write one text"),
        ("kind: command\nrun: [a, [b]]", 4, "`run.1` should be text", "write one text"),
        ("run: x", 3, "`run` goes with a step of kind command", "add `kind: command`"),
        ("kind: tool", 3, "`kind` is tool, and no tool is named", "add `tool: …`"),
        ("kind: tool\ntool: a b", 4, "`tool` should be a tool's name", "write a name such as echo"),
        ("kind: human\ntool: echo", 4, "`tool` goes with a step of kind tool", "add `kind: tool`"),
        ("kind: human\nwith: {a: 1}", 4, "`with` goes with a step of kind tool", "add `kind: tool`"),
        ("kind: tool\ntool: t\nwith: [a]", 5, "`with` should be keys and values", "write `{key: value}`"),
        ("kind: tool\ntool: t\nwith: {a: " + "1" * 19 + "}", 5, "`with.a` is a number of too many digits", "write at most"),
        # times, amounts, counts
        ("kind: human\ntimeout: soon", 4, "`timeout` should be a duration", "write it as 90s, 20m or 1h30m"),
        ("kind: human\ntimeout: 20", 4, "`timeout` should be a duration", "write it as"),
        ("kind: human\ntimeout: 0s", 4, "`timeout` should be a duration", "write it as"),
        ("kind: human\ntimeout: 12:30", 4, "`timeout` should be a duration", "write it as"),
        ("kind: human\nbudget: 3", 4, "`budget` should be keys and values", "write `{key: value}`"),
        ("kind: human\nbudget: {usd: -1}", 4, "`budget.usd` should be at least 0", "write 0 or more"),
        ("kind: human\nbudget: {usd: .inf}", 4, "`budget.usd` should be a number", "write one without quotes"),
        ("kind: human\nbudget: {usd: '1'}", 4, "`budget.usd` should be a number", "write one without quotes"),
        ("kind: human\nbudget: {tokens: 1.5}", 4, "`budget.tokens` should be a whole number", "write digits"),
        ("kind: human\nbudget: {tokens: 1e3}", 4, "`budget.tokens` should be a whole number", "write digits"),
        ("kind: human\nbudget: {tokens: 010}", 4, "`budget.tokens` should be a whole number", "write digits"),
        ("kind: human\nbudget: {tokens: " + "1" * 19 + "}", 4, "`budget.tokens` should be a whole number", "write"),
        # qa, approval, on_failure
        ("kind: human\nqa: lite", 4, "`qa` should be 'skip', 'light' or 'full'", "did you mean `light`?"),
        ("kind: human\nqa: no", 4, "`qa` should be 'skip', 'light' or 'full'", "write one of"),
        ("kind: human\nqa: {checks: {a: b}}", 4, "`qa.checks` should be a list", "write `[a, b]`"),
        ("kind: human\napproval: befor", 4, "`approval` should be 'none', 'before' or 'after'", "did you mean `before`?"),
        ("kind: human\napproval: {roles: [a]}", 4, "the key `when` is missing in `approval`", "add `when: …`"),
        ("kind: human\napproval: {when: before, count: 0}", 4, "`approval.count` should be at least 1", "write 1 or more"),
        ("kind: human\non_failure: retry", 4, "`on_failure` should be keys and values", "write `{key: value}`"),
        ("kind: human\non_failure: {retry: no}", 4, "`on_failure.retry` should be a whole number", "write digits"),
        ("kind: human\non_failure: {then: stop}", 4, "`on_failure.then` should be 'fail' or 'block'", "write one of"),
        ("kind: human\non_failure: {limit: 1}", 4, "`on_failure.limit` goes with `goto`", "add `goto: STEP`"),
        ("kind: human\non_failure: {goto: a, retry: 1}", 4, "`on_failure.retry` does not go with `goto`", "write `goto`"),
        ("kind: human\non_failure: {goto: z}", 4, "there is no step `z`", "name a step of this plan"),
        ("kind: human\non_failure: {goto: b}", 4, "a does not come after b", "go to a itself"),
        # needs
        ("kind: human\nneeds: [09-z]", 4, "there is no step `09-z`", "name a step of this plan"),
        ("kind: human\nneeds: [bb]", 4, "there is no step `bb`", "did you mean `b`?"),
        ("kind: human\nneeds: a", 4, "a needs itself", "remove it from `needs`"),
        ("kind: human\nneeds:\n  - b\n  - 01-a", 6, "a needs itself", "remove it from `needs`"),
        ("kind: human\nneeds: [b, 02-b]", 4, "a needs b twice", "keep one of them"),
        ("kind: human\nneeds: [b]", 4, "the steps need each other: a → b → a", "remove one of the needs"),
        ("kind: human\nneeds: [A]", 4, "`needs.0` should name a step", "write its slug"),
        ("kind: human\nneeds: {a: b}", 4, "`needs` should be a list", "write `[a, b]`"),
        ("kind: human\nneeds:", 4, "`needs` has no value", "write one, or remove the key"),
        # outputs
        ("kind: human\noutputs: [/etc/passwd]", 4, "`outputs.0` should be a path inside the repository", "write it as"),
        ("kind: human\noutputs: ../x", 4, "`outputs` should be a path inside the repository", "write it as"),
        ("kind: human\noutputs:\n  - ok\n  - a//b", 6, "`outputs.1` should be a path inside the repository", "write it as"),
        ("kind: human\noutputs: ['a\\b']", 4, "`outputs.0` should be a path inside the repository", "write it as"),
        ("kind: human\noutputs: [~/x]", 4, "`outputs.0` should be a path inside the repository", "write it as"),
        ("kind: human\noutputs: [.git/config]", 4, "`outputs.0` should not lie in .git/", "name a path"),
        ("kind: human\noutputs: [sub/.GIT/config]", 4, "`outputs.0` should not lie in .git/", "name a path"),
        ("kind: human\noutputs: [.protocols/config.yaml]", 4, "`outputs.0` should not lie in", "name a path"),
        ("kind: human\noutputs: [.Protocols/x]", 4, "`outputs.0` should not lie in", "name a path"),
        # references
        ("kind: tool\ntool: t\nwith: {v: '${{ inputs.versoin }}'}", 5, "there is no input `versoin`", "did you mean `version`?"),
        ("kind: tool\ntool: t\nwith:\n  v: ['x ${{ steps.zz.result }}']", 6, "there is no step `zz`", "name a step"),
        ("kind: tool\ntool: t\nwith: {v: '${{ version }}'}", 5, "`${{ version }}` is not a reference", "write ${{ inputs.NAME }}"),
        ("kind: tool\ntool: t\nwith: {v: '${{ inputs.version'}", 5, "a reference that is not closed", "end it with `}}`"),
        ("kind: command\nrun: echo ${{ inputs.version }}", 4, "a reference in `run`", f"{WRITE} $RUNNER_INPUT_VERSION"),
        ("kind: command\nrun: [a, '${{steps.02-b.result.text}}']", 4, "a reference in `run`", f"{WRITE} $RUNNER_STEPS_B_TEXT"),
    ],
)  # fmt: skip
def test_a_bad_key_of_a_step_is_told_with_file_line_and_what_to_write(
    lines: str, line: int, what: str, hint: str
) -> None:
    with pytest.raises(MalformedFileError) as refused:
        parse({"01-a.md": step(lines), "02-b.md": step("kind: human")})

    assert refused.value.where == f"P/01-a.md:{line}"
    assert refused.value.what.startswith(what)
    assert refused.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("title", "what"),
    [
        ("[a]", "`title` should be text"),
        ("''", "`title` should be one line of 1 to 200 characters"),
        ("x" * 201, "`title` should be one line of 1 to 200 characters"),
        ('"a\\nb"', "`title` should be one line of 1 to 200 characters"),
        ('"a\\u2028b"', "`title` should be one line of 1 to 200 characters"),
        ("", "`title` has no value"),
        ("~", "`title` has no value"),
    ],
)
def test_a_title_is_one_line(title: str, what: str) -> None:
    with pytest.raises(MalformedFileError) as refused:
        parse({"01-a.md": step("kind: human", title=title)})

    assert (refused.value.where, refused.value.what) == ("P/01-a.md:2", what)


@pytest.mark.parametrize(
    ("text", "line", "what", "hint"),
    [
        ("prose\n", 1, "no front matter", "start the file with a line `---`"),
        ("---\n---\n", 1, "keys and values are expected here", "write lines such as `title: …`"),
        ("---\n# only a comment\n---\n", 1, "keys and values are expected here", "write lines"),
        ("---\n- title\n---\n", 1, "keys and values are expected here", "write lines"),
        ("---\nbase: main\n---\n", 2, "the key `title` is missing", "add `title: …`"),
        ("---\ntitel: x\n---\n", 2, "unknown key `titel` (and 1 more)", "did you mean `title`?"),
        ("---\ntitle: t\nchecks: x\n---\n", 3, "unknown key `checks`", "write `qa: {checks: [COMMAND]}`"),
        ("---\r\ntitle: t\r\nbas: main\r\n---\r\n", 3, "unknown key `bas`", "did you mean `base`?"),
        ("\ufeff---\ntitle: t\nbas: main\n---\n", 3, "unknown key `bas`", "did you mean `base`?"),
        (
            "---\ntitle: t\nbase: a..b\n---\n",
            3,
            "`base` should be the name of a branch",
            "write a name that git allows",
        ),
        ("---\ntitle: t\nbase: -x\n---\n", 3, "`base` should be the name of a branch", "write a name that git allows"),
        ("---\ntitle: t\nbase: null\n---\n", 3, "`base` has no value", "write one"),
        (
            "---\ntitle: t\ninputs: {b-c: 2}\n---\n",
            3,
            "`inputs.b-c` is no name for an input",
            "use letters, digits and _",
        ),
        ("---\ntitle: t\ninputs: [a]\n---\n", 3, "`inputs` should be keys and values", "write `{key: value}`"),
        ("---\ntitle: t\nkind: human\n---\n", 3, "unknown key `kind`", "known keys: acceptance, agent"),
    ],
)
def test_a_bad_plan_is_told_with_file_line_and_what_to_write(text: str, line: int, what: str, hint: str) -> None:
    with pytest.raises(MalformedFileError) as refused:
        parse({"plan.md": text, "01-a.md": STEP})

    assert refused.value.where == f"P/plan.md:{line}"
    assert refused.value.what.startswith(what)
    assert refused.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("files", "where", "what"),
    [
        ({}, "P", "the plan has no steps"),
        ({"01-a.md": STEP, "01-b.md": STEP}, "P/01-b.md:1", "two steps have the number 1: 01-a.md and 01-b.md"),
        ({"01-a.md": STEP, "001-b.md": STEP}, "P/01-a.md:1", "two steps have the number 1: 001-b.md and 01-a.md"),
        ({"01-a.md": STEP, "02-a.md": STEP}, "P/02-a.md:1", "two steps are called a: 01-a.md and 02-a.md"),
        ({"01-A b.md": STEP}, "P/01-A b.md:1", "`01-A b.md` is not a name for a step"),
        ({"1-a.md": STEP}, "P/1-a.md:1", "`1-a.md` is not a name for a step"),
        ({"01-a--b.md": STEP}, "P/01-a--b.md:1", "`01-a--b.md` is not a name for a step"),
        ({"01-ä.md": STEP}, "P/01-ä.md:1", "`01-ä.md` is not a name for a step"),
        ({"01-a.MD": STEP}, "P/01-a.MD:1", "`01-a.MD` is not a name for a step"),
        ({"Plan.md": STEP}, "P/Plan.md:1", "`Plan.md` is not a name for a step"),
        ({"notes.md": STEP}, "P/notes.md:1", "`notes.md` is not a name for a step"),
        ({"01-a\n.md": STEP}, "P/'01-a\\n.md':1", "`'01-a\\n.md'` is not a name for a step"),
        ({"01-plan.md": STEP}, "P/01-plan.md:1", "a step cannot be called plan"),
        ({f"01-{'a' * 61}.md": STEP}, f"P/01-{'a' * 61}.md:1", f"`{'a' * 61}` is too long for a slug"),
        ({"01-a.md": STEP, "context.md": b"a\n\xff"}, "P/context.md:2", "not UTF-8: byte 0xff"),
        ({"01-a.md": STEP + "\0"}, "P/01-a.md:7", "a control or bidi character, U+0000, which a reader could not see"),
        ({"01-a.md": STEP + "\u202e"}, "P/01-a.md:7", "a control or bidi character, U+202E, which a reader could not see"),
        ({"01-a.md": "x" * 30_000_000}, "P/01-a.md:1", "the file has 30,000,000 bytes; at most 1,048,576 are read"),
    ],
)  # fmt: skip
def test_files_that_do_not_go_together_are_named(files: Mapping[str, str | bytes], where: str, what: str) -> None:
    with pytest.raises(MalformedFileError) as refused:
        parse(files)

    assert (refused.value.where, refused.value.what) == (where, what)
    assert refused.value.hint


def test_a_plan_without_plan_md_is_refused() -> None:
    with pytest.raises(MalformedFileError, match=r"there is no plan\.md"):
        plans.parse({"01-a.md": STEP.encode()}, "P")


@pytest.mark.parametrize(
    ("files", "where", "what"),
    [
        ({"01-a.md": step(COMMAND + "budget: {usd: 1}")}, "P/01-a.md:5", "`budget:` of a step that asks no model"),
    ],
)
def test_what_has_no_effect_is_refused_by_name(files: Mapping[str, str], where: str, what: str) -> None:
    found = parse(files)

    with pytest.raises(UnsupportedError) as refused:
        plans.refuse_unsupported(found, "P")
    assert (refused.value.where, refused.value.what) == (where, f"{what} is not supported by this version")


def test_every_key_of_a_step() -> None:
    text = (
        "---\ntitle: 2024\nkind: tool\nagent: coder\nengine: gemini:gemini-3-pro\nneeds: 01-a\ntool: deploy_prod\n"
        "with: {version: \"${{ inputs.version }}\", dry: no, n: 1, s: '1'}\noutputs: src/*.py\n"
        "qa: {policy: light, checks: make test}\napproval: {when: none, roles: [maintainer], count: 2}\n"
        "on_failure: {goto: a, limit: 3}\ntimeout: 1h30m\nbudget: {usd: 1.50, tokens: 200000}\n---\nprose ---\n"
    )
    found = parse({"01-a.md": STEP, "02-b.md": text}).steps[1]

    assert (found.header.title, found.header.kind, found.needs, found.goto) == ("2024", StepKind.TOOL, ("a",), "a")
    assert found.header.with_ == {"version": "${{ inputs.version }}", "dry": "no", "n": 1, "s": "1"}
    assert (found.header.outputs, found.qa, found.checks) == (("src/*.py",), QaPolicy.LIGHT, ("make test",))
    assert found.header.budget is not None
    assert (str(found.header.budget.usd), found.header.budget.tokens) == ("1.50", 200_000)
    assert found.prose == "prose ---\n"


def test_without_needs_a_step_needs_the_one_before_it_by_number() -> None:
    found = parse({"10-c.md": STEP, "02-b.md": step("kind: human\nneeds: []"), "01-a.md": STEP})

    assert [(one.slug, one.needs) for one in found.steps] == [("a", ()), ("b", ()), ("c", ("b",))]
    assert found.step("c") is found.steps[2]
    assert found.step("z") is None


@pytest.mark.parametrize(
    ("lines", "front", "policy"),
    [
        ("", "", QaPolicy.SKIP),
        ("outputs: a", "", QaPolicy.LIGHT),
        ("qa: {checks: [x]}", "", QaPolicy.LIGHT),
        ("qa: skip\noutputs: a", "", QaPolicy.SKIP),
        ("", "qa: {checks: [x]}", QaPolicy.LIGHT),
        ("qa: skip", "qa: {checks: [x]}", QaPolicy.SKIP),
        ("", "qa: light", QaPolicy.LIGHT),
    ],
)
def test_qa_is_light_where_there_is_something_to_check(lines: str, front: str, policy: QaPolicy) -> None:
    found = parse({"plan.md": f"---\ntitle: t\n{front}\n---\n", "01-a.md": step(COMMAND + lines)})

    assert found.steps[0].qa is policy


def test_crlf_and_a_bom_change_nothing_but_the_digest() -> None:
    plain, other = parse({"01-a.md": STEP}), parse({"01-a.md": "\ufeff" + STEP.replace("\n", "\r\n")})

    assert other.steps[0].header == plain.steps[0].header
    assert other.steps[0].digest != plain.steps[0].digest


def test_the_plan_s_digest_covers_plan_and_context_and_no_step() -> None:
    first = parse({"01-a.md": STEP})

    assert parse({"01-a.md": STEP + "more"}).digest == first.digest
    assert parse({"01-a.md": STEP, "context.md": ""}).digest != first.digest
    assert parse({"01-a.md": STEP, "plan.md": PLAN + "x"}).digest != first.digest


def many(count: int, lines: str = "") -> dict[str, str]:
    return {
        f"{number:05d}-s{number}.md": step(COMMAND + lines.format(next=number + 1, last=count))
        for number in range(1, count + 1)
    }


# The limit of each is far above what it takes here (under two seconds), and far below what anything quadratic takes.
@pytest.mark.parametrize(
    "lines",
    [
        "",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in ("needs: [s{next}]", "needs: [s{last}]", "on_failure: {{goto: s1}}")
        ),
    ],
    ids=["each the one before", "each the one after", "all the last", "all go back to the first"],
)
def test_ten_thousand_steps_are_read_in_a_few_seconds(lines: str) -> None:
    files = many(10_000, lines)
    if "needs" in lines:
        files["10000-s10000.md"] = step(COMMAND + "needs: []")
    began = time.process_time()

    found = parse(files)

    assert len(found.steps) == 10_000
    assert time.process_time() - began < 15


@pytest.mark.slow
def test_a_circle_of_ten_thousand_steps_is_told_in_one_line() -> None:
    files = many(10_000, "needs: [s{next}]")
    files["10000-s10000.md"] = step(COMMAND + "needs: [s1]")

    with pytest.raises(
        MalformedFileError, match="the steps need each other: s1 → s2 → s3 → s4 → s5 → … → s1"
    ) as refused:
        parse(files)
    assert refused.value.where == "P/10000-s10000.md:5"


def test_more_than_ten_thousand_steps_are_refused() -> None:
    with pytest.raises(MalformedFileError, match="10,001 steps"):
        parse({f"{number:05d}-s{number}.md": STEP for number in range(1, 10_002)})


def test_prose_has_the_values_of_inputs_and_of_nothing_else() -> None:
    told = "${{ inputs.version }} ${{inputs.versio}} ${{ inputs.version.x }} ${{ steps.a.result.text }} ${{ github.sha }} ${{ x"
    plan = parse(
        {"plan.md": PLAN.replace("prose", told), "01-a.md": STEP, "02-b.md": STEP.replace("\nx\n", f"\n{told}\n")}
    )
    filled = told.replace("${{ inputs.version }}", "1")
    assert plan.prose.strip() == filled
    assert plan.steps[1].prose.strip() == filled
