"""Small real tasks that any engine can be run on: a bug in a package's source, and the test that fails by it."""
