#!/usr/bin/env bash
# Run one step of `make check`: print its name, run it, print its seconds. Its output is shown only if it fails.
#
#   step.sh NAME COMMAND...
#   step.sh -v NAME COMMAND...     show the output as it comes
set -uo pipefail

shown=false
if [[ $1 == -v ]]; then
    shown=true
    shift
fi
name=$1
shift
began=${EPOCHREALTIME/[.,]/}

finish() {
    local tenths=$(((${EPOCHREALTIME/[.,]/} - began) / 100000))
    printf '%-32s %4d.%d s  %s\n' "$name" $((tenths / 10)) $((tenths % 10)) "$1"
}

if $shown; then
    printf '%s ...\n' "$name"
    "$@"
    code=$?
else
    # On a terminal the line is there while the step runs, and is written over when it ends.
    [[ ! -t 1 ]] || printf '%-32s ...\r' "$name"
    output=$("$@" 2>&1)
    code=$?
fi

if [[ $code == 0 ]]; then
    finish ok
else
    finish FAILED
    $shown || printf '%s\n' "$output"
fi
exit "$code"
