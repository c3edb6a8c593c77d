#!/bin/sh
# fuzz.sh run SECONDS [TARGET]…: fuzzes the targets one after the other, all of them where none is named.
# fuzz.sh keep [TARGET]…: takes into the corpora what runs have found that reaches further than what is kept already.
set -eu
cd "$(dirname "$0")/../.."

all=$(ls fuzz/fuzz_targets | sed 's/\.rs$//')
refuse() { echo "$1" >&2; exit "${2:-2}"; }

usage="fuzz.sh run SECONDS [TARGET]…, or fuzz.sh keep [TARGET]…"
[ $# -gt 0 ] || refuse "$usage"
what=$1
shift
case "$what" in
run)
	seconds=${1:-}
	[ $# -eq 0 ] || shift
	case "$seconds" in '' | *[!0-9]* | 0*) refuse "SECONDS=$seconds: it is a whole number of seconds above 0" ;; esac
	;;
keep) ;;
*) refuse "$usage" ;;
esac
for target in "$@"; do
	[ -f "fuzz/fuzz_targets/$target.rs" ] || refuse "TARGET=$target: there is no such target; there are: $(echo $all)"
done
cargo +nightly --version >/dev/null 2>&1 ||
	refuse "The fuzzers are built by Rust's nightly compiler: rustup toolchain install nightly --profile minimal" 1
cargo +nightly fuzz --version >/dev/null 2>&1 || refuse "cargo-fuzz is missing: cargo install --locked cargo-fuzz" 1

# The versions that ship are the ones that are fuzzed.
cp Cargo.lock fuzz/Cargo.lock
[ -d fuzz/target ] || echo "Building the fuzzers (about 15 minutes the first time)"
broken=
for target in ${*:-$all}; do
	mkdir -p "fuzz/found/$target"
	case "$what" in
	# There is no unsafe code in EventPulse: without the sanitizer the same time tries twice as much.
	run)
		echo "Fuzzing $target for $seconds s"
		cargo +nightly fuzz run --sanitizer none "$target" "fuzz/found/$target" "fuzz/corpus/$target" -- \
			-max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 || broken="$broken $target"
		;;
	keep)
		cargo +nightly fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "fuzz/found/$target" -- \
			-merge=1 -max_len=4096 || broken="$broken $target"
		echo "fuzz/corpus/$target has $(ls "fuzz/corpus/$target" | wc -l) inputs"
		;;
	esac
done
[ -z "$broken" ] || refuse "Something does not hold in:$broken. The inputs are in fuzz/artifacts; docs/fuzzing.md says what to do." 1
