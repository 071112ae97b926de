#!/usr/bin/env bash
# Make a virtual environment, or say in words for people why it cannot be made: make_venv.sh PYTHON FOLDER.
set -euo pipefail

python=$1
folder=$2

refuse() {
    printf '%s\n' "$@" >&2
    exit 1
}

command -v "$python" >/dev/null ||
    refuse "There is no $python here. Rollcall needs Python 3.11 or later; name one: make setup PYTHON=/path/to/python3"

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    refuse "Rollcall needs Python 3.11 or later, and $python is $("$python" --version 2>&1)." \
        "Name another: make setup PYTHON=python3.12"

"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    refuse "$python cannot make virtual environments: it came without ensurepip or venv." \
        "On Debian and Ubuntu they are a package of their own: apt-get install python3-venv"

# --clear: what an interrupted try has left is not worth keeping.
exec "$python" -m venv --clear "$folder"
