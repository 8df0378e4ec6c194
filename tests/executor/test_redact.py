"""Canaries: a secret is found in every form that a program may print it in."""

from __future__ import annotations

import base64
from urllib.parse import quote

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from runner.store.environment import Redactor

SECRET = "sk-very/secret+canary=42"


def test_every_form_is_taken_out() -> None:
    redactor = Redactor({"GEMINI_API_KEY": SECRET, "PATH": "/usr/bin:/bin", "DEPLOY_TOKEN": "short"})
    for form in (SECRET, quote(SECRET, safe=""), SECRET.encode().hex(), base64.b64encode(SECRET.encode()).decode()):
        said = redactor.text(f"before {form} after")
        assert form not in said and said.startswith("before [GEMINI_API_KEY]"), form
    assert redactor.text("PATH is /usr/bin:/bin and short stays") == "PATH is /usr/bin:/bin and short stays"


@settings(max_examples=200)
@given(st.binary(max_size=7), st.binary(max_size=7))
def test_base64_around_it_does_not_hide_it(before: bytes, after: bytes) -> None:
    redactor = Redactor({"API_KEY": SECRET})
    text = base64.b64encode(before + SECRET.encode() + after).decode()
    inner = base64.b64encode(SECRET.encode()).decode().rstrip("=")[4:-4]
    assert inner not in redactor.text(text)


def test_values_keys_and_bytes() -> None:
    redactor = Redactor({"API_KEY": SECRET})
    assert redactor.value({"a": [SECRET, {SECRET: 1}], "n": 3}) == {"a": ["[API_KEY]", {"[API_KEY]": 1}], "n": 3}
    assert redactor.data(b"\xff" + SECRET.encode()) == b"\xff[API_KEY]"


@pytest.mark.parametrize(
    "form",
    ["abc%2Fdef%3D%22ghi", "abc/def%3D%22ghi", "abc%2fdef%3d%22ghi", "abc/def%3d%22ghi", 'abc/def=\\"ghi'],
)
def test_a_secret_with_signs_in_it_is_known_in_urls_and_in_json(form: str) -> None:
    assert Redactor({"API_KEY": 'abc/def="ghi'}).text(f"x {form} y") == "x [API_KEY] y"


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("HTTPS_PROXY", "http://alice:hunter2-hunter2@proxy.example:3128", "hunter2-hunter2"),
        ("https_proxy", "http://alice:hunter2%2Fhunter2@proxy.example:3128/", "hunter2/hunter2"),
        ("PIP_EXTRA_INDEX_URL", "https://a.example/simple https://glpat-abcdefgh@b.example/simple", "glpat-abcdefgh"),
        ("DATABASE_URL", "postgres://app:correct-horse@db/app", "correct-horse"),
        ("OPENAI_CUSTOM_HEADERS", "X-Team: platform-team\nAuthorization: Bearer gateway-key-1", "gateway-key-1"),
        ("ANTHROPIC_CUSTOM_HEADERS", "x-gateway-key: gateway-key-2", "gateway-key-2"),
    ],
)
def test_a_secret_inside_an_address_or_a_header_is_known(name: str, value: str, secret: str) -> None:
    said = Redactor({name: value}).text(f"refused {secret} by {value}")
    assert secret not in said and said.startswith(f"refused [{name}] by ")


def test_what_is_no_secret_in_an_address_or_a_header_stays() -> None:
    environ = {
        "HTTPS_PROXY": "http://proxy.example:3128",
        "ORIGIN": "ssh://somebody@git.example/p",
        "OPENAI_CUSTOM_HEADERS": "X-Team: platform-team",
    }
    said = "somebody of platform-team at proxy.example:3128"
    assert Redactor(environ).text(said) == said


def test_a_secret_that_is_no_utf_8_is_known() -> None:
    assert Redactor({"API_KEY": "abcdefgh\udcff"}).data(b"x abcdefgh\xff y") == b"x [API_KEY] y"
