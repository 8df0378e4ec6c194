#!/bin/sh
# Builds what is shipped; `runner init` wrote it for Rust. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
exec cargo build --quiet --release
