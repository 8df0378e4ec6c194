"""log.md of schema 2: a line for people and its data in a comment, which no text of an entry can leave."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from runner.errors import IllegalEventError, IntegrityError
from runner.protocol import events as ev
from runner.protocol import log, machine
from runner.protocol.events import Entry
from tests.protocol import histories
from tests.protocol.histories import DIGEST, OID, PROTOCOL, begun, entry, planned_step

LINE = b"- 2026-11-20 06:47:03Z a paused\n"
DATA = b'  <!-- 1 paused a {"actor":"alice"} -->\n'
HOSTILE = (
    "-->", "--!>", "<!--", "<script>x</script>", "</details>", "`", "``", "--", "-", "->", ">", "$x$ $`y`$", "[a](b)", "@bob", "#12",
    "a -->\n# approved", "\u2028", "\\", "&gt;", "![x](http://x.test/y.png)", "\n- 2026-11-20 06:47:03Z a completed\n",
)  # fmt: skip
texts = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=8), max_size=5).map("".join)


def written(*found: Entry) -> str:
    return log.append(b"", found, 2).decode()


def test_a_log_as_a_whole() -> None:
    found = [
        *begun({"a": planned_step(1)}),
        entry(3, ev.ApprovalAsked(subject="a", kind="step", digest=DIGEST, text="before it starts", by="alice, bob")),
        entry(4, ev.ApprovalCounted(subject="a", wait="w3", approvals=["x"], by=["alice@example.test"])),
        entry(5, ev.StepFailed(subject="a", attempt=1, reason="exit 1", engine="openai:gpt-5", spent={"usd": "0.02"})),
    ]
    lines = written(*found).splitlines()
    assert [line for line in lines if line.startswith("- ")] == [
        "- 2026-11-20 06:47:03Z 0007-rate-limit created: `Rate limit`",
        "- 2026-11-20 06:47:03Z planned",
        "- 2026-11-20 06:47:03Z a approval asked for `alice, bob`: `before it starts`",
        "- 2026-11-20 06:47:03Z a approval counted by `alice@example.test`",
        "- 2026-11-20 06:47:03Z a failed (attempt 1, $0.02): `exit 1`",
    ]
    assert lines[-1] == (
        '  <!-- 5 step-failed a {"actor":"runner","attempt":1,"engine":"openai:gpt-5","reason":"exit 1","spent":{"usd":"0.02"}} -->'
    )


def shown(text: str) -> tuple[list[Token], list[Token]]:
    """Return the blocks of a Markdown text as forges read it, and what its paragraphs have."""
    blocks = MarkdownIt("commonmark").parse(text)
    return blocks, [child for block in blocks for child in block.children or []]


@given(texts, texts)
def test_no_text_is_anything_but_quoted_text_on_a_page(reason: str, name: str) -> None:
    """An entry is one item of a list: words, code, and a comment that ends where it ends."""
    one = ev.StepBlocked(subject="a", attempt=1, reason=reason, tail=name, executor=name)
    page = written(entry(1, one), entry(2, ev.Asked(subject="a", kind="question", text=name, by=reason)))
    blocks, inner = shown(page)
    kinds = [block.type for block in blocks if block.nesting >= 0]
    item = ["list_item_open", "paragraph_open", "inline", "html_block"]
    assert kinds == ["bullet_list_open", *item, *item]
    assert {token.type for token in inner} <= {"text", "code_inline"}
    for block in blocks:
        if block.type == "html_block":
            assert re.fullmatch(r"<!-- [1-9][^<>]* -->\n?", block.content) and block.content.count("--") == 2


@given(texts, st.sampled_from(["reason", "tail"]))
def test_a_hostile_text_is_read_again(text: str, key: str) -> None:
    event = ev.StepFailed(**{"subject": "a", "attempt": 1, "reason": "x", key: text})  # type: ignore[arg-type]
    page = written(entry(7, event))
    assert page.count("\n") == 2 and page.isascii()
    assert log.parse(page.encode(), "log.md") == [entry(7, event)]


def test_a_long_text_is_cut_in_its_line_and_whole_in_its_data() -> None:
    line, data, _ = written(entry(1, ev.Paused(subject=PROTOCOL, reason="ü" + "x" * 400))).split("\n")
    assert line.endswith(f"paused: `?{'x' * 68}...`") and "x" * 400 in data


@pytest.mark.parametrize(
    ("data", "line", "what"),
    [
        (LINE, 2, "cut off"),
        (LINE + DATA[:-1], 2, "cut off"),
        (LINE + DATA + LINE, 4, "cut off"),
        (LINE + DATA + b"\n", 4, "cut off"),
        (LINE + DATA + b"\n\n", 3, "no line"),
        (LINE + DATA + b"## 2 paused a\n- time: x\n", 3, "no line"),
        (LINE[2:].join([b"- ", b""]) + DATA[2:], 2, "no data"),
        (LINE + DATA.replace(b" -->", b"  -->"), 2, "no data"),
        (LINE + DATA.replace(b"\n", b"\r\n"), 2, "no data"),
        (LINE + DATA.replace(b" 1 ", b" 01 "), 2, "no data"),
        (LINE + DATA.replace(b"}", b""), 2, "no data"),
        (LINE.replace(b"Z", b""), 2, "cut off"),
        (LINE.replace(b"Z", b"") + DATA, 1, "no line"),
        (LINE.replace(b"paused", b"completed") + DATA, 1, "not written as"),
        (LINE.replace(b"paused", b"paused ") + DATA, 1, "not written as"),
        (LINE + DATA.replace(b'":"', b'": "'), 1, "not written as"),
        (LINE + DATA.replace(b"{", b'{"time":"now",'), 1, "not written as"),
        (LINE + DATA.replace(b"}", b',"actor":"bob"}'), 1, "not written as"),
        (LINE + DATA.replace(b"}", b',"x":1e5}'), 1, "not written as"),
        (LINE + DATA.replace(b"}", b',"x":"--"}'), 1, "not written as"),
        (LINE + DATA.replace(b"}", b',"x":"<"}'), 1, "not written as"),
        (LINE + DATA.replace(b"alice", b"\\u0061lice"), 1, "not written as"),
        (LINE + DATA.replace(b"}", b',"x":NaN}'), 2, "not JSON"),
        (LINE + DATA.replace(b"}", b',"x":1e999}'), 2, "not JSON"),
        (LINE + DATA.replace(b"}", b',"x":' + b"1" * 5000 + b"}"), 2, "not JSON"),
        (LINE + DATA.replace(b'"alice"', b"alice"), 2, "not JSON"),
        (LINE + DATA.replace(b"}", b',"x":' + b"[" * 60_000 + b"}"), 2, "nested too deep"),
        (LINE + DATA.replace(b'"alice"', b"1"), 2, "by whom"),
        (LINE + DATA.replace(b'"actor":"alice"', b""), 2, "by whom"),
        (LINE + DATA.replace(b"alice", "älice".encode()), 2, "not ASCII"),
    ],
)
def test_what_is_not_of_the_grammar_is_refused_by_line(data: bytes, line: int, what: str) -> None:
    with pytest.raises(IntegrityError, match=what) as refused:
        log.parse_raw(data, "log.md")
    assert refused.value.where == f"log.md:{line}"


@given(st.binary(max_size=200) | st.text(alphabet='#- :abz12\n{}[]",.<>!Z', max_size=200).map(str.encode))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    for candidate in (b"- " + data, LINE + DATA + data, LINE + DATA.replace(b"}", b',"reason":' + data + b"}")):
        try:
            found = log.parse(candidate, "log.md")
        except IntegrityError:
            continue
        assert log.append(b"", found, 2) == candidate


@pytest.mark.parametrize("schema", [1, 3])
def test_a_schema_that_this_version_does_not_write_is_refused(schema: int) -> None:
    """1 is what a record is of that names none: there is one way to say it."""
    event = ev.Created(subject=PROTOCOL, title="t", base="main", start=OID, nonce="0" * 32, schema=schema)
    with pytest.raises(IllegalEventError, match=f"names schema {schema}"):
        machine.apply(None, entry(1, event))


# --- the message -----------------------------------------------------------------------------------------------------


def test_a_message_as_a_whole() -> None:
    work = ev.StepFinished(subject="a", attempt=2, digest=DIGEST, start=OID, executor="sandbox", engine="x:y")
    verdict = ev.QaFailed(subject="a", attempt=2, tree=OID, reason="no", evidence=[], engine="x:z")
    found = [
        entry(12, work.model_copy(update={"spent": {"usd": "0.08"}})),
        entry(13, verdict.model_copy(update={"spent": {"usd": "0.0125"}})),
    ]
    told = log.render_message(PROTOCOL, found, OID, schema=2, plan=DIGEST, policy=DIGEST.replace("0", "1"))
    assert told.decode() == (
        f"{PROTOCOL}: a did not pass\n"
        "\n"
        "a finished (attempt 2, $0.08)\n"
        "a qa failed (attempt 2, $0.0125)\n"
        "\n"
        f"Runner-Protocol: {PROTOCOL}\nRunner-Revision: 13\n"
        "Runner-Event: step-finished a\nRunner-Event: qa-failed a\n"
        f"Runner-Trusted: {OID}\nRunner-Actor: runner\n"
        f"Runner-Plan: {DIGEST}\nRunner-Policy: {DIGEST.replace('0', '1')}\n"
        "Runner-Engine: x:y\nRunner-Engine: x:z\nRunner-Cost: $0.0925\nRunner-Verdict: failed\n"
    )
    read = log.parse_message(told)
    assert read is not None and read.policy == DIGEST.replace("0", "1")


@given(st.lists(st.from_regex(r"\A[0-9]{1,15}(\.[0-9]{1,12})?\Z"), min_size=1, max_size=9))
def test_costs_are_added_exactly(amounts: list[str]) -> None:
    found = [entry(3, ev.Cancelled(subject=PROTOCOL, spent={"usd": usd})) for usd in amounts]
    told = log.render_message(PROTOCOL, found, OID, schema=2).decode()
    (cost,) = re.findall(r"^Runner-Cost: \$(.*)$", told, re.MULTILINE)
    assert Fraction(cost) == sum(map(Fraction, amounts))
    assert log.parse_message(told.encode()) is not None


@given(st.lists(histories.entries, min_size=1, max_size=4), st.sampled_from([None, DIGEST]))
def test_a_message_has_no_text_of_an_entry_and_its_trailers_are_read(found: list[Entry], digest: str | None) -> None:
    told = log.render_message(PROTOCOL, found, OID, schema=2, plan=digest, policy=digest)
    read = log.parse_message(told)
    assert read is not None and read.events == tuple(f"{one.event.name} {one.event.subject}" for one in found)
    assert read.policy == digest
    subject, body, _ = told.decode().split("\n\n")
    assert len(subject) < 120 and len(body.split("\n")) == len(found)
    assert all(re.fullmatch(r"[a-z0-9-]+( [a-z]+)*( \([a-z0-9 ,$.-]+\))?", line) for line in body.split("\n"))


@pytest.mark.parametrize(
    "more",
    [
        "Runner-Cost: $1\nRunner-Engine: x\n",
        "Runner-Cost: 1\n",
        "Runner-Cost: $1\nRunner-Cost: $1\n",
        "Runner-Verdict: maybe\n",
        "Runner-Plan: abc\n",
        "Runner-Engine: x y\n",
        "Runner-Other: x\n",
    ],
)
def test_other_trailers_make_no_transition(more: str) -> None:
    good = log.render_message(PROTOCOL, begun({"a": planned_step(1)}), OID, schema=2)
    assert log.parse_message(good) is not None
    assert log.parse_message(good + more.encode()) is None
