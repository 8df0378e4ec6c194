"""A pytest plugin for CI: a skipped test fails the session, unless its reason begins with `allowed:`.

Loaded by the Makefile where `RUNNER_CI` is set (`-p tests.no_skips`). It promises that nothing which should run on a
complete machine goes missing in silence; expected failures (xfail) and deselected tests are none of its business.
"""

from __future__ import annotations

import pytest

ALLOWED = "allowed:"


class NoSkips:
    """Collects the skips of one session, those of xdist's workers too, and judges them at its end."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped:
            return
        # A skip is reported as (path, line, "Skipped: reason"); whatever else stands here is shown as it is.
        where = report.longrepr
        text = str(where[2]) if isinstance(where, (tuple, list)) and len(where) == 3 else str(where)
        reason = text.removeprefix("Skipped: ")
        if not reason.startswith(ALLOWED):
            self.found[report.nodeid] = reason

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.found and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.found:
            terminalreporter.section("skipped, where every test must run", red=True)
            for nodeid, reason in sorted(self.found.items()):
                terminalreporter.line(f"{nodeid}: {reason}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Watch the session from its controlling process; xdist's workers report to it."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(NoSkips(), "no-skips")
