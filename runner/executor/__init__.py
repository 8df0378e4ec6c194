"""Doing one step: snapshot, decide, act in the workspace, apply, publish."""
