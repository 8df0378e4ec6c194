"""The documentation as a site: `python -m scripts.site` writes it to build/site, with Sphinx and furo.

Promises that the pages stay as they read in the repository (they are copied, and links that lead out of docs/ lead to copies), that
every page has its place in NAVIGATION, and that a link or an anchor that leads nowhere fails. Nobody fetches anything.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Pages at the top of the repository, and what they are called in the site.
OUTSIDE = {"README.md": "index.md"} | {name: name for name in ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")}
NAVIGATION = {
    "Start": ("tutorial", "concepts", "glossary"),
    "How to": (
        *(
            "howto/failing-test",
            "howto/weekly-update",
            "howto/release",
            "howto/two-reviewers",
            "howto/private-models",
            "howto/monorepo",
        ),
        *("environments", "github", "gitlab", "ci", "watch", "fleet", "approvals", "mcp", "editors"),
        *("recipes/bisect", "recovery"),
    ),
    "For who signs off": ("audit", "verify"),
    "Reference": ("cli", "files", "policy", "engines", "agents", "prompts", "schemas/README"),
    "Explanation": ("compare", "design", "reliability", "performance", "architecture", "exercises/README", "README"),
    "The project": ("SECURITY", "CONTRIBUTING", "CHANGELOG"),
}
LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)#\s]+)")
OPTIONS = {
    "extensions": "myst_parser",
    "project": "protocol-runner",
    "html_title": "protocol-runner",
    "html_theme": "furo",
    "html_show_sphinx": "0",
    "html_copy_source": "0",
    "myst_heading_anchors": "4",
    # A block in a language that is none, such as a log with JSON in it, is shown plain.
    "suppress_warnings": "misc.highlighting_failure",
}


def page_of(path: str) -> str:
    """Return where a file of the repository is in the site."""
    return OUTSIDE.get(path, path.removeprefix("docs/"))


def led(page: str, link: str) -> str:
    """Return a link of a page of the repository as the site needs it."""
    at = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if (ROOT / at).is_dir():
        at = f"{at}/README.md" if (ROOT / at / "README.md").is_file() else "docs/README.md"
    return posixpath.relpath(page_of(at), posixpath.dirname(page_of(page)) or ".")


def moved(page: str, text: str) -> str:
    """Return a page of the repository with its links as the site needs them."""
    return LINK.sub(lambda found: found[1] + led(page, found[2]), text)


def contents() -> str:
    """Return the navigation, as the first page has it."""
    adr = tuple(f"adr/{path.stem}" for path in sorted((ROOT / "docs/adr").glob("*.md")))
    parts = {**NAVIGATION, "Decisions": adr}
    trees = (
        "\n".join(("```{toctree}", ":hidden:", f":caption: {name}", "", *pages, "```")) for name, pages in parts.items()
    )
    return "\n\n".join(trees)


def copy(into: Path) -> None:
    """Copy all that the site is made from."""
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(ROOT / "docs", into)
    shutil.copytree(ROOT / "schemas", into / "schemas")
    shutil.copy(ROOT / "LICENSE", into)
    pages = [*OUTSIDE, "schemas/README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
    for page in pages:
        text = moved(page, (ROOT / page).read_text(encoding="utf-8"))
        if page == "README.md":
            text += f"\n\n{contents()}\n"
        (into / page_of(page)).write_text(text, encoding="utf-8")


def main() -> int:
    """Write the site; return the exit code of Sphinx."""
    from sphinx.cmd.build import main as build

    source, site = ROOT / "build/pages", ROOT / "build/site"
    copy(source)
    words = [word for key, value in OPTIONS.items() for word in ("-D", f"{key}={value}")]
    return int(build(["-q", "-W", "--keep-going", "-E", "-C", *words, str(source), str(site)]))


if __name__ == "__main__":
    sys.exit(main())
