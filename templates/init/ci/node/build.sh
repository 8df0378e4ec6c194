#!/bin/sh
# Build the package. `runner init` wrote this for Node; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
script() { node -e 'process.exit((require("./package.json").scripts || {})[process.argv[1]] ? 0 : 1)' "$1"; }
if script build; then exec npm run --silent build; fi
echo 'package.json has no `build` script: nothing to build' >&2
exit 77
