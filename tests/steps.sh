# Sourced by what installs into target/tools, from the repository's folder. `step_log` is where steps write.
# shellcheck shell=bash disable=SC2154
fail() { printf 'tools: %s\n' "$@" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "$1 is missing: $2"; }
hash_of() { cat "$@" | sha256sum | cut -d' ' -f1; }
# Whether version $1 is at least $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1)" = "$2" ]; }

# Waits until no other run holds the lock, and holds it until this one ends.
lock() {
    exec 9>"$1"
    if ! flock -n 9; then
        echo "tools: another run is installing, waiting for it"
        flock 9
    fi
}

# Runs a command with its output in a log and says every few seconds that it goes on; shows the log's end on failure.
# It is a process group of its own, so that Ctrl-C ends all of it. It inherits the lock: should it outlive us all the
# same, the next run waits for it.
step() {
    local what=$1 log=$step_log start=$SECONDS shown=${step_log#"$PWD/"}
    shift
    echo "tools: $what"
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    set +m
    local job=$! every=5 next=5
    [ -t 1 ] || every=20 next=20
    trap 'kill -- -'"$job"' 2>/dev/null; echo "tools: interrupted" >&2; exit 130' INT TERM
    while kill -0 "$job" 2>/dev/null; do
        sleep 0.2
        if [ $((SECONDS - start)) -ge "$next" ]; then
            next=$((next + every))
            printf 'tools:   … %d:%02d elapsed, %d lines of progress in %s\n' \
                $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60)) "$(wc -l <"$log")" "$shown"
        fi
    done
    trap - INT TERM
    if ! wait "$job"; then
        tail -n 30 "$log" >&2
        fail "failed: $what (the end of its output is above, all of it in $shown)"
    fi
    echo "tools:   done in $((SECONDS - start)) s"
}

# The pins were resolved with Python 3.11: some need it, and Prefect 1 does not know later ones.
find_python() {
    local candidate
    for candidate in python3.11 python3 python; do
        # Run it: a version manager's shim exists for versions that are not there.
        if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = 3.11 ]; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 is missing (looked for python3.11 and python3): install python3.11 and python3.11-venv"
}
