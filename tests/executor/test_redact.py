"""Canaries: a secret is found in every form that a program may print it in."""

from __future__ import annotations

import base64
from urllib.parse import quote

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from runner.executor.step_run import Redactor

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
