"""The engines, opened by their names `PROVIDER:WHAT`, and their prices. A provider is a row of `ROWS`, and a form if it has its own.

A provider's SDK is imported by the first request to it. Prices are those of the installed genai-prices: offline, never updated on the
way (ADR 0005); a budget reserves without the lower price of cached input, so that it stops early rather than late.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from runner.engines import (
    Engine,
    EngineError,
    KeyMissingError,
    KeyRefusedError,
    Request,
    Response,
    Usage,
    UserTurn,
    agents,
    anthropic,
    chat,
    gemini,
    responses,
)
from runner.engines.line import Form, LineEngine, Place
from runner.engines.recorded import PROVIDER as RECORDED
from runner.engines.recorded import RecordedEngine
from runner.errors import UsageError, installs

_MODEL: Final = re.compile(r"~?[A-Za-z0-9][A-Za-z0-9._:@-]*(/[A-Za-z0-9][A-Za-z0-9._:@-]*){0,3}")
_MOST_OUTPUT: Final = (
    (r"gemini-(?:2\.5|[3-9])", 65_536),
    (r"claude-(?:3-7|(?:sonnet|haiku)-[4-9]|opus-(?:4-[5-9]|[5-9]))", 64_000),
    (r"claude-opus-4", 32_000),
    (r"gpt-[5-9]", 128_000),
)
_NAMED: Final = re.compile(r"\{([A-Z_]+)\}")
DEFAULT_GEMINI_MODEL: Final = "gemini-3.8-flash"
_CHECK_OUTPUT: Final = 1_024  # thinking counts, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A provider's endpoint. Adding one is adding a row.

    `keys`: the variables that may have the key, the first that is set; `is_open`: none has to be. `addresses`: the variables that
    name another endpoint than `base_url`, which is a template: `{NAME}` is the variable NAME's value, which has to be set.
    `package`: the SDK's module; `extra`: what installs it; `priced_as`: its name in genai-prices, None where it has no prices.
    `default`: the model that is asked where nobody names one; `start`: what starts the server on this machine.
    """

    who: str
    about: str
    wire: Form
    package: str
    extra: str
    base_url: str
    keys: tuple[str, ...]
    is_open: bool = False
    addresses: tuple[str, ...] = ()
    priced_as: str | None = None
    default: str = ""
    start: str = ""


def _compatible(
    who: str,
    about: str,
    base_url: str,
    key: str,
    *,
    address: str = "",
    priced_as: str | None = None,
    start: str | None = None,
) -> Row:
    """Return the row of an endpoint that has OpenAI's chat completions; where it is open, `start` is as in `Row`."""
    return Row(
        who=who,
        about=about,
        wire=chat.FORM,
        package="openai",
        extra="openai",
        base_url=base_url,
        keys=(key,),
        is_open=start is not None,
        addresses=(address,) if address else (),
        priced_as=priced_as,
        start=start or "",
    )


ROWS: Final[dict[str, Row]] = {
    "gemini": Row(
        who="Gemini",
        about="Google's Gemini",
        wire=gemini.FORM,
        package="google.genai",
        extra="gemini",
        base_url="https://generativelanguage.googleapis.com",
        keys=("GOOGLE_API_KEY", "GEMINI_API_KEY"),  # in this order, as with Google's own programs
        addresses=("GOOGLE_GEMINI_BASE_URL", "GEMINI_BASE_URL"),
        priced_as="google",
        default=DEFAULT_GEMINI_MODEL,
    ),
    "openai": Row(
        who="OpenAI",
        about="OpenAI's models (Responses API)",
        wire=responses.FORM,
        package="openai",
        extra="openai",
        base_url="https://api.openai.com/v1",
        keys=("OPENAI_API_KEY",),
        addresses=("OPENAI_BASE_URL",),
        priced_as="openai",
        default="gpt-6.1-terra",
    ),
    "anthropic": Row(
        who="Anthropic",
        about="Anthropic's Claude",
        wire=anthropic.FORM,
        package="anthropic",
        extra="anthropic",
        base_url="https://api.anthropic.com",
        keys=("ANTHROPIC_API_KEY",),
        addresses=("ANTHROPIC_BASE_URL",),
        priced_as="anthropic",
        default="claude-sonnet-5-5",
    ),
    "compatible": _compatible(
        "the endpoint",
        "any server with OpenAI's chat completions API",
        "{RUNNER_COMPATIBLE_URL}",
        "RUNNER_COMPATIBLE_KEY",
        start="",
    ),
    "ollama": _compatible(
        "Ollama",
        "Ollama on this machine",
        "http://127.0.0.1:11434/v1",
        "OLLAMA_API_KEY",
        address="OLLAMA_BASE_URL",
        start="ollama serve",
    ),
    "vllm": _compatible(
        "vLLM",
        "vLLM on this machine",
        "http://127.0.0.1:8000/v1",
        "VLLM_API_KEY",
        address="VLLM_BASE_URL",
        start="vllm serve {model}",
    ),
    "lmstudio": _compatible(
        "LM Studio",
        "LM Studio on this machine",
        "http://127.0.0.1:1234/v1",
        "LMSTUDIO_API_KEY",
        address="LMSTUDIO_BASE_URL",
        start="lms server start",
    ),
    "openrouter": _compatible(
        "OpenRouter",
        "OpenRouter's models",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        address="OPENROUTER_BASE_URL",
        priced_as="openrouter",
    ),
    "deepseek": _compatible(
        "DeepSeek",
        "DeepSeek's models",
        "https://api.deepseek.com/v1",
        "DEEPSEEK_API_KEY",
        address="DEEPSEEK_BASE_URL",
        priced_as="deepseek",
    ),
    "azure": _compatible(
        "Azure",
        "a deployment on Azure",
        "{AZURE_OPENAI_ENDPOINT}/openai/v1",
        "AZURE_OPENAI_API_KEY",
        priced_as="azure",
    ),
    "bedrock": _compatible(
        "Bedrock",
        "models on Amazon Bedrock with chat completions",
        "https://bedrock-runtime.{AWS_REGION}.amazonaws.com/openai/v1",
        "AWS_BEARER_TOKEN_BEDROCK",
        address="BEDROCK_BASE_URL",
        priced_as="aws",
    ),
    "vertex": _compatible(
        "Vertex",
        "models on Google Cloud, with an access token",
        "https://{GOOGLE_CLOUD_LOCATION}-aiplatform.googleapis.com/v1/projects/{GOOGLE_CLOUD_PROJECT}"
        "/locations/{GOOGLE_CLOUD_LOCATION}/endpoints/openapi",
        "GOOGLE_OAUTH_ACCESS_TOKEN",
        address="VERTEX_BASE_URL",
        priced_as="google",
    ),
}
FORMS: Final = {
    **{name: f"{name}:MODEL" for name in ROWS},
    **{name: f"{name}:NAME" for name in agents.TABLES},
    RECORDED: f"{RECORDED}:FILE",
}


def parts_of(name: str) -> tuple[str, str]:
    """Return the provider and the model, or the file, that an engine's name says.

    Raises:
        UsageError: the name is none, or its provider is not known; near ones are offered.
    """
    provider, colon, what = name.partition(":")
    where = f"engine `{name}`"
    if provider not in FORMS:
        near = difflib.get_close_matches(provider, FORMS, n=3, cutoff=0.7)
        hint = " or ".join(FORMS[each] for each in near)
        hint = f"did you mean {hint}?" if near else f"there is {', '.join(FORMS.values())}"
        raise UsageError(f"there is no engine `{provider}`", where, hint)
    if not colon or not what:
        kind = FORMS[provider].partition(":")[2].lower()
        raise UsageError(f"`{name}` does not say which {kind}", where, f"write it as {FORMS[provider]}")
    return provider, what


def open_engine(name: str, environ: Mapping[str, str], base: Path) -> Engine:
    """Return the engine `name`; files are relative to `base`.

    Raises:
        UsageError: the name is none, or its provider is not known; near ones are offered.
        KeyMissingError: something that it needs is missing.
        KeyRefusedError: the key cannot be one.
    """
    provider, what = parts_of(name)
    where = f"engine `{name}`"
    if provider == RECORDED:
        return RecordedEngine(base / what, name)
    if provider in agents.TABLES:
        hint = "name a model for it: `engine: {plan: …, review: …}` in config.yaml, or --engine"
        raise UsageError(f"`{name}` is a coding agent: it can do steps, but not plan or review", where, hint)
    row = ROWS[provider]
    if not _is_installed(row):
        raise KeyMissingError(
            f"the package {row.package.replace('.', '-')} is not installed", where, installs(row.extra)
        )
    if not _MODEL.fullmatch(what) or ".." in what:
        raise UsageError(f"`{what}` is not the name of a model", where, f"write it as {FORMS[provider]}")
    key, variable = _key(row, environ)
    if not key and not row.is_open:
        looked = _listed(tuple(reversed(row.keys)), "and")
        raise KeyMissingError(f"no key for {row.who} is set", f"looked for {looked}", f"set {row.keys[-1]}")
    base_url, host, address = _address(row, environ)
    place = Place(
        provider=provider,
        model=what,
        who=row.who,
        key=key,
        variable=variable or row.keys[-1],
        base_url=base_url,
        host=host,
        address=address,
        start=row.start,
    )
    return LineEngine(row.wire, place)


def upstream(provider: str, environ: Mapping[str, str]) -> tuple[str, dict[str, str]] | None:
    """Return the address of a provider, and the headers with its key; None where no key is set.

    Raises:
        UsageError: a variable holds no address. KeyRefusedError: the key cannot be one.
    """
    row = ROWS[provider]
    key, _ = _key(row, environ)
    return (_address(row, environ)[0], row.wire.headers(key)) if key else None


def _key(row: Row, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the key of a provider and the variable that has it, both empty where none is set.

    Raises:
        KeyRefusedError: the key cannot be one.
    """
    key, variable = _first(row.keys, environ)
    if key and (not re.fullmatch(r"[!-~]+", key) or key.startswith("auth_tokens/")):
        hint = f"set {variable} to an API key"
        raise KeyRefusedError(f"the value is not an API key of {row.who}", variable, hint)
    return key, variable


def _address(row: Row, environ: Mapping[str, str]) -> tuple[str, str, str]:
    """Return the endpoint's address, its name in messages, and the variable to set for another.

    Raises:
        KeyMissingError: a variable that is a part of it is not set.
        UsageError: a variable holds no address.
    """
    url, variable = _first(row.addresses, environ)
    if not url:
        needed = tuple(dict.fromkeys(_NAMED.findall(row.base_url)))
        missing = [one for one in needed if not environ.get(one, "").strip()]
        if missing:
            looked = f"looked for {_listed(needed, 'and')}"
            raise KeyMissingError(f"the address of {row.who} is not set", looked, f"set {_listed(missing, 'and')}")
        url = _NAMED.sub(lambda found: environ[found[1]].strip().rstrip("/"), row.base_url)
        variable = _listed(needed, "and") or row.addresses[0]
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError("the address of the endpoint is no http:// or https:// URL", variable, f"correct {variable}")
    if "@" in parts.netloc:  # it would be sent in the key's place, and no record would leave it out
        hint = f"take it out of {variable}; a key has its own variable, {row.keys[-1]}"
        raise UsageError("the address of the endpoint contains a user or a password", variable, hint)
    return url, host if port is None else f"{host}:{port}", variable


def missing(row: Row, environ: Mapping[str, str]) -> str:
    """Return what to do before the row can be used here, empty where nothing."""
    if not _is_installed(row):
        return installs(row.extra)
    named = () if _first(row.addresses, environ)[0] else dict.fromkeys(_NAMED.findall(row.base_url))
    needed = [one for one in named if not environ.get(one, "").strip()]
    is_keyed = row.is_open or _first(row.keys, environ)[0]
    keys = [] if is_keyed else [_listed(tuple(reversed(row.keys)), "or")]
    return f"set {_listed((*needed, *keys), 'and')}" if needed or keys else ""


def _is_installed(row: Row) -> bool:
    """Return whether the SDK can be imported, without importing it."""
    try:
        return importlib.util.find_spec(row.package) is not None
    except ModuleNotFoundError:  # not even a package `google`
        return False


def _first(names: Iterable[str], environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the first of these variables that has a value: the value, and its name."""
    return next(((value, name) for name in names if (value := environ.get(name, "").strip())), ("", ""))


def _listed(names: Sequence[str], word: str) -> str:
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def cost_usd(provider: str, model: str, usage: Usage, *, at: datetime | None = None) -> Decimal | None:
    """Return the price of one answer, in US dollars; None, which never counts as zero, where it is unknown.

    Cached input has its own price, so usage without it gives an upper bound, for a reservation. `at`: the time of the answer
    (default: now); prices change.
    """
    row = ROWS.get(provider)
    priced_as = row.priced_as if row is not None else "" if provider == RECORDED else None
    if priced_as is None or not model:
        return None
    try:
        import genai_prices
    except ModuleNotFoundError:
        return None
    cached = min(usage.cached, usage.input)
    tokens = genai_prices.Usage(
        input_tokens=usage.input,
        output_tokens=usage.output,
        cache_read_tokens=cached,
        cache_write_tokens=min(usage.cache_write, usage.input - cached),
    )
    for name in dict.fromkeys((model, model.rpartition("/")[2])):
        with contextlib.suppress(LookupError):  # the table does not know the model
            price = genai_prices.calc_price(tokens, name, provider_id=priced_as or None, genai_request_timestamp=at)
            return price.total_price
    return None


def window(provider: str, model: str) -> int | None:
    """Return how many tokens a request to a model and its answer can have together; None where it is not known."""
    row = ROWS.get(provider)
    try:
        from genai_prices import data_snapshot
    except ModuleNotFoundError:
        return None
    for name in dict.fromkeys((model, model.rpartition("/")[2])):
        with contextlib.suppress(LookupError):
            priced_as = (row.priced_as if row is not None else "") or None
            return data_snapshot.get_snapshot().find_provider_model(name, None, priced_as, None)[1].context_window
    return None


def most_output(model: str) -> int | None:
    """Return the most tokens that one answer of a model can have; None where it is not known."""
    return next((most for pattern, most in _MOST_OUTPUT if re.match(r"(?:.*[/.])?" + pattern, model)), None)


def defaults(environ: Mapping[str, str]) -> list[str]:
    """Return the default engines of the providers whose key and package are here, in the order in which they are looked for."""
    return [f"{name}:{row.default}" for name, row in ROWS.items() if row.default and not missing(row, environ)]


def default_name(environ: Mapping[str, str]) -> str:
    """Return the name of the default engine.

    Raises:
        KeyMissingError: there is none; it lists the places searched, the findings, and what to set.
    """
    if found := defaults(environ):
        return found[0]
    rows = [row for row in ROWS.values() if row.default]
    keys = [key for row in rows for key in reversed(row.keys)]
    lacking = next(((variable, row) for row in rows if (variable := _first(row.keys, environ)[1])), None)
    told, hint = "no key is set", f"set {_listed(keys, 'or')}"
    if lacking is not None:
        variable, row = lacking
        told, hint = f"{variable} is set, and {row.package.replace('.', '-')} is not installed", installs(row.extra)
    raise KeyMissingError(
        "there is no model to ask",
        f"looked for {_listed(keys, 'and')}: {told}",
        f"{hint}; or name another engine with --engine (`runner engines` lists them)",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A provider for `runner engines`. `missing`: what to do before it can be used; empty: nothing, and it is as `found` says."""

    form: str
    about: str
    missing: str
    found: str = "ready"


def listed(environ: Mapping[str, str]) -> list[Listed]:
    """Return the providers and what each lacks on this machine, without a request to any."""
    rows = [
        Listed(
            form=FORMS[name],
            about=row.about,
            missing=missing(row, environ),
            found="needs no key" if row.is_open and not _first(row.keys, environ)[0] else "ready",
        )
        for name, row in ROWS.items()
    ]
    of_agents = [_of_agents(kind, environ.get("PATH", "")) for kind in agents.TABLES]
    return [*rows, *of_agents, Listed(form=FORMS[RECORDED], about="answers from a recording", missing="")]


def _of_agents(kind: str, path: str) -> Listed:
    """Return the coding agents of a kind, `acp` or `cli`, and which of them are installed here."""
    table = agents.TABLES[kind]
    here = [name for name, row in table.items() if shutil.which(row.command[0], path=path)]
    lacking = "" if kind != "acp" or agents.is_installed() else installs(agents.PACKAGE)
    return Listed(
        form=FORMS[kind],
        about=f"{agents.ABOUT[kind]}: {', '.join(table)}",
        missing=lacking or ("" if here else "install one of them"),
        found=f"ready: {', '.join(here)}",
    )


def check(name: str, environ: Mapping[str, str], base: Path, *, timeout: float = 30.0) -> Response | None:
    """Send one small request to the engine `name` and return its response; None for a cassette, which was only read.

    Raises:
        UsageError: the name is none.
        EngineError: why it does not answer.
    """
    engine = open_engine(name, environ, base)
    try:
        if engine.provider == RECORDED:
            return None
        question = Request(system="", turns=(UserTurn(text="Answer with the word: ready"),), max_output=_CHECK_OUTPUT)
        response = engine.ask(question, timeout=timeout)
        if response.finish == "refused":
            raise EngineError("the model refuses a harmless question", f"engine {name}", response.problem)
        return response
    finally:
        engine.close()
