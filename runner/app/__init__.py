"""The use cases, one function each, that every surface calls."""
