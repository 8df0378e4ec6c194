#!/bin/sh
# Report the result of an external CI to the forge as a commit status, which `runner sync` reads there.
# Usage: scripts/ci/report.sh success|failure
# Environment: CI_COMMIT, the commit (default: HEAD); RUNNER_CI_NAME, the name of the status (default: ci); CI_URL, the address of
# the log. GITHUB_TOKEN or GITLAB_TOKEN needs the permission to set commit statuses, and no other.
set -eu
forge=@FORGE@
api=@API@
project=@PROJECT@

die() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

case ${1:-} in
success) gitlab=success ;;
failure) gitlab=failed ;;
*) die 'usage: scripts/ci/report.sh success|failure' ;;
esac
state=$1
commit=${CI_COMMIT:-$(git rev-parse HEAD)}
case $commit in '' | *[!0-9a-f]*) die 'CI_COMMIT is not a commit id' ;; esac
name=${RUNNER_CI_NAME:-ci}
case $name in *[!A-Za-z0-9/_.-]*) die 'RUNNER_CI_NAME may only contain letters, digits and /_.-' ;; esac
url=${CI_URL:-}
case $url in *[!A-Za-z0-9:/?=%._~#-]*) die 'CI_URL is not a plain URL' ;; esac

# The token goes through stdin: every process on the machine can read arguments.
case $forge in
github)
    token=${GITHUB_TOKEN:-${GH_TOKEN:-}}
    [ -n "$token" ] || die 'GITHUB_TOKEN is not set'
    printf 'header = "Authorization: Bearer %s"\n' "$token" | curl -sSf --retry 3 --max-time 30 --config - -o /dev/null \
        -H 'Accept: application/vnd.github+json' -X POST \
        -d "{\"state\": \"$state\", \"context\": \"$name\"${url:+, \"target_url\": \"$url\"}}" \
        "$api/repos/$project/statuses/$commit"
    ;;
gitlab)
    token=${GITLAB_TOKEN:-}
    [ -n "$token" ] || die 'GITLAB_TOKEN is not set'
    printf 'header = "PRIVATE-TOKEN: %s"\n' "$token" | curl -sSf --retry 3 --max-time 30 --config - -o /dev/null \
        -H 'Content-Type: application/json' -X POST \
        -d "{\"state\": \"$gitlab\", \"name\": \"$name\"${url:+, \"target_url\": \"$url\"}}" \
        "$api/api/v4/projects/$project/statuses/$commit"
    ;;
none)
    echo "this script was written without a forge; nothing was reported: $state"
    exit 0
    ;;
esac
echo "reported to $forge: $name $state on $commit"
