#!/usr/bin/env bash
# Run a command whose temporary files are in memory if there is room, and removed at its end: in_memory.sh COMMAND...
#
# The tests make and remove hundreds of thousands of files, which costs a file system on a disk much time.
# If TMPDIR says already where temporary files go, that holds.
set -uo pipefail

memory=/dev/shm
kilobytes=$((6 * 1024 * 1024)) # several times what the tests need

has_room() {
    [[ $(df --output=avail "$memory" 2>/dev/null | tail -1) -ge $kilobytes ]] &&
        [[ $(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo) -ge $kilobytes ]]
}

# Where it is mounted noexec, the programs that tests install cannot run.
can_run_programs() {
    cp "$(type -P true)" "$1/true" && "$1/true" && rm "$1/true"
}

if [[ -z ${TMPDIR:-} ]]; then
    export TMPDIR=/tmp
    if has_room && folder=$(mktemp -d "$memory/rollcall.XXXXXX"); then
        trap 'rm -rf "$folder"' EXIT
        chmod 1777 "$folder" # the embedded Postgres may run as another user
        ! can_run_programs "$folder" 2>/dev/null || TMPDIR=$folder
    fi
fi
"$@"
