#!/bin/sh
# Lint the code. `runner init` wrote this for Node; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
script() { node -e 'process.exit((require("./package.json").scripts || {})[process.argv[1]] ? 0 : 1)' "$1"; }
if script lint; then exec npm run --silent lint; fi
echo 'package.json has no `lint` script: nothing was linted' >&2
exit 77
