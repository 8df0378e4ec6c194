"""Run a model's commands: each in a sandbox of its own, which ends everything that it started, with output of bounded size.

A model sees the workspace under one name on every machine, and texts cut to a usable size.

A `Child` stays: JSON lines over a session's pipes, one request, one response, within a time limit. The caller defines their meaning.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner import beneath
from runner.lines import pattern
from runner.sandbox.process import Command, CommandOutcome, Pipes, Sandbox, Session, TooLongError, explain
from runner.tools import ToolError

WORKSPACE = "/workspace"
MOST = 10_000  # characters of one answer; each is sent again with every request that follows
HEAD = 4_000  # of these, from the start; the end of a command's output usually matters most
KEPT = 4_000_000  # bytes of the output's start that are folded and kept in a file
TAIL = 4 * MOST  # bytes of the output's end, which is no more than MOST characters
OUTPUTS = "outputs"  # the folder in HOME with the outputs that were cut
MOST_OUTPUT = 100_000_000  # bytes, after which a command is ended
MOST_ARGUMENT = 120_000  # bytes; Linux takes 128 KiB (MAX_ARG_STRLEN)
MOST_ARGUMENTS = 1_000_000  # bytes in all


class WorkspaceAlias:
    """The name of the workspace for a model. `name` is the real path where that is below /workspace.

    `real`: its names for programs. `path`: the one that commands find it by.
    """

    def __init__(self, work: Path, inside: Path) -> None:
        """`inside`: where the sandbox shows it."""
        self.real = tuple(sorted({str(work), str(work.resolve()), str(inside)}, key=len, reverse=True))
        self.path = inside if inside != work else Path(self.real[-1])
        self.name = WORKSPACE if not any(Path(path).is_relative_to(WORKSPACE) for path in self.real) else str(self.path)
        names = "|".join(re.escape(path) for path in self.real if path != str(inside) or inside == work)
        self._real = re.compile(rf"(?:{names})(?![\w-]|\.\w)")
        # The checkout's path may be short, such as /app: it is a path only where it begins one.
        self._inside = re.compile(rf"(?<![\w.~/-]){re.escape(str(inside))}(?![\w-]|\.\w)")
        self._shown = re.compile(rf"(?<![\w.~/-]){re.escape(self.name)}(?![\w-]|\.\w)")

    def hide(self, value: Any) -> Any:
        """Return a JSON value with the workspace's real path replaced by the alias, and other bytes than UTF-8 escaped."""
        if isinstance(value, str):
            text = value.encode("utf-8", "backslashreplace").decode()  # a file's name may be any bytes
            return self._real.sub(lambda found: self.name, text)
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        if isinstance(value, dict):
            return {key: self.hide(item) for key, item in value.items()}
        return value

    def hide_all(self, text: str) -> str:
        """Return a command's output, in which the checkout's path is the workspace's too; in a file it is what the file says."""
        return self._inside.sub(lambda found: self.name, str(self.hide(text)))

    def show(self, text: str) -> str:
        """Return a model's text with the alias replaced by the real path, for the host, where the alias does not exist."""
        return self._shown.sub(lambda found: str(self.path), text)


def bounded(head: str, tail: str | None = None, size: int | None = None, more: str = "") -> tuple[str, bool]:
    """Return text of at most `MOST` characters and a note, cut in the middle at ends of lines, and whether it was cut.

    `tail`: the end of a text of `size` bytes, of which only `head` and `tail` were kept; `more`: where the whole is.
    """
    if tail is None and len(head) <= MOST:
        return head, False
    size = len(head.encode()) if size is None else size
    kept, end = head[:HEAD], (head if tail is None else tail)[-(MOST - HEAD) :]
    last, first = kept.rfind("\n") + 1, end.find("\n") + 1
    kept, end = kept[:last] if last > HEAD // 2 else kept + "\n", end[first:] if first < len(end) // 2 else end
    return f"{kept}[… of {size:,} bytes in all the middle is left out{more} …]\n{end}", True


_ESCAPES = pattern(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_DOTS = pattern(r"\.{20,}")
_PROGRESS = pattern(r"\.{20,}(\s*\[\s*\d+%\])?")


def folded(text: str) -> str:
    """Return output without what says nothing: states of a progress bar but the last, runs of dots, repeats of a line."""
    lines = [_bare(line) for line in text.split("\n")]
    out = list[str]()
    for key, group in itertools.groupby(lines, lambda line: _PROGRESS if _PROGRESS.fullmatch(line) else line):
        same = list(group)
        if key is _PROGRESS:
            dots = sum(line.count(".") for line in same)
            out.append(f"[{dots} dots]{same[-1].lstrip('.')}")
        elif len(same) > 3:
            out += [same[0], f"[{len(same) - 1} more such lines]"]
        else:
            out += same
    return "\n".join(out)


def _bare(line: str) -> str:
    line = next((part for part in reversed(_ESCAPES.sub("", line).split("\r")) if part.strip()), "")
    return line if _PROGRESS.fullmatch(line) else _DOTS.sub(lambda found: f"[{len(found[0])} dots]", line)


class _EndlessError(Exception):
    """A command's output is larger than `MOST_OUTPUT`."""


class _Output:
    """The start of a command's output, and its last bytes for the error when it is too large."""

    def __init__(self) -> None:
        self.head, self.size, self.last = bytearray(), 0, b""

    def take(self, data: bytes) -> None:
        self.size += len(data)
        if (room := KEPT - len(self.head)) > 0:
            self.head += data[:room]
        self.last = data
        if self.size > MOST_OUTPUT:
            raise _EndlessError


class Commands:
    """Runs commands in the workspace `work`, without a network."""

    def __init__(
        self,
        sandbox: Sandbox,
        work: Path,
        env: Mapping[str, str],
        readable: tuple[Path, ...],
        writable: tuple[Path, ...],
    ) -> None:
        """`env`: the commands' whole environment; `readable`, `writable`: the folders that they get besides the workspace."""
        self.sandbox, self.work, self.env = sandbox, work, env
        self.alias = WorkspaceAlias(work, sandbox.place.inside(work))
        self._readable, self._writable = readable, writable

    def run(
        self, argv: tuple[str, ...], timeout: float, env: Mapping[str, str] | None = None, *, writes: bool = True
    ) -> dict[str, Any]:
        """Run a command to its end and return `exit_code`, `output`, `timed_out`, `truncated`.

        Without `writes` the workspace is read-only, where the sandbox can do that.

        Raises:
            ToolError: the arguments cannot be a command's, or the output is larger than `MOST_OUTPUT`.
        """
        argv, command = self._command(argv, timeout, env, writes)
        kept = _Output()
        try:
            outcome = self.sandbox.run(command, kept.take)
        except _EndlessError:
            last = self.alias.hide_all(kept.last[-2000:].decode(errors="replace"))
            raise ToolError(f"it was ended after {kept.size:,} bytes of output", last) from None
        output, cut = self._output(bytes(kept.head), outcome)
        if outcome.timed_out:
            output += f"\n[it was ended after {timeout:g} s, with everything that it had started]"
        elif outcome.out_of_memory:
            output += "\n[a process was killed: all of them together used more memory than they may]"
        elif (why := explain(outcome, argv, self.env.get("PATH", ""))) is not None:
            output += f"\n[{self.alias.hide_all(why)}]"
        return {"exit_code": outcome.code, "output": output, "timed_out": outcome.timed_out, "truncated": cut}

    def listen(self, argv: tuple[str, ...], timeout: float, take: Callable[[bytes], None]) -> CommandOutcome:
        """Run a command that only reads, and pass its output on as it comes; an exception of `take` ends it."""
        return self.sandbox.run(self._command(argv, timeout, None, writes=False)[1], take)

    def open(self, argv: tuple[str, ...]) -> Session:
        """Start a command, and leave its pipes to the caller.

        Raises:
            ToolError: the arguments cannot be a command's.
        """
        return self.sandbox.open(self._command(argv, None, None, writes=True)[1])

    def _command(
        self, argv: tuple[str, ...], timeout: float | None, env: Mapping[str, str] | None, writes: bool
    ) -> tuple[tuple[str, ...], Command]:
        if self.sandbox.name == "host":
            argv = tuple(self.alias.show(word) for word in argv)
        _refuse_argv(argv)
        folders = (self.work, *self._writable)
        return argv, Command(
            argv=argv,
            cwd=self.work,
            env=self.env if env is None else env,
            timeout=timeout,
            writable=folders if writes else (),
            readable=self._readable if writes else (*folders, *self._readable),
            links=((self.alias.name, str(self.alias.path)),),
            keep=TAIL,
        )

    def _output(self, head: bytes, outcome: CommandOutcome) -> tuple[str, bool]:
        whole = outcome.size <= len(head)
        first = folded(self.alias.hide_all(head.decode(errors="replace")))
        if whole and len(first) <= MOST:
            return first, False
        last = None if whole else folded(self.alias.hide_all(outcome.tail.decode(errors="replace")))
        return bounded(first, last, outcome.size, self._kept(head, outcome))

    def _kept(self, head: bytes, outcome: CommandOutcome) -> str:
        """Keep an output in a file in HOME that commands can read; return words that name it."""
        import tempfile  # here, because few outputs are cut

        home = Path(self.env.get("HOME", "/"))
        folder, part = f"{home.name}/{OUTPUTS}", "the whole is"
        with tempfile.NamedTemporaryFile() as file:
            file.write(head)
            if outcome.size > len(head):
                part = f"its first {len(head):,} bytes and its end are"
                file.write(
                    b"\n[... %d bytes are left out ...]\n" % max(0, outcome.size - len(head) - len(outcome.tail))
                )
                file.write(outcome.tail)
            file.flush()
            try:
                name = f"{len(beneath.names(home.parent, folder)) + 1}.txt"
                if home not in self._writable or not beneath.copy(home.parent, f"{folder}/{name}", Path(file.name)):
                    return ""
            except OSError:  # a command took the folder away or locked it
                return ""
        return f"; {part} in ~/{OUTPUTS}/{name}"


def _refuse_argv(argv: tuple[str, ...]) -> None:
    if not argv[0] or "=" in argv[0]:
        raise ToolError("the first of `argv` is a program's name, not empty and without a =; `shell` sets variables")
    sizes = [len(word.encode()) for word in argv]
    if any("\0" in word for word in argv):
        raise ToolError("an argument holds a NUL")
    if max(sizes) > MOST_ARGUMENT or sum(sizes) + 16 * len(sizes) > MOST_ARGUMENTS:
        raise ToolError(f"it is {sum(sizes):,} bytes long, too much for a command; write it to a file and name that")


ANSWER_LIMIT = 16 * 1024 * 1024  # bytes of one line; what a child may answer is far below


class Child:
    """A process in the sandbox that is started by a request to it, and ended by one that it does not answer.

    `outcome`: how the last one ended.
    """

    def __init__(self, sandbox: Sandbox, command: Command) -> None:
        self._sandbox, self.command = sandbox, command
        self._pipes: Pipes | None = None
        self.outcome: CommandOutcome | None = None

    @property
    def is_there(self) -> bool:
        """Whether it was started, and not ended."""
        return self._pipes is not None

    @property
    def printed(self) -> str:
        """The end of what the last one printed to stderr."""
        return self.outcome.tail.decode(errors="replace").strip() if self.outcome is not None else ""

    def ask(self, request: Mapping[str, Any] | None, timeout: float) -> dict[str, Any] | None:
        """Send a request, or none, and return the next line; None where it ended instead.

        Raises:
            TimeoutError, ToolError: as `exchange`.
        """
        self._pipes = pipes = self._pipes or Pipes(self._sandbox.open(self.command), ANSWER_LIMIT)
        try:
            answer = exchange(pipes, request, timeout)
        except BaseException:
            self.end(0.0)
            raise
        if answer is None:
            self.end(2.0)
        return answer

    def end(self, grace: float) -> None:
        """End it where it is there."""
        pipes, self._pipes = self._pipes, None
        if pipes is not None:
            self.outcome = pipes.session.close(grace)


def exchange(pipes: Pipes, request: Mapping[str, Any] | None, timeout: float) -> dict[str, Any] | None:
    """Send a request and return the child's next line; None where the child ended instead.

    Raises:
        TimeoutError: neither happened in time.
        ToolError: the line is not a JSON object, or too long, or more follows it.
    """
    if request is not None:
        pipes.send(request)
    try:
        said = pipes.line(timeout)
    except EOFError:
        return None
    except TooLongError as error:
        raise ToolError(f"it answered with {error}") from error
    assert said is not None, "there is nothing beside it"
    if pipes.has_more:  # the next request would have it for its answer
        raise ToolError("it answered with more than one line")
    try:
        answer = json.loads(said)
    except ValueError as error:
        raise ToolError("its answer is not JSON") from error
    if not isinstance(answer, dict):
        raise ToolError("its answer is not an object")
    return answer
