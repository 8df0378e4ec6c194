"""Checks and verdicts: what is run after the work, and what its outcome says."""
