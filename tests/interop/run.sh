#!/usr/bin/env bash
# Other people's clients against a broker.
#
#   tests/interop/run.sh                 a release build of Sluice, with one shard and with three
#   tests/interop/run.sh HOST:PORT       a broker that is running already
#
# Needs mosquitto-clients, python3 with venv, node, npm and chromium. Puts what it fetches into target/interop.
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=$PWD/target/interop
venv=$cache/venv
mkdir -p "$cache"
broker=""

finish() {
    local status=$?
    if [ -n "$broker" ]; then kill -KILL "$broker" 2>/dev/null || true; fi
    exit "$status"
}
trap finish EXIT

if ! "$venv/bin/python" -c 'import paho.mqtt.subscribeoptions' 2>/dev/null; then
    echo "interop: fetching paho-mqtt"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'paho-mqtt==2.1.0'
fi
if [ ! -d "$cache/node_modules/mqtt" ]; then
    echo "interop: fetching mqtt.js"
    npm install --prefix "$cache" --no-save --no-audit --no-fund --loglevel=error mqtt@5.10.1
fi

clients() {
    local host=${1%:*} port=${1##*:}
    # Chained, because "set -e" does not hold inside a condition.
    tests/interop/mosquitto.sh "$host" "$port" &&
        timeout 300 "$venv/bin/python" tests/interop/paho_client.py "$host" "$port" &&
        NODE_MODULES="$cache" timeout 300 node tests/interop/mqttjs_client.mjs "$host" "$port"
}

# The same over WebSocket: whose clients have it, and a real browser. With CA over TLS, too.
websockets() {
    local host=${1%:*} port=${1##*:} ca=${2:-} scheme=ws
    if [ -n "$ca" ]; then scheme=wss; fi
    timeout 300 "$venv/bin/python" tests/interop/paho_client.py "$host" "$port" websockets ${ca:+"$ca"} &&
        NODE_MODULES="$cache" timeout 300 node tests/interop/mqttjs_client.mjs "$host" "$port" $scheme ${ca:+"$ca"} &&
        NODE_MODULES="$cache" timeout 120 node tests/interop/browser.mjs "$scheme://$host:$port/mqtt"
}

if [ $# -gt 0 ]; then
    clients "$1"
    exit
fi

# With a broker of its own.
with_shards() {
    local shards=$1 log=$cache/broker-$1.log addresses=()
    cat >"$cache/broker-$shards.toml" <<TOML
[[listener]]
bind = "127.0.0.1:0"
[[listener]]
bind = "127.0.0.1:0"
[listener.websocket]
[[listener]]
bind = "127.0.0.1:0"
[listener.websocket]
[listener.tls]
certificate = "$cache/certs/server.pem"
key = "$cache/certs/server.key"
TOML
    target/release/sluice --config "$cache/broker-$shards.toml" --shards "$shards" --durability memory \
        2>"$log" </dev/null &
    broker=$!
    for _ in $(seq 100); do
        IFS=', ' read -ra addresses < <(sed -n 's/.* listening on \(.*\) with .*/\1/p' "$log") || true
        if [ ${#addresses[@]} = 3 ]; then break; fi
        if ! kill -0 "$broker" 2>/dev/null; then break; fi
        sleep 0.1
    done
    if [ ${#addresses[@]} != 3 ]; then
        echo "interop: the broker did not start" >&2
        cat "$log" >&2
        exit 1
    fi
    echo "interop: a broker on ${addresses[*]} with $shards shard(s)"
    # Over TLS once: it is about the transport.
    if ! { clients "${addresses[0]}" && websockets "${addresses[1]}" &&
        { [ "$shards" = 1 ] || websockets "${addresses[2]}" "$cache/certs/ca.pem"; }; }; then
        echo "interop: FAILED; the log of the broker:" >&2
        tail -n 50 "$log" >&2
        exit 1
    fi
    kill -TERM "$broker"
    if ! wait "$broker"; then
        echo "interop: the broker did not end well" >&2
        tail -n 50 "$log" >&2
        exit 1
    fi
    broker=""
}

cargo build --release --locked --package sluice
rm -rf "$cache/certs"
target/release/sluice certs --out "$cache/certs" >/dev/null
# They mostly wait, and have nothing in common: side by side, each told of when it has ended.
parts=("with_shards 1" "with_shards 3" "tests/interop/front.sh target/release/sluice")
for part in "${!parts[@]}"; do
    (
        trap finish EXIT
        ${parts[part]}
    ) >"$cache/said-$part" 2>&1 &
    processes[part]=$!
done
failed=0
for part in "${!parts[@]}"; do
    wait "${processes[part]}" || failed=1
    cat "$cache/said-$part"
done
if [ $failed -ne 0 ]; then exit 1; fi
echo "interop: all right"
