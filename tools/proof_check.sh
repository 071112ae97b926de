#!/usr/bin/env bash
# Has Go's own sumdb/note and sumdb/tlog verify a proof that the test suite makes, and refuse one that was changed.
# Needs Debian's golang-go and golang-golang-x-mod-dev; fetches nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
GO111MODULE=off GOPATH="$folder/go:/usr/share/gocode" GOCACHE="$folder/cache" go build -o "$folder/check" tools/proof_check/main.go
.venv/bin/python -m pytest -q tests/integration/test_proof.py -k "independent_verifier" --basetemp "$folder/pytest" >/dev/null
bundle=$(find "$folder/pytest" -name bundle.json | head -1)
key=$(grep -v '^#' "$(dirname "$bundle")/key")
"$folder/check" "$bundle" "$key"
sed 's/ACTIVE/ACTIVF/' "$bundle" >"$folder/changed.json"
if "$folder/check" "$folder/changed.json" "$key" 2>/dev/null; then
	echo "Go believes a proof that was changed" >&2
	exit 1
fi
echo "and one that was changed is refused"
