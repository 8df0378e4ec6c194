"""protocol-runner: a Git-native, file-driven runner of AI work; the repository is the database."""

__version__ = "0.1.0"
