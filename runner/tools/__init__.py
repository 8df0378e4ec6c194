"""Tools with typed contracts: the runner's own, and functions of the project's Python modules.

`base` defines a tool, `builtin` has two examples for steps, `python` the functions of modules (run by `child`, a process in the
sandbox), `registry` finds one by name. `agent` has a model's tools for a workspace: files (by `files` and its `worker`), `commands`,
`git`, memory; `control` has those that the agent loop executes itself. The caller decides whether a call is allowed, and whether its
effect permits a repeat.
"""
