#!/bin/sh
# Build the package. `runner init` wrote this for Rust; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
exec cargo build --quiet --release
