"""Where requests, reviews, statuses and CI are: one Protocol, GitHub and GitLab behind it, and `none`."""
