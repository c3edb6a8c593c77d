#!/bin/sh
# The container image, without a daemon and without a Dockerfile: the release binary, the few libraries that it is linked with and the
# certificates of public authorities, both from Debian's own packages, and a user. No shell, no package manager.
#
#   build.sh BINARY OUT
#
# Needs Debian or a child of it (apt-get, dpkg-deb), GNU tar, and umoci and crane as $UMOCI and $CRANE; `make image` provides them.
# OUT gets `oci`, an OCI layout, and `eventpulse-VERSION.tar`, the same for `docker load`, `podman load` and `crane push`.
# The same binary, packages and SOURCE_DATE_EPOCH (without it: the time of the commit) give the same digest.
set -eu
export LC_ALL=C

fail() { # what, remedy
    echo "$1" >&2
    echo "  remedy: $2" >&2
    exit 1
}

[ $# -eq 2 ] || fail "build.sh takes BINARY and OUT" "make image"
binary=$1 out=$2
: "${UMOCI:?umoci, built by make image}" "${CRANE:?crane, built by make image}"
[ -f "$binary" ] || fail "$binary is no file" "make release"
for program in apt-get dpkg dpkg-deb dpkg-query ldd readelf tar awk; do
    command -v "$program" >/dev/null || fail "$program is not on the PATH" "build the image on Debian, with binutils and libc-bin"
done

here=$(cd "$(dirname "$0")/../.." && pwd)
version=$("$binary" --version | awk '{ print $2 }')
commit=$(git -C "$here" describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$work/debs" "$work/base" "$work/app" "$out"

# What it is linked with, and which packages that is from. glibc loads the last three itself, to find names.
triplet=$(dpkg-query -L libc6 | awk -F/ '/libc\.so\.6$/ { print $(NF - 1); exit }')
interpreter=$(readelf -l "$binary" | awk -F '[][]' '/interpreter/ { sub(/.*: /, "", $2); print $2 }')
[ -n "$interpreter" ] || fail "$binary names no loader" "build it for glibc, as make release does"
libraries=$(ldd "$binary" | awk '$2 == "=>" { print $1 }'; echo libresolv.so.2 libnss_dns.so.2 libnss_files.so.2)
packages=$(ldd "$binary" | awk '$2 == "=>" { print $3 }' | while read -r path; do
    dpkg-query -S "$(readlink -f "$path")" "$path" 2>/dev/null | head -n 1 | cut -d: -f1
done | sort -u)
packages="$packages ca-certificates base-files netbase"

# From the archive, by apt's own signatures, and not from this machine's disk. Where the machine has no lists of packages, or old ones,
# they are fetched into a folder of our own, which needs no root.
lists=$work/apt
apt() { # directory, arguments of apt-get
    directory=$1
    shift
    if [ -d "$lists" ]; then
        set -- -o "Dir::State::Lists=$lists/lists" -o "Dir::Cache=$lists/cache" "$@"
    fi
    (cd "$directory" && apt-get -o APT::Sandbox::User=root -qq "$@")
}
download() { # packages
    apt "$work/debs" download "$@" 2>/dev/null && return
    if [ ! -d "$lists" ]; then
        echo "Fetching lists of Debian's packages"
        mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial"
        apt "$work" update
    fi
    apt "$work/debs" download "$@"
}
# shellcheck disable=SC2086 # Words.
download $packages || fail "apt-get download $packages did not work" "look at /etc/apt/sources.list, and whether the archive can be reached"
files="$work/files"
mkdir -p "$files" "$work/base/var/lib/dpkg/status.d"
# A package may leave its licence to another one.
for deb in "$work"/debs/*.deb; do dpkg-deb --extract "$deb" "$files"; done
others=$(find "$files/usr/share/doc" -maxdepth 1 -type l -exec readlink {} + | sort -u)
for other in $others; do
    download "$other" || fail "there is no package $other" "look at /etc/apt/sources.list, and whether the archive can be reached"
done
for deb in "$work"/debs/*.deb; do
    dpkg-deb --extract "$deb" "$files"
    # Scanners find here what is inside.
    dpkg-deb --field "$deb" >"$work/base/var/lib/dpkg/status.d/$(dpkg-deb --field "$deb" Package)"
done

base=$work/base
mkdir -p "$base/lib/$triplet" "$base/etc/ssl/certs" "$base/tmp" "$base/usr/lib" "$base/usr/share/doc"
for name in $libraries; do
    found=$(find "$files" -name "$name" | head -n 1)
    [ -n "$found" ] || fail "$name is in none of: $packages" "see what it is from with dpkg -S $name"
    cp -L "$found" "$base/lib/$triplet/$name"
done
loader=$(find "$files" -name "$(basename "$interpreter")" -type f | head -n 1)
[ -n "$loader" ] || fail "$interpreter is in none of: $packages" "see what it is from with dpkg -S $interpreter"
mkdir -p "$base$(dirname "$interpreter")"
cp "$loader" "$base$interpreter"
find "$files/usr/share/ca-certificates" -name '*.crt' | sort | while read -r certificate; do
    cat "$certificate"
    echo
done >"$base/etc/ssl/certs/ca-certificates.crt"
cp "$files/usr/lib/os-release" "$base/usr/lib/os-release"
ln -s ../usr/lib/os-release "$base/etc/os-release"
cp "$files/etc/services" "$files/etc/protocols" "$base/etc/"
for package in $packages; do
    [ ! -f "$files/usr/share/doc/$package/copyright" ] || {
        mkdir -p "$base/usr/share/doc/$package"
        cp -L "$files/usr/share/doc/$package/copyright" "$base/usr/share/doc/$package/"
    }
done
printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' >"$base/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' >"$base/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$base/etc/nsswitch.conf"

app=$work/app
mkdir -p "$app/usr/bin" "$app/usr/share/doc/eventpulse" "$app/var/lib/eventpulse"
cp "$binary" "$app/usr/bin/eventpulse"
cp "$here/LICENSE" "$app/usr/share/doc/eventpulse/LICENSE"

find "$base" "$app" -type d -exec chmod 755 {} +
find "$base" "$app" -type f -exec chmod 644 {} +
chmod 755 "$app/usr/bin/eventpulse" "$base$interpreter"
chmod 1777 "$base/tmp"
chmod 700 "$app/var/lib/eventpulse"
layer() { # directory, archive
    tar --create --file "$2" --directory "$1" --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner \
        --owner=0 --group=0 --exclude=./var/lib/eventpulse .
}
layer "$base" "$work/base.tar"
layer "$app" "$work/app.tar"
# The data directory, for whoever mounts nothing there, or a new volume.
tar --append --file "$work/app.tar" --directory "$app" --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner \
    --owner=65532 --group=65532 ./var/lib/eventpulse

oci=$work/oci
"$UMOCI" init --layout "$oci"
"$UMOCI" new --image "$oci:$version"
"$UMOCI" raw add-layer --image "$oci:$version" --history.created "$created" --history.created_by "packages of Debian" "$work/base.tar"
"$UMOCI" raw add-layer --image "$oci:$version" --history.created "$created" --history.created_by eventpulse "$work/app.tar"
"$UMOCI" config --image "$oci:$version" --no-history --created "$created" --config.user 65532:65532 --config.workingdir / \
    --config.entrypoint /usr/bin/eventpulse --config.exposedports 8080/tcp --config.exposedports 8081/tcp \
    --os linux --architecture "$(dpkg --print-architecture)" \
    --config.label "org.opencontainers.image.title=eventpulse" \
    --config.label "org.opencontainers.image.description=Alerts become incidents, actions and notifications inside a Kubernetes cluster." \
    --config.label "org.opencontainers.image.version=$version" \
    --config.label "org.opencontainers.image.revision=$commit" \
    --config.label "org.opencontainers.image.created=$created" \
    --config.label "org.opencontainers.image.licenses=Apache-2.0"
"$UMOCI" gc --layout "$oci"

# `docker load` before version 25 reads manifest.json, later ones and podman the layout itself.
blob() { echo "$1" | tr : /; }
manifest=$(awk -F '"' '{ for (i = 1; i < NF; i++) if ($i ~ /^sha256:/) { print $i; exit } }' "$oci/index.json")
digests=$(tr ',' '\n' <"$oci/blobs/$(blob "$manifest")" | awk -F '"' '/"digest"/ { for (i = 1; i < NF; i++) if ($i ~ /^sha256:/) print $i }')
config=$(echo "$digests" | head -n 1)
layers=$(echo "$digests" | tail -n +2 | while read -r digest; do printf ',"blobs/%s"' "$(blob "$digest")"; done)
printf '[{"Config":"blobs/%s","RepoTags":["eventpulse:%s"],"Layers":[%s]}]\n' "$(blob "$config")" "$version" "${layers#,}" >"$oci/manifest.json"
archive=$out/eventpulse-$version.tar
tar --create --file "$work/archive.tar" --directory "$oci" --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner \
    --owner=0 --group=0 --mode=u=rwX,go=rX .
rm "$oci/manifest.json"
"$CRANE" validate --tarball "$work/archive.tar" >/dev/null
rm -rf "$out/oci" "$archive"
mv "$oci" "$out/oci"
mv "$work/archive.tar" "$archive"

echo "eventpulse:$version  $manifest"
echo "  $(du -k "$archive" | cut -f1) KiB compressed, $(($(wc -c <"$work/base.tar") / 1024 + $(wc -c <"$work/app.tar") / 1024)) KiB unpacked, $(wc -c <"$binary" | awk '{ print int($1 / 1024) }') of them the binary"
echo "  $out/oci, $archive"
echo "Push it to a registry of your own:  $CRANE push $archive registry.example.com/eventpulse:$version"
echo "or put it into a local Docker:      docker load --input $archive"
