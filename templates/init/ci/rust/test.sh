#!/bin/sh
# Runs the tests; `runner init` wrote it for Rust. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
exec cargo test --quiet
