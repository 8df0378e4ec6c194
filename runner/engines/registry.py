"""The engines, opened by their names `PROVIDER:WHAT`, and their prices. A provider is a module and a row of `PROVIDERS`.

A provider's SDK is imported by the first request to it. Prices are those of the installed genai-prices: offline, never updated on the
way, and an upper bound, so that a budget stops early rather than late (ADR 0005).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

from runner.engines import Engine, EngineError, KeyMissingError, Request, Response, Usage, UserTurn, gemini
from runner.engines.gemini import GeminiEngine
from runner.engines.recorded import PROVIDER, RecordedEngine
from runner.errors import UsageError
from runner.values import dataclass

DEFAULT_GEMINI_MODEL: Final = "gemini-3.8-flash"
_CHECK_OUTPUT: Final = 1_024  # thinking counts, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A provider. `form`: the form of its engines' names; `missing`: the preparation that it needs here, empty where none.

    `priced_as`: its name in genai-prices, empty for the model's own provider, None where it has no prices.
    """

    form: str
    about: str
    priced_as: str | None
    open: Callable[[str, Mapping[str, str], Path], Engine]
    missing: Callable[[Mapping[str, str]], str]


def _open_gemini(what: str, environ: Mapping[str, str], base: Path) -> Engine:
    return GeminiEngine(what, environ)


def _missing_gemini(environ: Mapping[str, str]) -> str:
    if not gemini.installed():
        return gemini.INSTALL
    return "" if gemini.key_variable(environ) else f"set {gemini.KEYS[-1]} or {gemini.KEYS[0]}"


def _open_recorded(what: str, environ: Mapping[str, str], base: Path) -> Engine:
    return RecordedEngine(base / what, f"{PROVIDER}:{what}")


PROVIDERS: Final[dict[str, Provider]] = {
    "gemini": Provider(
        form="gemini:MODEL",
        about="Google's Gemini, over google-genai",
        priced_as="google",
        open=_open_gemini,
        missing=_missing_gemini,
    ),
    # A recording costs what its model would have, so that a budget ends it where it ended the original.
    "recorded": Provider(
        form="recorded:FILE",
        about="answers from a recording",
        priced_as="",
        open=_open_recorded,
        missing=lambda environ: "",
    ),
}


def open_engine(name: str, environ: Mapping[str, str], base: Path) -> Engine:
    """Return the engine `name`; files are relative to `base`.

    Raises:
        UsageError: the name is none, or its provider is not known; near ones are offered.
        EngineError: something that it needs is missing.
    """
    provider, colon, what = name.partition(":")
    known = PROVIDERS.get(provider)
    forms = ", ".join(each.form for each in PROVIDERS.values())
    if known is None:
        near = difflib.get_close_matches(provider, PROVIDERS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(PROVIDERS[each].form for each in near)}?" if near else f"there is {forms}"
        raise UsageError(f"there is no engine `{provider}`", f"engine `{name}`", hint)
    if not colon or not what:
        raise UsageError(f"`{name}` does not say which", f"engine `{name}`", f"write it as {known.form}")
    return known.open(what, environ, base)


def cost_usd(provider: str, model: str, usage: Usage, *, at: datetime | None = None) -> Decimal | None:
    """Return an upper bound for the price of one answer, in US dollars; None, which never counts as zero, where it is unknown.

    Cached input counts as input. `at`: the time of the answer (default: now); prices change.
    """
    known = PROVIDERS.get(provider)
    if known is None or known.priced_as is None or not model:
        return None
    try:
        import genai_prices
    except ModuleNotFoundError:
        return None
    tokens = genai_prices.Usage(input_tokens=usage.input, output_tokens=usage.output)
    try:
        price = genai_prices.calc_price(
            tokens, model.rpartition("/")[2], provider_id=known.priced_as or None, genai_request_timestamp=at
        )
    except LookupError:  # the table does not know the model
        return None
    return price.total_price


def most_output(model: str) -> int | None:
    """Return the most tokens that one answer of a model can have; None where it is not known."""
    return 65_536 if re.match(r"(?:.*/)?gemini-(?:2\.5|[3-9])", model) else None


def default_name(environ: Mapping[str, str]) -> str:
    """Return the name of the default engine.

    Raises:
        KeyMissingError: there is none; it lists the places searched, the findings, and what to set.
    """
    missing = _missing_gemini(environ)
    if not missing:
        return f"gemini:{DEFAULT_GEMINI_MODEL}"
    variable = gemini.key_variable(environ)
    package = "google-genai is installed" if gemini.installed() else "google-genai is not installed"
    found = f"{variable} is set" if variable else "no key is set"
    raise KeyMissingError(
        "there is no model to ask",
        f"looked for google-genai, GEMINI_API_KEY and GOOGLE_API_KEY: {package}, {found}",
        f"{missing}; or name another engine with --engine",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A provider for `runner engines`. `missing`: what to do before it can be used; empty: it is ready."""

    form: str
    about: str
    missing: str


def listed(environ: Mapping[str, str]) -> list[Listed]:
    """Return the providers and what each lacks on this machine, without a request to any."""
    return [Listed(form=each.form, about=each.about, missing=each.missing(environ)) for each in PROVIDERS.values()]


def check(name: str, environ: Mapping[str, str], base: Path, *, timeout: float = 30.0) -> Response | None:
    """Send one small request to the engine `name` and return its response; None for a cassette, which was only read.

    Raises:
        UsageError: the name is none.
        EngineError: why it does not answer.
    """
    engine = open_engine(name, environ, base)
    try:
        if engine.provider == "recorded":
            return None
        question = Request(system="", turns=(UserTurn(text="Answer with the word: ready"),), max_output=_CHECK_OUTPUT)
        response = engine.ask(question, timeout=timeout)
        if response.finish == "refused":
            raise EngineError("the model refuses a harmless question", f"engine {name}", response.problem)
        return response
    finally:
        engine.close()
