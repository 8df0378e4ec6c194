"""Names of protocols, steps and branches, ASCII by pattern and never cleaned up behind a person's back (design §2); digests."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Container, Mapping

from runner.lines import pattern

SLUG = r"[a-z0-9]+(?:-[a-z0-9]+)*"
SLUG_LIMIT = 60
PROTOCOL_ID = pattern(rf"(?P<number>[0-9]{{4,9}})-(?P<slug>{SLUG})")
STEP_FILE = pattern(rf"(?P<number>[0-9]{{2,6}})-(?P<slug>{SLUG})\.md")
STEP_REF = pattern(rf"(?:[0-9]{{2,6}}-)?(?P<slug>{SLUG})")
OID = pattern(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
DIGEST = pattern(r"sha256:[0-9a-f]{64}")


def is_protocol_id(text: str) -> bool:
    """Return whether `text` is a whole id such as `0007-rate-limit`."""
    match = PROTOCOL_ID.fullmatch(text)
    return match is not None and len(match["slug"]) <= SLUG_LIMIT


def number_of(protocol: str) -> int:
    """Return the number of a protocol's id."""
    return int(protocol.split("-", 1)[0])


def protocol_id(number: int, slug: str) -> str:
    """Return the id for a number and a slug: at least four digits."""
    return f"{number:04d}-{slug}"


def spellings(number: int) -> list[str]:
    """Return the possible prefixes of an id with this number: `0007-`, `00007-` and so on."""
    return list(dict.fromkeys(f"{number:0{width}d}-" for width in range(4, 10)))


# Letters that are no ASCII letter with an accent.
_LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ł": "l", "þ": "th"})


def slug_of_title(title: str) -> str:
    """Return the slug that a title suggests; `task` where nothing of it is ASCII.

    This makes a new name out of prose. Names that people give are matched, never changed.
    """
    plain = unicodedata.normalize("NFKD", title.casefold().translate(_LETTERS))
    ascii_only = plain.encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", ascii_only)
    slug = "-".join(words)
    if len(slug) > SLUG_LIMIT:  # without half a word, unless that is most of it
        whole = slug[: SLUG_LIMIT + 1].rpartition("-")[0]
        slug = whole if len(whole) > SLUG_LIMIT // 2 else slug[:SLUG_LIMIT]
    return slug or "task"


def branch_of(pattern: str, protocol: str) -> str:
    """Return the branch's short name for `branch:` of config.yaml, such as `runner/{id}`."""
    return pattern.replace("{id}", protocol)


def in_order(protocols: Mapping[str, str]) -> dict[str, str]:
    """Return protocols by number; those that share one by name."""
    order = sorted([(int(protocol.partition("-")[0]), protocol) for protocol in protocols])
    return {protocol: protocols[protocol] for _, protocol in order}


def of_branches(pattern: str) -> Callable[[str], str | None]:
    """Return the function that `protocol_of_branch` is for one pattern, quick where there are thousands of branches."""
    before, _, after = map(re.escape, pattern.partition("{id}"))
    match_of = re.compile(rf"{before}([0-9]{{4,9}}-({SLUG})){after}").fullmatch

    def of(branch: str) -> str | None:
        match = match_of(branch)
        return match[1] if match is not None and match.end(2) - match.start(2) <= SLUG_LIMIT else None

    return of


def protocol_of_branch(pattern: str, branch: str) -> str | None:
    """Return the id that a branch's short name stands for, or None where it is not a protocol's."""
    return of_branches(pattern)(branch)


def step_slug(reference: str) -> str | None:
    """Return the slug that `deploy` or `02-deploy` names, or None where it is neither.

    A slug may start with digits of its own (`2fa`), so a caller that knows the steps tries the whole reference first.
    """
    match = STEP_REF.fullmatch(reference)
    return match["slug"] if match else None


def find_step(reference: str, known: Container[str]) -> str | None:
    """Return the slug in `known` that `deploy` or `02-deploy` names, else None."""
    if reference in known:
        return reference
    slug = step_slug(reference)
    return slug if slug is not None and slug in known else None


def step_at(reference: str, places: Mapping[str, int]) -> str | None:
    """Return the slug that a person means by `deploy`, `02-deploy`, `02-deploy.md` or `02`, else None. `places`: slug to number."""
    slug = find_step(reference.removesuffix(".md"), places)
    if slug is None and reference.isascii() and reference.isdigit():
        slug = next((one for one, place in places.items() if place == int(reference[:9])), None)
    return slug


_BRANCH = pattern(rb"^branch:[ \t]*[\"']?([A-Za-z0-9._/{}-]+)[\"']?[ \t]*(?:#.*)?\r?$", re.MULTILINE)


def branch_pattern(config: bytes | None) -> str:
    """Return `branch:` of config.yaml's bytes, read without a YAML parser; `{id}` where it is missing or bad.

    Listing needs this key alone. `config.parse`, which every command that writes calls, refuses a bad one.
    """
    match = _BRANCH.search(config) if config else None
    found = match[1].decode() if match else "{id}"
    return found if found.count("{id}") == 1 else "{id}"


def digest(data: bytes) -> str:
    """Return the digest of `data`: `sha256:` and 64 hex digits, whatever the repository's own hash is."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def manifest_digest(files: Mapping[str, bytes]) -> str:
    """Return the digest of a set of files, given as path to bytes.

    The manifest has one line a file, `100644 sha256 size path`, sorted by path; it is never stored (design §4).
    """
    lines = [
        f"100644 {hashlib.sha256(data).hexdigest()} {len(data)} {path}\n".encode()
        for path, data in sorted(files.items(), key=lambda item: item[0].encode())
    ]
    return digest(b"".join(lines))
