#!/bin/sh
# Run the tests. `runner init` wrote this for Rust; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
if ! grep -rqE --include='*.rs' --exclude-dir=target '^ *#\[([a-z_]+::)*test\b|^ *//[/!] ```' .; then
    echo 'error: no Rust file has a test: nothing was checked' >&2
    exit 1
fi
exec cargo test --quiet
