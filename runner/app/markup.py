"""Build HTML from parts: all text is escaped, and only elements made here are markup.

A page of it needs nothing else and can do nothing: no script, no request, one style that the page's own policy names by its digest.
"""

from __future__ import annotations

import hashlib
import html
import re
from base64 import b64encode
from collections.abc import Iterable

# What a reader could not see, or what would change what they see: shown as escapes.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_TAG = re.compile("[a-z][a-z0-9]*")


class Html(str):
    """Markup: what `element`, `text` and `page` made."""

    __slots__ = ()


Part = str | Html | None


def text(value: str) -> Html:
    """Return a text as markup that shows it; what could not be seen is shown as an escape such as `\\u202e`."""
    seen = _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), value.replace("\r\n", "\n"))
    return Html(html.escape(seen, quote=True))


def element(tag: str, *inside: Part | Iterable[Part], **attributes: str) -> Html:
    """Return an element with parts inside; a part that is no markup is text. `class_` is the attribute `class`.

    Attributes are the caller's constants: never a link, and no style.
    """
    assert _TAG.fullmatch(tag) and not attributes.keys() & {"style", "src", "srcdoc"}
    told = "".join(f' {name.rstrip("_").replace("_", "-")}="{text(value)}"' for name, value in attributes.items())
    parts: list[str] = []
    for one in inside:
        for part in (one,) if one is None or isinstance(one, str) else one:
            parts += [] if part is None else [part if isinstance(part, Html) else text(part)]
    return Html(f"<{tag}{told}>{''.join(parts)}</{tag}>")


def page(title: str, style: str, *inside: Part, generator: str) -> bytes:
    """Return a whole page of its own, in UTF-8. `style`: a style sheet of ours."""
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = (
        '<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="generator" content="{text(generator)}">\n'
        f"{element('title', title)}\n<style>{style}</style>"
    )
    body = "\n".join(part if isinstance(part, Html) else text(part) for part in inside if part is not None)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'.encode()
