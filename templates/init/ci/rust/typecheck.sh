#!/bin/sh
# Check the types. `runner init` wrote this for Rust; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
exec cargo check --quiet --all-targets
