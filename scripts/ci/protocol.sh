#!/bin/sh
# The runner's CI jobs, the same for every CI. Written by `runner init`. Usage: scripts/ci/protocol.sh COMMAND …
#   install                   install the runner into a folder of its own, and bubblewrap if it is missing
#   plan github|gitlab [ID]   sync with the remote; print a matrix, or a pipeline, of the protocols that can advance
#   work ID…                  advance each without publishing; write the new commits to $HANDOVER/ID.bundle
#   publish ID…               verify each bundle and publish it
#   next ID                   exit 0 if the protocol can continue without a person
#   verify BRANCH COMMIT BASE the required check of a request: verify every record that it changes
#   qa                        run the project's own scripts beside this one, and nothing else
# No text of a plan, a request or a model ever becomes part of a command: names are validated before use.
set -eu
LC_ALL=C
export LC_ALL
folder=${RUNNER_FOLDER:-${HOME:?}/.protocol-runner}
package=${RUNNER_PACKAGE:-.[gemini,openai,anthropic,github,gitlab]}
handover=${HANDOVER:-handover}
PATH=$folder/bin:$PATH

die() {
    printf 'error: %s\n' "$1" >&2
    exit "${2:-2}"
}

is_id() {
    case $1 in '' | -* | *[!a-z0-9-]*) return 1 ;; esac
    printf '%s\n' "$1" | grep -Eqx '[0-9]{4,9}-[a-z0-9]+(-[a-z0-9]+)*'
}

check_ids() {
    for id; do is_id "$id" || die "not the id of a protocol"; done
}

# Print the name of a protocol's branch, exactly as `branch:` of config.yaml defines it: anybody may push a similar name.
name_of() {
    pattern=$(runner doctor --config | sed -nE 's/^branch +"([^"]*\{id\}[^"]*)".*/\1/p')
    printf '%s\n' "${pattern%%"{id}"*}$1${pattern#*"{id}"}"
}

# Print the same if it exists below $1 (refs/heads or refs/remotes/origin), else nothing.
branch_of() {
    name=$(name_of "$2")
    if git rev-parse -q --verify "$1/$name" >/dev/null; then printf '%s\n' "$name"; fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Whether uv, which is much faster, can install in place of pip. It does not read what configures pip, such as an index of one's own.
has_uv() {
    command -v uv >/dev/null 2>&1 && ! env | grep -q '^PIP_' && [ -z "$(python3 -m pip config list 2>/dev/null)" ]
}

install() {
    if ! command -v bwrap >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
        as_root apt-get update -qq >&2
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends bubblewrap git ca-certificates >&2
    fi
    # Ubuntu denies user namespaces to unlisted programs, so bubblewrap could not start. Lifted only on throw-away machines.
    restriction=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
    if [ "${GITHUB_ACTIONS:-}" = true ] && [ "$(cat "$restriction" 2>/dev/null)" = 1 ]; then
        as_root sysctl -q -w kernel.apparmor_restrict_unprivileged_userns=0
    fi
    if [ "$(cat "$folder/package" 2>/dev/null)" != "$package" ]; then
        if has_uv; then
            [ -x "$folder/bin/python" ] || uv venv --quiet --no-config --python "$(command -v python3)" "$folder" >&2
            uv pip install --quiet --no-config --python "$folder/bin/python" "$package" >&2
        else
            "$folder/bin/python" -m pip --version >/dev/null 2>&1 || python3 -m venv "$folder"
            "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$package" >&2
        fi
        printf '%s\n' "$package" > "$folder/package"
    fi
    runner --version
}

settle() {
    if [ -n "${1:-}" ]; then
        check_ids "$1"
        runner sync --no-work "$1" >&2
    else
        # A protocol that cannot be synced does not hold up the others.
        for id in $(runner list --json | python3 -c 'import json, sys; [print(row["protocol"]) for row in json.load(sys.stdin)["protocols"]]'); do
            [ -z "$(branch_of refs/remotes/origin "$id")" ] || runner sync --no-work "$id" >&2 || echo "$id could not be synced; continuing" >&2
        done
    fi
}

# $RUNNER_RESERVE: the share of the day budget, in US dollars, for each protocol that asks a model. It is reserved here because the
# job that works cannot push.
plan() {
    case ${1:-} in github) form=--json ;; gitlab) form=--gitlab ;; *) die "usage: plan github|gitlab [ID]" ;; esac
    settle "${2:-}"
    runner fleet plan "$form" ${RUNNER_RESERVE:+--reserve "$RUNNER_RESERVE"} ${2:+"$2"}
}

work() {
    check_ids "$@"
    mkdir -p "$handover"
    worst=0
    for id; do
        code=0
        runner run "$id" --ci --publish never --max-steps "${RUNNER_MAX_STEPS:-5}" || code=$?
        # A failed step (1) is recorded and published as such. After any other error, only the work so far is.
        [ "$code" -le 1 ] || worst=$code
        branch=$(branch_of refs/heads "$id")
        [ -n "$branch" ] || continue
        set -- "refs/heads/$branch"
        if git rev-parse -q --verify "refs/runner/history/$id" >/dev/null; then set -- "$@" "refs/runner/history/$id"; fi
        if [ "$(git rev-list --count "$@" --not --remotes=origin)" -gt 0 ]; then
            git bundle create --quiet "$handover/$id.bundle" "$@" --not --remotes=origin
        fi
    done
    return "$worst"
}

publish() {
    check_ids "$@"
    for id; do
        bundle=$handover/$id.bundle
        [ -f "$bundle" ] || continue
        branch=$(branch_of refs/remotes/origin "$id")
        [ -n "$branch" ] || die "$id has no branch on the remote"
        git bundle verify --quiet "$bundle"
        # Fetch only this protocol's own refs, whatever else the bundle holds.
        for ref in "refs/heads/$branch" "refs/runner/history/$id"; do
            if git bundle list-heads "$bundle" "$ref" | grep -q .; then
                git -c fetch.fsckObjects=true fetch --quiet --no-tags --no-write-fetch-head "$bundle" "$ref:$ref"
            fi
        done
        # --handed-over: refuse events that only people or the forge cause. They carry no signature, so a compromised job could write
        # them, and verify would accept them. --live: a fork is checked against the original's transcripts, which only the remote has.
        runner verify --live --handed-over "$id"
        runner sync --no-work "$id"
    done
}

next() {
    check_ids "$1"
    runner show "$1" --json | python3 -c '
import json, sys
row = json.load(sys.stdin)
sys.exit(not (row["status"] in ("planning", "planned", "running") and row["next"]["action"] not in ("none", "ask-person")))
'
}

# Print "ID COMMIT" for each protocol that the fork $1 continues, with the commit that it starts from. This proves nothing:
# `runner verify` of the fork does (rules 3, 7 and 29), and must run as well.
origins() {
    fork=$1 at=$2
    while :; do
        at=$(git rev-list --first-parent "$at" -- ".protocols/$fork" | tail -n 1)
        [ -n "$at" ] && git log -1 --format=%B "$at" | grep -qx 'Runner-Event: forked plan' || return 0
        at=$(git rev-parse "$at^")
        fork=$(git log -1 --format=%B "$at" | sed -nE 's/^Runner-Protocol: ([a-z0-9-]+)$/\1/p')
        is_id "$fork" || return 0
        printf '%s %s\n' "$fork" "$at"
    done
}

verify() {
    branch=$1 commit=$2 base=$3 checked='' from=''
    git rev-parse -q --verify "$commit^{commit}" >/dev/null || die "the commit was not fetched" 5
    ids=$(git -c core.quotePath=true diff --name-only --no-renames "$base...$commit" -- .protocols |
        sed -nE 's#^"?\.protocols/([0-9]{4,9}-[a-z0-9-]+)(/.*)?$#\1#p' | sort -u) # git quotes odd names; a link has no file below
    for id in $ids; do
        is_id "$id" || die "a folder in .protocols is not named like a protocol" 4
        if [ "$branch" = "$(name_of "$id")" ]; then
            git update-ref --no-deref "refs/heads/$branch" "$commit"
            from=$(origins "$id" "$commit")
        fi
    done
    for id in $ids; do
        if [ "$branch" != "$(name_of "$id")" ]; then
            # A fork keeps the original's record as it was at the fork, whatever happened to it since.
            at=$(printf '%s\n' "$from" | sed -n "s/^$id //p")
            if [ -n "$at" ] && git diff --quiet "$at" "$commit" -- ".protocols/$id"; then continue; fi
            there=$(branch_of refs/remotes/origin "$id")
            if [ -z "$there" ] || ! git diff --quiet "refs/remotes/origin/$there" "$commit" -- ".protocols/$id"; then
                die "the record of $id is changed outside its own branch" 4
            fi
        fi
        checked="$checked $id"
    done
    # Unquoted on purpose: a list of ids, each validated above.
    if [ -n "$checked" ]; then runner verify --live --ci $checked; else echo "this changes no protocol's record"; fi
}

qa() {
    here=$(dirname "$0")
    token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    code=0 ran=
    # Output of tests must not be read as workflow commands, and tests get none of the CI's command files.
    [ "${GITHUB_ACTIONS:-}" != true ] || printf '::stop-commands::%s\n' "$token"
    for name in bootstrap lint typecheck test build; do
        [ -x "$here/$name.sh" ] || continue
        printf '== %s\n' "$name"
        ran=yes
        env -u GITHUB_ENV -u GITHUB_PATH -u GITHUB_OUTPUT -u GITHUB_STATE -u GITHUB_STEP_SUMMARY "$here/$name.sh" </dev/null || {
            # 77 is how a script says that it has nothing to do. Only tests have to be there.
            if [ $? = 77 ] && [ "$name" != test ]; then continue; fi
            printf '== %s failed\n' "$name"
            code=1
            [ "$name" != bootstrap ] || break
        }
    done
    [ "${GITHUB_ACTIONS:-}" != true ] || printf '\n::%s::\n' "$token"
    [ -n "$ran" ] || die "there is no script to run: write scripts/ci/test.sh"
    return "$code"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
install) install ;;
plan) plan "$@" ;;
work) work "$@" ;;
publish) publish "$@" ;;
next) next "$@" ;;
verify) [ $# -eq 3 ] || die "usage: verify BRANCH COMMIT BASE"; verify "$@" ;;
qa) qa ;;
*) die "unknown command; the top of this file lists the commands" ;;
esac
