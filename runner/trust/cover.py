"""What an approval of a step's start covers (design §4): the whole tree, without later steps' files and without harmless ones.

One rule says which files are left out. The manifest is made by it, and it says whether a later commit makes an approval stale.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import field

from runner.git import BLOB, TreeEntry
from runner.protocol import globs, ids, paths
from runner.values import dataclass

# Prose for people, at the top of the tree. Why these, and no more: docs/adr/0013-harmless.md.
HARMLESS = ("README*", "CHANGELOG*", "LICENSE*")

_WORD = re.compile(r"[\w.*?/@+-]+")
_SPELLED = re.compile(
    r"[\w./@+-]+"
)  # a path that such words can name; of any other nobody knows whether a step names it
_GLOBS_MOST = 200  # of a text; one with more names everything
_EVERYTHING = frozenset((".", "./", "..", "../", "*", "**"))


@dataclass(frozen=True, slots=True)
class Cover:
    """What is left out of a step's approval. `number`: the step's; `harmless`: globs; `text`: what the step and its checks say.

    `is_protected`: of a folded path. `keeps_base`: whether git's own merge of the trusted branch changes nothing.
    """

    protocol: str
    number: int
    harmless: tuple[str, ...]
    text: str
    is_protected: Callable[[str], bool]
    keeps_base: bool
    _known: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)
    _made: list[tuple[re.Pattern[str], _Named]] = field(default_factory=list, repr=False, compare=False)

    @property
    def exceptions(self) -> bytes:
        """The lines of the manifest that say what is left out, as the policy has it."""
        said = [f"ignore {json.dumps(glob)}\n" for glob in sorted(self.harmless)]
        return "".join([*said, *(["base keep\n"] if self.keeps_base else [])]).encode("ascii")

    def is_later(self, path: str) -> bool:
        """Return whether a path is the file of a step that comes after this one."""
        folder, _, name = path.rpartition("/")
        match = ids.STEP_FILE.fullmatch(name) if folder == paths.folder(self.protocol) else None
        return match is not None and int(match["number"]) > self.number

    def is_harmless(self, path: str) -> bool:
        """Return whether a person may change the bytes of the file at a path: neither named by step or check, nor protected.

        A path that no word of a text can spell (`README (deploy).sh`) may always be named.
        """
        if not self.harmless:
            return False
        if not self._made:
            fits = globs.compiled([globs.path_pattern(glob) for glob in self.harmless])
            self._made.append((fits, _Named.in_(self.text)))
        fits, named = self._made[0]
        if fits.fullmatch(path) is None:
            return False
        if path not in self._known:
            folded = globs.fold(path)
            own = folded == paths.ROOT or folded.startswith(f"{paths.ROOT}/")
            is_spelled = _SPELLED.fullmatch(folded) is not None
            self._known[path] = is_spelled and not (own or self.is_protected(folded) or named.has(folded))
        return self._known[path]


def is_plain(*entries: TreeEntry | None) -> bool:
    """Return whether each is a regular file that is not executable, or none at all: no link, no mode that changes."""
    return all(entry is None or entry.mode == BLOB for entry in entries)


@dataclass(frozen=True, slots=True)
class _Named:
    """The paths that a text names: whole, by their last name with or without its ending, by a folder above, or by a glob."""

    everything: bool
    words: frozenset[str]
    globs: re.Pattern[str] | None

    @classmethod
    def in_(cls, text: str) -> _Named:
        found = set(_WORD.findall(globs.fold(text)))
        words = {word.removeprefix("./").rstrip("./") for word in found}
        words |= {word.rpartition("/")[2] for word in words}
        wild = sorted(word for word in words if set("*?") & set(word))
        everything = len(wild) > _GLOBS_MOST or not _EVERYTHING.isdisjoint(found)
        patterns = globs.compiled([globs.path_pattern(word) for word in wild]) if wild and not everything else None
        return cls(everything, frozenset(words - {""}), patterns)

    def has(self, path: str) -> bool:
        if self.everything:
            return True
        parts = path.split("/")
        above = {"/".join(parts[:count]) for count in range(1, len(parts) + 1)}
        if not self.words.isdisjoint(above | {parts[-1].split(".")[0]}):
            return True
        if any(
            word.endswith(parts[-1]) for word in self.words
        ):  # an option may stand right before it: -fREADME, @README
            return True
        fits = self.globs.fullmatch if self.globs is not None else None
        return fits is not None and (fits(path) is not None or fits(parts[-1]) is not None)
