"""Permissions and proof: verify histories, and judge signatures, approvals and policy."""
