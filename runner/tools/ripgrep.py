"""Search by ripgrep where it is installed: the same files and results as the worker's own search, faster."""

from __future__ import annotations

from typing import Any

from runner.tools.base import ToolError
from runner.tools.commands import Commands
from runner.tools.worker import MOST_OF_MATCH, MOST_SHOWN, SKIPPED, RefusedError, matcher

LARGEST = "5M"  # of a file


class _EnoughError(Exception):
    """There are more matches than wanted."""


class Ripgrep:
    """Runs rg in the sandbox."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def search(self, given: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """Return matches; None where rg is not installed, or cannot do this search.

        Raises:
            ToolError: it timed out.
        """
        most, found, said, size = given["max"] or 100, list[str](), bytearray(), 0
        notes: list[str] = []
        inside = given["path"] + "/" if given["path"] != "." else ""
        try:
            fits = matcher(given["glob"])
        except RefusedError:
            return None

        def take(data: bytes) -> None:
            nonlocal size
            said.extend(data)
            *lines, rest = bytes(said).split(b"\n")
            said[:] = rest[-1_000_000:]
            for line in lines:
                path, zero, match = line.partition(b"\0")
                if not zero:
                    continue  # rg's note that a binary file matches
                name = path.removeprefix(b"./").decode("utf-8", "backslashreplace")
                if name != given["path"] and not (fits(name.removeprefix(inside)) or fits(name)):
                    continue
                number, _, text = match.decode(errors="replace").rstrip("\r").partition(":")
                if len(found) >= most or size > MOST_SHOWN:
                    raise _EnoughError
                more = "…" if len(text) > MOST_OF_MATCH else ""
                found.append(f"{name}:{number}:{text[:MOST_OF_MATCH]}{more}")
                size += len(found[-1])

        try:
            outcome = self._commands.listen(tuple(_argv(given)), timeout, take)
        except _EnoughError:
            notes.append(f"there are more than {len(found)} matches; narrow the pattern, path or glob")
        else:
            if outcome.timed_out:
                raise ToolError(f"no end after {timeout:g} s; narrow the path or glob")
            if outcome.code not in (0, 1):
                return None
        alias = self._commands.alias
        return {"matches": [alias.hide(line) for line in found], "note": "; ".join(notes)}


def _argv(given: dict[str, Any]) -> list[str]:
    options = ["--no-config", "--no-ignore", "--hidden", "--no-messages", "--no-heading", "--with-filename", "--null"]
    options += ["--line-number", "--color=never", "--sort=path", f"--max-filesize={LARGEST}"]
    options += ["--ignore-case"] if given["ignore_case"] else ["--case-sensitive"]
    # rg does not match the glob: it must fit paths below the searched folder, or whole ones.
    options += [f"--glob=!{name}" for name in sorted(SKIPPED)] + ["--iglob=!.git", "--iglob=!git~1"]
    return [
        "rg",
        *options,
        f"--regexp={given['pattern']}",
        "--",
        given["path"] if given["path"] == "." else "./" + given["path"],
    ]
