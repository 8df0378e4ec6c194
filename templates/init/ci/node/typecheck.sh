#!/bin/sh
# Check the types. `runner init` wrote this for Node; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
script() { node -e 'process.exit((require("./package.json").scripts || {})[process.argv[1]] ? 0 : 1)' "$1"; }
if script typecheck; then exec npm run --silent typecheck; fi
if [ -f tsconfig.json ] && [ -x node_modules/.bin/tsc ]; then exec node_modules/.bin/tsc --noEmit; fi
echo 'package.json has no `typecheck` script, and TypeScript is not set up: no types were checked' >&2
exit 77
