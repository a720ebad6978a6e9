# What the scripts of this directory have in common. Each sources it, and is called with PROGRAM, a build of
# sluice. What needs MQTT.js finds the package "mqtt" in NODE_MODULES, which is where run.sh puts it if nothing
# else is said.
set -euo pipefail

sluice=$(realpath "$1")
about=$(basename "$0" .sh)
interop=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
NODE_MODULES=$(realpath "${NODE_MODULES:-$interop/../../target/interop}")
export NODE_MODULES
work=$(mktemp -d)
cd "$work" # where the broker keeps what it stores
step="nothing yet"
broker=""
helper=""
sub=""

finish() {
    local status=$?
    if [ "$status" -ne 0 ]; then
        echo "$about: FAILED at: $step" >&2
        for file in said got log; do
            if [ -s "$work/$file" ]; then echo "--- $file:" >&2; tail -n 30 "$work/$file" >&2; fi
        done
    fi
    for process in $helper $sub; do kill "$process" 2>/dev/null || true; done
    if [ -n "$broker" ]; then kill -KILL "$broker"; fi
    cd / && rm -rf "$work"
    exit "$status"
}
trap finish EXIT
set -E
trap 'tell_line "$BASH_COMMAND"' ERR
tell_line() { echo "$about: line ${BASH_LINENO[${#BASH_LINENO[@]} - 2]}: $1" >&2; }

begin() { step=$1; echo "$about: $step"; }

fail() { echo "$about: $*" >&2; return 1; }

# Waits until a command succeeds.
until_it() {
    for _ in $(seq 200); do
        if "$@"; then return 0; fi
        sleep 0.05
    done
    fail "in vain: $*"
}

wait_for() { until_it grep -q -- "$1" "$work/log"; }

# Starts the broker on $work/sluice.toml and finds out its ports, in the order of the listeners.
start() {
    : >"$work/log"
    "$sluice" --config "$work/sluice.toml" 2>>"$work/log" </dev/null &
    broker=$!
    wait_for ' listening on '
    local addresses
    addresses=$(sed -n 's/.* listening on \(.*\) with .*/\1/p' "$work/log")
    ports=()
    for address in ${addresses//,/ }; do ports+=("${address##*:}"); done
}

stop() {
    kill -TERM "$broker"
    wait "$broker"
    broker=""
}

# Has the broker read its files again, and waits until it says something.
reload() {
    : >"$work/log"
    kill -HUP "$broker"
    wait_for "${1:-read again}"
}

# Publishes with mosquitto_pub, whose words are then in $work/said.
publish() {
    case " $* " in *" -m "*) ;; *) set -- "$@" -m m ;; esac
    timeout 20 mosquitto_pub -h 127.0.0.1 -p "${ports[0]}" -t t "$@" >"$work/said" 2>&1
}

allowed() { publish "$@" || fail "not let in: $*"; }

# What the client says when it is refused, and the rest is for publish.
refused() {
    local words=$1
    shift
    if publish "$@"; then fail "let in: $*"; fi
    said "$words"
}

said() { grep -qi -- "$1" "$work/said" || fail "did not say: $1"; }

# Publishes at QoS 1; $1 is the reason code that the broker has to answer with.
answered() {
    local code=$1
    shift
    publish -q 1 -d "$@" || fail "did not come through: $*"
    said "received PUBACK (Mid: 1, RC:$code)"
}

# Subscribes in the background, as its process $sub, and waits until that is done. What comes is in $work/got.
# Asked to end, mosquitto_sub may wait for a lock that it holds itself: it is killed then.
subscribe() {
    : >"$work/got"
    timeout -k 1 60 stdbuf -oL mosquitto_sub -h 127.0.0.1 -p "${ports[0]}" -d -F '%t %p' "$@" >"$work/got" 2>&1 &
    sub=$!
    until_it grep -q '^Subscribed' "$work/got"
}

# What the subscriber received, when it has ended by itself, which -C makes it do.
received() {
    wait "$sub"
    sub=""
    diff <(printf '%s\n' "$@") <(grep -v '^\(Client\|Subscribed\) ' "$work/got")
}

leave() {
    kill "$sub" 2>/dev/null || true # it may have ended already
    wait "$sub" || true
    sub=""
}

# Whether a subscription is answered with this code.
subscription() {
    local code=$1
    shift
    timeout 20 mosquitto_sub -h 127.0.0.1 -p "${ports[0]}" -d -E "$@" >"$work/said" 2>&1 || true
    said "^Subscribed (mid: 1): $code$"
}
