"""How much of runner/ one `runner step` of a command passes: its functions, their modules, and how deep they call each other.

What only modules call as they are loaded is left out, and so are lambdas and comprehensions; a frame of the depth is one of runner/.
Run alone, it prints the calls to the deepest function before the table's row, so that a layer can be found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks.ground import Ground
from benchmarks.measure import Figure

CODE = """
import sys, threading
from pathlib import Path
import runner
from runner.cli import main
root, passed, callers, deepest = f'{Path(runner.__file__).parent}/', {}, {}, []
def named(frame):
    code = frame.f_code
    is_ours = code.co_filename.startswith(root) and code.co_flags & 1  # the body of a module or a class has no fast locals
    return f'{code.co_filename[len(root):-3]}:{code.co_qualname}' if is_ours and code.co_name[0] != '<' else ''
def note(frame, event, argument):
    if event != 'call' or not (name := named(frame)):
        return
    way, is_loading, at = [name], False, frame.f_back
    while at is not None:
        is_loading |= at.f_code.co_name == '<module>' and at.f_code.co_filename.startswith(root)
        way += filter(None, [named(at)])
        at = at.f_back
    if not is_loading:
        passed[name] = passed.get(name, 0) + 1
        callers.setdefault(name, set()).add((frame.f_back.f_code, frame.f_back.f_lineno) if frame.f_back else None)
        deepest[:] = max(deepest, way, key=len)
threading.setprofile(note)
sys.setprofile(note)
try:
    main.call(['step', '1'])
except SystemExit:
    pass
sys.setprofile(None)
modules = {name.partition(':')[0] for name in passed}
once = sum(count == 1 and len(callers[name]) == 1 for name, count in passed.items())
print(f'{len(passed)} functions ({once} called once), {len(modules)} modules, {len(deepest)} frames deep')
print(' > '.join(name.partition(':')[2] for name in reversed(deepest)))
"""


def run(ground: Ground) -> Iterator[Figure]:
    """Count what the second step of a protocol passes, whose workspace is there."""
    at, plan = ground.repository(50), ground.at / "plan-house"
    plan.mkdir()
    (plan / "plan.md").write_text("---\ntitle: A plan\n---\nWhat and why.\n")
    for number in (1, 2):
        (plan / f"0{number}-s{number}.md").write_text("---\ntitle: S\nkind: command\nrun: printf x\n---\nDo it.\n")
    ground.runner(at, "new", "--plan", str(plan))
    ground.runner(at, "step", "1")
    counted, deepest = ground.run([sys.executable, "-c", CODE], at).splitlines()
    print(deepest, file=sys.stderr)
    yield Figure("house: runner step of a command, in the sandbox", counted)
