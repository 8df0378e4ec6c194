"""`make docs`: each page has a place in the site, and a link that leads out of docs/ leads to a copy. Sphinx checks the rest."""

from __future__ import annotations

import pytest

from scripts import site
from tests.docs.typed import ROOT


def test_every_page_has_a_place_in_the_navigation() -> None:
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    copied = {"schemas/README.md", *site.OUTSIDE.values()} - {"index.md"}
    listed = [f"{page}.md" for pages in site.NAVIGATION.values() for page in pages]
    assert len(listed) == len(set(listed))
    assert set(listed) | {page for page in pages if page.startswith("adr/")} == pages | copied


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("README.md", "docs/cli.md", "cli.md"),
        ("README.md", "docs/request.png", "request.png"),
        ("docs/cli.md", "../schemas", "schemas/README.md"),
        ("docs/tutorial.md", "../README.md", "index.md"),
        ("docs/recipes/bisect.md", "../concepts.md", "../concepts.md"),
        ("docs/adr/0001-plumbing.md", "../performance.md", "../performance.md"),
        ("docs/README.md", "adr", "README.md"),
        ("CONTRIBUTING.md", "docs/exercises", "exercises/README.md"),
    ],
)
def test_a_link_leads_to_where_the_site_has_it(page: str, link: str, there: str) -> None:
    assert site.led(page, link) == there
