#!/bin/sh
# Builds what is shipped; `runner init` wrote it for Node. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
script() { node -e 'process.exit((require("./package.json").scripts || {})[process.argv[1]] ? 0 : 1)' "$1"; }
if script build; then exec npm run --silent build; fi
echo 'package.json has no script `build`: nothing is built'
