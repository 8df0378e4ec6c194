"""The tasks of `benchmarks.agent`, done by other people's agents too: real programs, and every request through one endpoint."""
