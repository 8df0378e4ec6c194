#!/bin/sh
# Lint the code. `runner init` wrote this for Rust; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
if cargo fmt --version >/dev/null 2>&1; then cargo fmt --all --check; else echo 'rustfmt is not installed: formatting was not checked'; fi
if cargo clippy --version >/dev/null 2>&1; then exec cargo clippy --quiet --all-targets -- -D warnings; fi
echo 'clippy is not installed: nothing was linted'
