#!/bin/sh
# Make the secrets that compose.yaml names, but those that exist already. Reads the provider's API key from standard input.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
random() { head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
[ -e secrets/postgres-password ] || random > secrets/postgres-password
[ -e secrets/database-url ] || printf 'postgresql://rollcall:%s@postgres/rollcall' "$(cat secrets/postgres-password)" > secrets/database-url
[ -e secrets/callback-secrets ] || random > secrets/callback-secrets
[ -e secrets/api-tokens ] || printf 'ops=%s' "$(random)" > secrets/api-tokens
[ -e secrets/infrahub-api-key ] || { printf 'The provider'\''s API key: ' >&2; IFS= read -r key; printf '%s' "$key" > secrets/infrahub-api-key; }
# The daemon in the container is user 10001, and Compose gives it these files as they are: readable, in a folder that is not.
chmod 644 secrets/*
