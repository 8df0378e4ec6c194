"""protocol-runner: a Git-native, file-driven runner of AI work; the repository is the database.

A module of this package runs when something of it is first used, as PEP 810 has it: after `from runner.app import request` that is
at the first `request.NAME`, so a command that needs none of a module does not pay for it. `from runner.app.request import NAME`
uses it at once.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any

__version__ = "0.1.0"


class Unused(ModuleType):
    """A module that did not run yet. Its file and loader are known, and tools find its source by them."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__"):  # Python, debuggers and pytest ask every module for some of these
            _run(self)
        return ModuleType.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        # What is set before a module runs would be lost as it runs; the modules of a package are set by Python's import.
        if not name.startswith("__") and not isinstance(value, ModuleType):
            _run(self)
        ModuleType.__setattr__(self, name, value)


def _run(module: ModuleType) -> None:
    """Run a module that did not run yet. Another thread may be doing so, or have done it by now."""
    spec = module.__spec__
    assert spec is not None and spec.loader is not None
    with spec.loader_state["lock"]:  # one each: imports go in no circle, so no two threads wait for each other
        if type(module) is Unused and not spec.loader_state["runs"]:
            spec.loader_state["runs"] = True
            try:
                spec.loader.exec_module(module)
                module.__class__ = ModuleType  # type: ignore[assignment]
            finally:
                spec.loader_state["runs"] = False


def run_all() -> None:
    """Run what was imported and did not run yet: a process that lasts for days is of one version, whatever is installed meanwhile."""
    while unused := [one for one in sys.modules.values() if type(one) is Unused]:
        for one in unused:
            _run(one)


class _Later:
    """Makes a module that does not run yet, and leaves it to its real loader."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Unused(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.real
        module.__spec__.loader_state = {"lock": RLock(), "runs": False}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)  # `python -m` asks for the code


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith(f"{__name__}.") else None
        if spec is not None and spec.loader is not None:
            later: Any = _Later(spec.loader)
            spec.loader = later
        return spec


sys.meta_path.insert(0, _Finder)
