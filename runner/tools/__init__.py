"""What may be done: tools with typed contracts, built in or functions of the project's Python modules.

`base` says what a tool is, `builtin` holds two of ours for steps, `python` those of modules (run by `child` in a process of its
own, in the sandbox), `registry` finds one by name. `agent` holds what a model may call in a workspace: files (by `files` and
its `worker`), commands, git, memory; `loop` says what the loop itself carries out. Whether a call is allowed, and what its
effect means for a repeat, is decided by whoever calls.
"""
