#!/bin/sh
# Does this machine have what a build needs? It runs first, so that nobody waits ten minutes to be told that Go is too old.
#
#   check-machine.sh [--if-missing] [rust] [kubernetes] [kwok] [alertmanager] [prometheus] [otelcol] [kafka] [mailpit] [helm] [image]
#
# Each word is something that is going to be built. With --if-missing a tool that is in the cache already needs no compiler and no
# disk. Says everything that is wrong at once, each with its remedy, and ends with 1; says nothing when all is well. The versions
# come from where they are pinned: Cargo.toml and the go.mod files.

root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
cache=${EVENTPULSE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/eventpulse}
# As the builds have it.
export GOWORK=off GOFLAGS=-mod=readonly
needs=$(mktemp) || exit 1
trap 'rm -f "$needs"' EXIT
failed=0
told_go=

problem() { # what, remedy
    echo "$1" >&2
    echo "  remedy: $2" >&2
    failed=1
}

# Is version $1 at least version $2? Numbers with dots; what follows the last number (-beta.1) does not count.
at_least() {
    awk -v have="$1" -v want="$2" 'BEGIN {
        split(have, h, /[^0-9]+/); n = split(want, w, ".")
        for (i = 1; i <= n; i++) { if (h[i] + 0 > w[i] + 0) exit 0; if (h[i] + 0 < w[i] + 0) exit 1 }
        exit 0
    }'
}

# The first number with dots in the text $1.
version() {
    echo "$1" | awk 'match($0, /[0-9]+(\.[0-9]+)*/) { print substr($0, RSTART, RLENGTH); exit }'
}

# Is the program $1, which says $2 about its version, of version $3 or newer? $4 is the remedy.
require() {
    if ! command -v "$1" >/dev/null 2>&1; then
        problem "$1 is not on the PATH" "$4"
    elif have=$(version "$2"); [ -z "$have" ]; then
        problem "$1 does not say its version: $2" "$4"
    elif ! at_least "$have" "$3"; then
        problem "$1 is of version $have, needed is $3 or newer" "$4"
    fi
}

# The directory $1 is going to take $2 MiB.
need() {
    place=$1
    while [ ! -d "$place" ] && [ "$place" != / ] && [ "$place" != . ]; do place=$(dirname "$place"); done
    # Filesystem, 1024-blocks, used, available, capacity, mount point.
    df -Pk "$place" 2>/dev/null | awk -v need="$2" -v dir="$1" 'NR == 2 { print $6, int($4 / 1024), need, dir }' >>"$needs"
}

is_built() {
    [ "$if_missing" = 1 ] && for dir in "$cache/tools/$1"-*; do
        case $dir in *.partial) ;; *) [ -d "$dir" ] && return 0 ;; esac
    done
    return 1
}

check_rust() {
    least=$(awk -F '"' '/^rust-version/ { print $2; exit }' "$root/Cargo.toml")
    remedy="install Rust $least or newer, with cargo, for example with rustup (https://rustup.rs), and put it on the PATH"
    require cargo "$(cargo --version 2>&1)" 0 "$remedy"
    require rustc "$(rustc --version 2>&1)" "$least" "$remedy"
    for program in cc c++ make perl; do
        command -v $program >/dev/null 2>&1 ||
            problem "$program is not on the PATH; librdkafka, OpenSSL and SQLite are built with it" \
                "install a C and C++ compiler, make and perl (Debian: build-essential perl)"
    done
    command -v setpriv >/dev/null 2>&1 ||
        problem "setpriv is not on the PATH; it ends the parts of the environment with the program that started them" \
            "install util-linux"
    target=${CARGO_TARGET_DIR:-$root/target}
    if [ -f "$target/release/eventpulse" ]; then need "$target" 1000; else need "$target" 6000; fi
}

# The go.mod of the tool $1 says which Go; the build takes $2 MiB of build cache, $3 of modules and $4 for the programs.
check_go() {
    least=$(awk '$1 == "go" { print $2; exit }' "$root/dev/tools/$1/go.mod")
    # In the module's directory, where Go may choose another toolchain for itself.
    have=$(cd "$root/dev/tools/$1" && go env GOVERSION 2>&1)
    remedy="install Go $least or newer (https://go.dev/dl) and put it on the PATH; dev/tools/$1/go.mod asks for it"
    if ! command -v go >/dev/null 2>&1; then
        [ -n "$told_go" ] || problem "go is not on the PATH" "$remedy"
        told_go=1
        return
    fi
    require go "$have" "$least" "$remedy"
    need "$(go env GOCACHE)" "$2"
    need "$(go env GOMODCACHE)" "$3"
    need "$cache" "$4"
    need "${TMPDIR:-/tmp}" 500
}

check_kafka() {
    jdk="install a JDK 17 or newer (Debian: openjdk-17-jdk-headless, or a newer one)"
    require java "$(java -version 2>&1 | grep version)" 17 "$jdk"
    is_built kafka && return
    # Maven writes its name in bold: the escape sequence has a number too.
    require mvn "$(mvn -v 2>&1 | sed -n 's/.*Apache Maven //p')" 3.6.3 "install Maven 3.6.3 or newer (Debian: maven)"
    need "${HOME:-/tmp}/.m2" 200
    need "$cache" 200
}

if_missing=0
for word in "$@"; do
    case $word in
    --if-missing) if_missing=1 ;;
    rust) check_rust ;;
    kubernetes) is_built $word || check_go $word 3500 1500 500 ;;
    kwok) is_built $word || check_go $word 2000 1000 150 ;;
    alertmanager) is_built $word || check_go $word 1000 500 100 ;;
    prometheus) is_built $word || check_go $word 2000 1000 200 ;;
    mailpit) is_built $word || check_go $word 1000 500 100 ;;
    otelcol) is_built $word || check_go $word 1000 700 100 ;;
    helm) is_built $word || check_go $word 1500 1000 150 ;;
    image) is_built $word || check_go $word 1000 500 100 ;;
    kafka) check_kafka ;;
    *) problem "check-machine.sh does not know $word" "see its first lines" ;;
    esac
done

# Directories of one filesystem share what it has.
short=$(awk '
    { free[$1] = $2; need[$1] += $3; dirs[$1] = dirs[$1] (index(dirs[$1] " ", " " $4 " ") ? "" : " " $4) }
    END { for (m in need) if (free[m] < need[m]) printf "%s has %.1f GiB free, the build needs about %.1f in:%s\n", m, free[m] / 1024, need[m] / 1024, dirs[m] }
' "$needs")
[ -z "$short" ] || problem "$short" \
    "free some disk, or set CARGO_TARGET_DIR, GOCACHE, GOMODCACHE or EVENTPULSE_CACHE to directories elsewhere"

exit $failed
