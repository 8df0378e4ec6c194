"""What may be done: tools with typed contracts, built in or functions of the project's Python modules.

`base` says what a tool is, `builtin` holds ours, `python` those of modules (run by `child` in a process of its own, in
the sandbox), `registry` finds one by name. Whether a call is allowed, and what its effect means for a repeat, is decided
by whoever calls.
"""
