#!/bin/sh
# Run the tests. `runner init` wrote this for Node; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
script() { node -e 'process.exit((require("./package.json").scripts || {})[process.argv[1]] ? 0 : 1)' "$1"; }
if script test; then exec npm test; fi
echo 'error: package.json has no script `test`' >&2
exit 1
