"""Checks and verdicts: the commands that run after the work, and the meaning of their outcome."""
