"""`runner engines`."""

from __future__ import annotations

import click

from runner.app import describe
from runner.cli import options
from runner.cli.console import Console
from runner.engines import EngineError, agents, registry
from runner.errors import UsageError
from runner.protocol.config import Config


@click.command("engines")
@click.argument("name", required=False)
@options.flag("--check", "check_all", help="Send one small request to each engine that is configured here.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    type=click.FloatRange(1),
    help="How long to wait for an answer.",
)
@options.as_json
@click.pass_obj
def command(console: Console, name: str | None, check_all: bool, timeout: float, as_json: bool) -> None:
    """List the engines and what each needs on this machine; with NAME, such as openai:MODEL, send it one small request."""
    if as_json and (name is not None or check_all):
        raise click.UsageError(
            "--json is of the list, without NAME and --check; their exit code says whether one answers"
        )
    if name is not None:
        _check(console, name, timeout)
        return
    if check_all:
        _check_all(console, timeout)
        return
    every = registry.listed(console.environ)
    if as_json:
        told = [{"name": one.form, "about": one.about, "missing": one.missing or None} for one in every]
        console.json({"engines": told})
        return
    form, about = max(len(one.form) for one in every), max(len(one.about) for one in every)
    for one in every:
        state = (one.missing, "yellow") if one.missing else (one.found, "green")
        console.line(f"{one.form.ljust(form)}  {one.about.ljust(about)}  ", state)


def _check_all(console: Console, timeout: float) -> None:
    """Ask each configured engine; print what each says, and end with the first error."""
    names = _configured(console)
    if not names:
        raise UsageError(
            "no engine is configured",
            "option, environment and .protocols/config.yaml",
            "set RUNNER_ENGINE or a provider's key; `runner engines` lists them",
        )
    failed: EngineError | None = None
    for name in names:
        try:
            _check(console, name, timeout)
        except EngineError as error:
            console.line(f"{name}  ", (f"does not answer: {error.what}", "red"))
            failed = failed or error
    if failed is not None:
        raise failed


def _configured(console: Console) -> list[str]:
    """Return the engines that this machine would ask: of option, environment, phases and reviewers, and of the keys here."""
    named = [console.options.get("engine"), console.environ.get("RUNNER_ENGINE")]
    if (project := console.here) is not None:
        engine, review = project.config.engine, project.config.review
        named += [*engine.plan, *engine.decompose, *engine.execute, *engine.review]
        named += [*(name for one in review.reviewers for name in one.engine), *engine.default]
    named += registry.defaults(console.environ)
    return list(dict.fromkeys(filter(None, named)))


def _check(console: Console, name: str, timeout: float) -> None:
    import time

    if agents.is_agent(name):
        config = console.here.config if console.here is not None else Config.model_construct()
        row = agents.need(name, config, console.environ.get("PATH", ""))
        console.result(f"{name}  is there  {' '.join(row.command[:2])}")
        return
    began = time.monotonic()
    git = console.here.git if console.here is not None else None
    base = (git.top or git.cwd) if git is not None else console.cwd  # that files are relative to
    response = registry.check(name, console.environ, base, timeout=timeout)
    if response is None:
        console.result(f"{name}  is readable")
        return
    took = time.monotonic() - began
    cost = registry.cost_usd(response.turn.provider, name.partition(":")[2], response.usage)
    told = describe.money(cost) if cost is not None else "its price is not known: a budget in money cannot be kept"
    usage = response.usage
    console.result(f"{name}  answers  {took:.1f} s · {usage.input:,} tokens in, {usage.output:,} out · {told}")
