"""Forges: one interface for requests, reviews, statuses and CI, implemented for GitHub and for GitLab."""
