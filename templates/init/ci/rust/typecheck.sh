#!/bin/sh
# Checks the types; `runner init` wrote it for Rust. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
exec cargo check --quiet --all-targets
