"""Use cases, one function each, called by every user interface."""
