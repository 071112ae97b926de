#!/usr/bin/env bash
# Install pinned packages, and Rollcall itself, into a virtual environment: install.sh FOLDER LOCK... Prints each package.
set -euo pipefail

python=$1/bin/python
shift

pip() {
    # Not compiled here: Python compiles what a command imports when it does, which is a small part of it.
    "$python" -m pip install --disable-pip-version-check --no-input --progress-bar off --no-deps --no-compile "$@"
}

for lock in "$@"; do
    pip --require-hashes -r "$lock" |
        sed -un -e 's/^Collecting \([^ ]*\).*/  \1/p' -e 's/^Installing collected packages.*/  unpacking .../p'
done
pip --quiet --no-build-isolation --editable .
