"""Tools with typed contracts: the runner's own, and functions of the project's Python modules.

`base` defines a tool, `registry` finds one by name, `python` has the functions of modules (run by `child`, a process in the
sandbox). `agent` has a model's tools for a workspace: files (by `files` and its `worker`), `commands`, `git`, memory; `contracts`
says what each takes and gives. The caller decides whether a call is allowed, and whether its effect permits a repeat.
"""
