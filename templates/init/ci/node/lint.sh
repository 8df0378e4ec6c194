#!/bin/sh
# Reads the code for mistakes of form; `runner init` wrote it for Node. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
script() { node -e 'process.exit((require("./package.json").scripts || {})[process.argv[1]] ? 0 : 1)' "$1"; }
if script lint; then exec npm run --silent lint; fi
echo 'package.json has no script `lint`: nothing was linted'
