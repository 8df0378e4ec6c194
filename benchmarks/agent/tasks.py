"""The tasks: excerpts of real packages (`vendor/`), each with one bug put in, and a test that fails until it is out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

VENDOR = Path(__file__).with_name("vendor")


@dataclass(frozen=True, slots=True)
class Look:
    """A scripted model's thought: run these commands of a shell and read. `proposes`: or say that the work is done."""

    commands: tuple[str, ...]
    proposes: bool = False


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace a text, which is in the file once, about this line."""

    path: str
    line: int
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class BadEdit:
    """Replace a text that is not in the file."""

    path: str


@dataclass(frozen=True, slots=True)
class Cut:
    """Say a sentence that ends at the limit of the answer, before any call."""


Thought = Look | Edit | BadEdit | Cut


def with_a_wrong_turn(kind: str, edits: Sequence[Edit], check: str, tests: tuple[str, ...] = ()) -> list[Thought]:
    """Return the edits that solve a task, with what goes wrong on the way.

    `cut`: an answer ends at its limit; `patch`: an edit of text that is not there; `check`: the work is said to be done when
    only its tests are there, and they fail.
    """
    match kind:
        case "cut":
            return [Cut(), *edits]
        case "patch":
            return [BadEdit(edits[0].path), *edits]
        case "check":  # the check that fails comes back, or the agent runs it
            early = [edit for edit in edits if edit.path.startswith(tests)]
            return [*early, Look((check,), proposes=True), *(edit for edit in edits if edit not in early)]
    return list(edits)


@dataclass(frozen=True, slots=True)
class Task:
    """One bug. `right` stands in `file` of the package as published, `wrong` in the task's copy; `asserts` fails by it.

    `astray`: what goes wrong in the scripted answers (`with_a_wrong_turn`).
    """

    name: str
    package: str
    file: str
    right: str
    wrong: str
    asserts: str
    astray: str = ""

    @property
    def check(self) -> str:
        """The command that shows the bug."""
        return f"python3 test_{self.package}.py"

    @property
    def wish(self) -> str:
        """What is asked, in the words that every agent gets."""
        return (
            f"`{self.check}` fails by a bug in the folder {self.package}. Find it and mend it. Leave the test as it is."
        )

    @property
    def thoughts(self) -> tuple[Thought, ...]:
        """What a scripted model does: look at the test and the file, edit the file."""
        path = f"{self.package}/{self.file}"
        first, edit = Look((f"cat test_{self.package}.py {path}",)), Edit(path, 1, self.wrong, self.right)
        return first, *with_a_wrong_turn(self.astray, [edit], self.check)

    def lay(self, at: Path) -> None:
        """Write the files, as an agent gets them."""
        write(at, self.files())

    def judge(self, tree: Path) -> list[str] | None:
        """Return the command that judges a tree; nothing where its test is not the one that was given."""
        test = f"test_{self.package}.py"
        given = (tree / test).is_file() and (tree / test).read_bytes() == self.files()[test].encode()
        return ["python3", "-B", test] if given else None

    def files(self) -> dict[str, str]:
        """Return the project that the task is in: the package with the bug, and the test."""
        found = {f"{self.package}/__init__.py": ""}
        for path in sorted((VENDOR / self.package).glob("*.py.txt")):
            found[f"{self.package}/{path.name.removesuffix('.txt')}"] = path.read_text(encoding="utf-8")
        at = f"{self.package}/{self.file}"
        assert found[at].count(self.right) == 1, f"{self.name}: what is to be broken does not stand there once"
        found[at] = found[at].replace(self.right, self.wrong)
        assert found[at].count(self.wrong) == 1, f"{self.name}: the bug does not stand there once"
        module = f"{self.package}.{self.file.removesuffix('.py')}"
        found[f"test_{self.package}.py"] = f"from {module} import *\n\n{self.asserts}\nprint('ok')\n"
        return found


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files, by their paths below a folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


TASKS = (
    Task(
        "encode-hex",
        "mdurl",
        "_encode.py",
        '("0" + hex(i)[2:].upper())[-2:]',
        "hex(i)[2:].upper()",
        'assert encode("a\\nb") == "a%0Ab", encode("a\\nb")',
    ),
    Task(
        "encode-escape-at-the-end",
        "mdurl",
        "_encode.py",
        "code == 0x25 and i + 2 < l:",
        "code == 0x25 and i + 3 < l:",
        'assert encode("a%20") == "a%20", encode("a%20")',
    ),
    Task(
        "encode-surrogate",
        "mdurl",
        "_encode.py",
        'result += "%EF%BF%BD"',
        "result += string[i]",
        'assert encode("\\ud800") == "%EF%BF%BD", ascii(encode("\\ud800"))',
    ),
    Task(
        "decode-upper-case",
        "mdurl",
        "_decode.py",
        "repl_func, string, flags=re.IGNORECASE)",
        "repl_func, string)",
        'assert decode("%C3%A9") == "\\u00e9", ascii(decode("%C3%A9"))',
    ),
    Task(
        "decode-two-bytes",
        "mdurl",
        "_decode.py",
        "== 0xC0 and (i + 3 < l):",
        "== 0xC0 and (i + 6 < l):",
        'assert decode("%c3%a9") == "\\u00e9", ascii(decode("%c3%a9"))',
    ),
    Task(
        "decode-cache",
        "mdurl",
        "_decode.py",
        "decode_cache[exclude] = cache",
        'decode_cache[""] = cache',
        'assert decode("%23", "#") == "%23"\nassert decode("%23", "") == "#", decode("%23", "")',
    ),
    Task(
        "range-end",
        "idna",
        "intranges.py",
        "_encode_range(current_range[0], current_range[-1] + 1)",
        "_encode_range(current_range[0], current_range[-1])",
        "assert intranges_contain(3, intranges_from_list([1, 2, 3]))",
    ),
    Task(
        "range-mask",
        "idna",
        "intranges.py",
        "(r & ((1 << 32) - 1))",
        "(r & ((1 << 16) - 1))",
        "assert intranges_contain(70001, intranges_from_list([70000, 70001]))",
    ),
    Task(
        "range-start",
        "idna",
        "intranges.py",
        "if left == int_:",
        "if left < int_:",
        "assert intranges_contain(5, intranges_from_list([5]))\nassert not intranges_contain(4, intranges_from_list([5]))",
    ),
    Task(
        "ini-line-number",
        "iniconfig",
        "exceptions.py",
        "{self.lineno + 1}",
        "{self.lineno}",
        'assert str(ParseError("a.ini", 0, "no")) == "a.ini:1: no", str(ParseError("a.ini", 0, "no"))',
    ),
    Task(
        "ini-equals-sign-in-a-value",
        "iniconfig",
        "_parse.py",
        'line.split("=", 1)',
        'line.split("=")',
        'found, _ = parse_ini_data("a.ini", "[s]\\na = b=c\\n", strip_inline_comments=False)\n'
        'assert found["s"]["a"] == "b=c", found',
    ),
    Task(
        "ini-continued-value",
        "iniconfig",
        "_parse.py",
        "value.append(data)",
        "value[:] = [data]",
        'found, _ = parse_ini_data("a.ini", "[s]\\na = 1\\n  2\\n", strip_inline_comments=False)\n'
        'assert found["s"]["a"] == "1\\n2", found',
    ),
)
