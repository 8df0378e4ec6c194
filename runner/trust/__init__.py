"""Who may, and did: the check of a history against itself, and later signatures, approvals and policy."""
