"""People's text and its YAML: every trap is refused with its line, by both of PyYAML's parsers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner.errors import MalformedFileError
from runner.protocol import strict_yaml
from runner.protocol.file_models import nearest
from runner.protocol.strict_yaml import Plain


@pytest.fixture(params=[False, True], ids=["libyaml", "python"])
def python(request: pytest.FixtureRequest) -> Any:
    """Whether it is the parser written in Python, of the two that PyYAML may have."""
    return request.param


def load(text: str, python: bool = False) -> Any:
    return strict_yaml.parse_yaml(text, "f.yaml", python=python)[0]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: &x 2\n", 2, "a YAML anchor, &x"),
        ("a: 1\nb: *x\n", 2, r"a YAML alias, \*x"),
        ("a: !!python/object/apply:os.system [x]\n", 1, "a YAML tag, tag:yaml.org,2002:python"),
        ("a: !!str 1\n", 1, "a YAML tag"),
        ("a: ! 1\n", 1, "a YAML tag, !"),
        ("\n\na: !local 1\n", 3, "a YAML tag, !local"),
        ("a: !!map {b: 1}\n", 1, "a YAML tag"),
        ("a: !!seq [b]\n", 1, "a YAML tag"),
        ("a:\n  <<: {b: 1}\n", 2, "a YAML merge key"),
        ("a: 1\nb: 2\na: 3\n", 3, "the key `a` is there twice"),
        ("a: 1\n'a': 3\n", 2, "the key `a` is there twice"),
        ("a: {b: 1, b: 2}\n", 1, "the key `b` is there twice"),
        ("a: 1\n---\nb: 2\n", 2, "a second YAML document"),
        ("---\n---\nb: 2\n", 2, "a second YAML document"),
        ("? [a]\n: 1\n", 1, "a YAML key that is not text"),
        ("? {a: b}\n: 1\n", 1, "a YAML key that is not text"),
        ("? \n: 1\n", 1, "a YAML key that is empty"),
        ("'': 1\n", 1, "a YAML key that is empty"),
        ("a: " + "[" * 2000 + "]" * 2000, 1, "nested deeper than 32"),
        ("a: " + "{b: " * 2000 + "}" * 2000, 1, "nested deeper than 32"),
        ("a: [" + "1, " * 20_001 + "1]\n", 1, "more than 20,000 YAML values"),
        ("a: " + "x" * (256 * 1024), 1, "characters of YAML"),
        ('a: 1\nb: "\\u202e"\n', 2, r"U\+202E, in a value"),
        ('a: "\\x00"\n', 1, r"U\+0000, in a value"),
        ('"\\u2066a": 1\n', 1, r"U\+2066, in a value"),
        ("a: 1\rb: 2\n", 1, "a CR that ends a line for some readers only"),
        ("a: 1\nb: x\x85y\n", 2, r"U\+0085 that ends a line"),
        ("a: 1\nb: x\u2028y\n", 2, r"U\+2028 that ends a line"),
        ("a: x\n\ufeffb: y\n", 2, r"a BOM, U\+FEFF"),
        ("a: [1\n", 2, "not YAML"),
        ("a: 'x\n", 2, "not YAML"),
        ("a: @x\n", 1, "not YAML"),
        ("a: b: c\n", 1, "not YAML: a colon and a space in a value without quotes"),
        ('run: echo "x: y" > a.txt\n', 1, "not YAML: a colon and a space in a value without quotes"),
        ("a: b\n  c: d\n", 2, "not YAML: mapping values"),
        ("%YAML 3.0\n---\na: 1\n", 1, "not YAML"),
        ("- a\nb: 1\n", 2, "not YAML"),
    ],
)
def test_traps_of_yaml_are_refused_by_line(text: str, line: int, what: str, python: bool) -> None:
    with pytest.raises(MalformedFileError, match=what) as refused:
        load(text, python)

    assert refused.value.where == f"f.yaml:{line}"
    assert refused.value.hint


@pytest.mark.parametrize("escape", ["\\ud800", "\\U00110000", "\\UFFFFFFFF"])
def test_escapes_that_are_no_character_are_refused(escape: str, python: bool) -> None:
    with pytest.raises(MalformedFileError):
        load(f'a: "{escape}"\n', python)


@pytest.mark.parametrize("tabs", ["a:\n\tb: 1\n", "\ta: 1\n"])
def test_a_tab_is_named(tabs: str, python: bool) -> None:
    with pytest.raises(MalformedFileError) as refused:
        load(tabs, python)

    assert refused.value.hint == "indent with spaces; YAML takes no tabs there"


def test_a_plain_scalar_is_told_from_a_quoted_one(python: bool) -> None:
    found = load("a: 1\nb: '1'\nc: \"1\"\nd: |\n  1\ne: [1, '1']\n", python)

    kinds = {key: type(value) for key, value in found.items()}
    assert kinds == {"a": Plain, "b": str, "c": str, "d": str, "e": list}
    assert [type(item) for item in found["e"]] == [Plain, str]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("True", "True"), ("0777", "0777"), ("0x1F", "0x1F"), ("0o17", "0o17"),
        ("12:30", "12:30"), ("1_000", "1_000"), ("1e3", "1e3"), (".5", ".5"), ("1.", "1."), (".inf", ".inf"), (".nan", ".nan"),
        ("2026-11-20", "2026-11-20"), ("=", "="), ("null", None), ("~", None), ("", None), ("true", True), ("false", False),
        ("0", 0), ("-7", -7), ("+7", 7), ("1.50", 1.5), ("-0.0", 0.0), ("9" * 18, int("9" * 18)), ("'1'", "1"), ("'null'", "null"),
    ],
)  # fmt: skip
def test_a_value_of_no_declared_type_is_what_json_would_read(written: str, read: object, python: bool) -> None:
    found = strict_yaml.resolve(load(f"a: {written}\n", python))["a"]

    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize("number", ["1" * 19, "-" + "1" * 5000, "1." + "1" * 19, "1" * 400 + ".5"])
def test_a_number_of_too_many_digits_is_no_text_in_silence(number: str) -> None:
    with pytest.raises(ValueError, match="too many digits"):
        strict_yaml.resolve(load(f"a: {number}\n"))


@given(st.text(alphabet="0123456789+-.eE_xonulftrasyINa~:", max_size=30))
def test_what_is_resolved_is_json_and_finite(text: str) -> None:
    try:
        found = strict_yaml.resolve(Plain(text))
    except ValueError:
        return
    assert not isinstance(found, float) or math.isfinite(found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@given(st.text(max_size=60) | st.text(alphabet="ab: -[]{}#&*!|>'\"%@`\n\t\r?,.~<0", max_size=60))
@example("---")
def test_arbitrary_text_is_read_or_refused(text: str) -> None:
    for python in (False, True):
        try:
            value, lines = strict_yaml.parse_yaml(text, "f.yaml", python=python)
        except MalformedFileError:
            continue
        assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
        assert isinstance(value, str | dict | list | None)


def test_every_key_and_item_has_its_line() -> None:
    text = "\na: 1\nb:\n  - x\n  - c: 1\n    d: |\n      text\n      text\ne: {f: [1,\n  2]}\n"

    _, lines = strict_yaml.load_yaml(text, "f.yaml")

    assert lines == {
        (): 2, ("a",): 2, ("b",): 3, ("b", 0): 4, ("b", 1): 5, ("b", 1, "c"): 5, ("b", 1, "d"): 6,
        ("e",): 9, ("e", "f"): 9, ("e", "f", 0): 9, ("e", "f", 1): 10,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "line", "what"),
    [
        (b"a\nb\xff\n", 2, "not UTF-8: byte 0xff"),
        (b"\xff\xfea\x00", 1, "not UTF-8: byte 0xff"),
        (b"\xed\xa0\x80", 1, "not UTF-8: byte 0xed"),
        (b"a\n\nb\0", 3, r"U\+0000"),
        (b"a\x1b[2J", 1, r"U\+001B"),
        (b"a\x7f", 1, r"U\+007F"),
        ("a\n\u202e".encode(), 2, r"U\+202E"),
        ("a\u2069".encode(), 1, r"U\+2069"),
        (b"x" * (1024 * 1024 + 1), 1, "at most 1,048,576"),
        (b"x" * 50_000_000, 1, "50,000,000 bytes"),
    ],
)
def test_bytes_that_are_no_readable_text_are_refused_by_line(data: bytes, line: int, what: str) -> None:
    with pytest.raises(MalformedFileError, match=what) as refused:
        strict_yaml.decode(data, "f.md")

    assert refused.value.where == f"f.md:{line}"


def test_a_bom_and_tabs_and_crlf_and_foreign_letters_are_text() -> None:
    assert strict_yaml.decode("\ufeff---\r\n\tä😀\u200d\r\n".encode(), "f.md") == "---\r\n\tä😀\u200d\r\n"


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("", "no front matter", "start the file with a line `---`"),
        ("text\n", "no front matter", "start the file with a line `---`"),
        ("----\na: 1\n---\n", "no front matter", "start the file"),
        ("--- a: 1\n---\n", "no front matter", "start the file"),
        ("\n\n---\na: 1\n---\n", "the front matter starts on line 3", "start it on the first line"),
        (" ---\na: 1\n---\n", "no front matter", "start the file"),
        ("---\ra: 1\r---\r", "the lines end in CR alone", "save the file with LF"),
        ("---\na: 1\n", "the front matter is not closed", "end it with a line `---`"),
        ("---\na: 1\n ---\n", "the front matter is not closed", "end it"),
        ("---\na: 1\n----\n", "the front matter is not closed", "end it"),
    ],
)
def test_front_matter_begins_and_ends(text: str, what: str, hint: str) -> None:
    with pytest.raises(MalformedFileError, match=what) as refused:
        strict_yaml.split_front_matter(text, "f.md")

    assert refused.value.where == "f.md:1"
    assert refused.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("text", "front", "prose"),
    [
        ("---\na: 1\n---\nb\n", "\na: 1\n", "b\n"),
        ("---\r\na: 1\r\n---\r\nb\r\n", "\na: 1\r\n", "b\r\n"),
        ("---  \na: 1\n--- \n", "\na: 1\n", ""),
        ("---\na: 1\n---", "\na: 1\n", ""),
        ("---\na: 1\n...\nb", "\na: 1\n", "b"),
        ("---\n---\nb", "\n", "b"),
        ("---\na: 1\n---\n---\nb", "\na: 1\n", "---\nb"),
    ],
)
def test_front_matter_is_told_from_prose(text: str, front: str, prose: str) -> None:
    assert strict_yaml.split_front_matter(text, "f.md") == (front, prose)


@pytest.mark.parametrize(
    ("word", "close"), [("knid", "kind"), ("Kind", "kind"), ("zzz", None), ("k" * 100_000, None), ("", None)]
)
def test_the_nearest_word(word: str, close: str | None) -> None:
    assert nearest(word, ["kind", "needs", "title"]) == close


def test_text_for_a_message_is_short_and_does_nothing_to_a_terminal() -> None:
    assert strict_yaml.shown("\x1b[2J\n") == r"'\x1b[2J\n'"
    assert len(strict_yaml.shown("x" * 1000)) == 80


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    return [_typed(item) for item in value] if isinstance(value, list) else (type(value), value)


@given(st.text(max_size=60) | st.text(alphabet="ab: -[]{}#'\"\n,~", max_size=60))
@example("a: {b: ['', [], {}, ~, x], c: 'y'}\nd:\n")
@example("")
def test_a_document_that_is_known_says_what_it_said(text: str) -> None:
    try:
        value, lines = strict_yaml.load_yaml(text, "f.yaml")
    except MalformedFileError:
        return
    strict_yaml.known = {}
    try:
        every = [strict_yaml.load_yaml(text, "f.yaml") for _ in range(2)]
        assert len(strict_yaml.known) == 1
    finally:
        strict_yaml.known = None
    for again, where in every:
        assert (_typed(again), where, list(where)) == (_typed(value), lines, list(lines))
