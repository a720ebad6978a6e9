#!/usr/bin/env bash
# Mosquitto's clients against a broker: mosquitto.sh HOST PORT
# Versions 3.1, 3.1.1 and 5, every QoS both ways, retained messages, wills, kept sessions, groups.
set -euo pipefail

host=$1 port=$2
work=$(mktemp -d)
run=$$                    # topics and identifiers of this run are its own
step="nothing yet"
children=()

finish() {
    local status=$?
    if [ "$status" -ne 0 ]; then echo "mosquitto: FAILED at: $step" >&2; fi
    exec 2>/dev/null    # the shell would tell of each that is killed
    for child in "${children[@]}"; do kill -KILL "$child" || true; done
    wait || true
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

begin() { step=$1; echo "mosquitto: $step"; }

publish() { timeout 20 mosquitto_pub -h "$host" -p "$port" "$@"; }

# Messages as "topic qos retain payload".
subscribe() { timeout 30 mosquitto_sub -h "$host" -p "$port" -F '%t %q %r %p' "$@"; }

# Starts a subscriber whose output goes to $work/NAME, and waits for its SUBACK. Debug lines are in
# the file, too; `messages NAME` has only the messages.
listen() {
    local name=$1
    shift
    : >"$work/$name"    # not in the background, where what an earlier one wrote could still be seen
    stdbuf -oL mosquitto_sub -h "$host" -p "$port" -d -F 'MESSAGE %t %q %r %p' "$@" \
        >"$work/$name" 2>&1 &
    children+=($!)
    eval "pid_$name=$!"
    wait_for "$name" '^Subscribed'
}

wait_for() {
    local name=$1 pattern=$2
    for _ in $(seq 200); do
        if grep -q -- "$pattern" "$work/$name"; then return 0; fi
        sleep 0.05
    done
    echo "no \"$pattern\" in the output of $name:" >&2
    cat "$work/$name" >&2
    return 1
}

messages() { sed -n 's/^MESSAGE //p' "$work/$1"; }

expect() {
    if [ "$1" != "$2" ]; then
        printf 'expected:\n%s\ngot:\n%s\n' "$2" "$1" >&2
        return 1
    fi
}

least() { if [ "$1" -lt "$2" ]; then echo "$1"; else echo "$2"; fi; }

versions="31 311 5"

for from in $versions; do
    for to in $versions; do
        begin "every QoS, from version $from to version $to"
        for granted in 0 1 2; do
            topic=i/$run/$from/$to/$granted
            listen to_sub -V "$to" -q "$granted" -t "$topic" -C 3 -W 15
            wanted=""
            for sent in 0 1 2; do
                publish -V "$from" -q "$sent" -t "$topic" -m "message $sent"
                wanted+="$topic $(least "$sent" "$granted") 0 message $sent"$'\n'
            done
            wait "$pid_to_sub"
            # Each came by a connection of its own, so their order is free.
            expect "$(messages to_sub | sort)" "$(printf '%s' "$wanted" | sort)"
        done
    done
done

for version in $versions; do
    topic=r/$run/$version

    begin "retained messages, version $version"
    publish -V "$version" -q 1 -r -t "$topic/a" -m old
    publish -V "$version" -q 1 -r -t "$topic/a" -m new
    expect "$(subscribe -V "$version" -q 1 -t "$topic/#" -C 1 -W 10)" "$topic/a 1 1 new"
    publish -V "$version" -q 1 -r -n -t "$topic/a"
    subscribe -V "$version" -q 1 -t "$topic/#" -W 1 >"$work/none" 2>/dev/null || true
    expect "$(cat "$work/none")" ""

    begin "wildcards, version $version"
    listen plus -V "$version" -q 1 -t "w/$run/$version/+/c" -C 1 -W 10
    publish -V "$version" -q 1 -t "w/$run/$version/b/d" -m no
    publish -V "$version" -q 1 -t "w/$run/$version/b/c" -m yes
    wait "$pid_plus"
    expect "$(messages plus)" "w/$run/$version/b/c 1 0 yes"

    begin "a will, version $version"
    listen heir -V "$version" -q 1 -t "will/$run/$version/#" -C 1 -W 15
    listen dying -V "$version" -t unused -i "dying-$run-$version" \
        --will-topic "will/$run/$version/dead" --will-payload gone --will-qos 1
    kill -KILL "$pid_dying"
    wait "$pid_dying" 2>/dev/null || true
    wait "$pid_heir"
    expect "$(messages heir)" "will/$run/$version/dead 1 0 gone"

    begin "no will after DISCONNECT, version $version"
    listen heir -V "$version" -q 1 -t "will/$run/$version/#" -W 2
    publish -V "$version" -t unused -m x -i "leaving-$run-$version" \
        --will-topic "will/$run/$version/dead" --will-payload gone --will-qos 1
    wait "$pid_heir" || true
    expect "$(messages heir)" ""

    begin "a kept session, version $version"
    kept=(-V "$version" -i "kept-$run-$version" -c -q 2 -t "kept/$run/$version")
    if [ "$version" = 5 ]; then kept+=(-x 300); fi
    subscribe "${kept[@]}" -E
    for qos in 1 2; do publish -V "$version" -q "$qos" -t "kept/$run/$version" -m "m$qos"; done
    topic=kept/$run/$version
    expect "$(subscribe "${kept[@]}" -C 2 -W 10)" "$topic 1 0 m1"$'\n'"$topic 2 0 m2"

    begin "a large message, version $version"
    head -c 700000 /dev/zero | tr '\0' x >"$work/large"
    mosquitto_sub -h "$host" -p "$port" -V "$version" -i "large-$run-$version" -c -q 1 \
        -t "large/$run/$version" -E
    publish -V "$version" -q 1 -t "large/$run/$version" -f "$work/large"
    timeout 30 mosquitto_sub -h "$host" -p "$port" -V "$version" -i "large-$run-$version" -c -q 1 \
        -t "large/$run/$version" -C 1 -N -W 15 >"$work/received"
    cmp "$work/large" "$work/received"

    begin "many messages in order, version $version"
    ordered=(-V "$version" -q 2 -t "many/$run/$version" -C 2000 -W 30)
    # mosquitto_sub 2.0.11 never returns the quota of a QoS 2 message, and ends itself after as many
    # as its Receive Maximum, by default 20.
    if [ "$version" = 5 ]; then ordered+=(-D connect receive-maximum 65535); fi
    listen ordered "${ordered[@]}"
    seq 2000 | publish -V "$version" -q 2 -t "many/$run/$version" -l
    wait "$pid_ordered"
    expect "$(messages ordered | cut -d' ' -f4)" "$(seq 2000)"
done

begin "a group shares messages"
group="\$share/g/share/$run"
listen one -V 5 -q 1 -t "$group" -W 20
listen two -V 5 -q 1 -t "$group" -W 20
seq 100 | publish -V 5 -q 1 -t "share/$run" -l
for _ in $(seq 100); do
    all=$( (messages one; messages two) | wc -l)
    if [ "$all" -ge 100 ]; then break; fi
    sleep 0.05
done
expect "$( (messages one; messages two) | cut -d' ' -f4 | sort -n)" "$(seq 100)"
for member in one two; do
    if [ "$(messages "$member" | wc -l)" -eq 0 ]; then echo "$member got nothing" >&2; exit 1; fi
done

begin "properties of version 5 pass through"
mosquitto_sub -h "$host" -p "$port" -V 5 -i "props-$run" -c -x 300 -q 1 -t "props/$run" -E
publish -V 5 -q 1 -t "props/$run" -m x -D publish content-type text/plain \
    -D publish response-topic "answers/$run" -D publish correlation-data c1 \
    -D publish payload-format-indicator 1 -D publish message-expiry-interval 500 \
    -D publish user-property k1 v1 -D publish user-property k2 v2
got=$(timeout 20 mosquitto_sub -h "$host" -p "$port" -V 5 -i "props-$run" -c -x 300 -q 1 \
    -t "props/$run" -C 1 -W 10 -F '%C|%R|%D|%F|%P')
expect "$got" "text/plain|answers/$run|c1|1|k1:v1 k2:v2"

begin "a message expires"
mosquitto_sub -h "$host" -p "$port" -V 5 -i "expiry-$run" -c -x 300 -q 1 -t "expiry/$run" -E
publish -V 5 -q 1 -t "expiry/$run" -m short -D publish message-expiry-interval 1
publish -V 5 -q 1 -t "expiry/$run" -m long -D publish message-expiry-interval 600
sleep 2.2
expect "$(subscribe -V 5 -i "expiry-$run" -c -x 300 -q 1 -t "expiry/$run" -C 1 -W 10)" \
    "expiry/$run 1 0 long"

begin "a request and its response"
if command -v mosquitto_rr >/dev/null; then
    : >"$work/asked"
    (
        stdbuf -oL mosquitto_sub -h "$host" -p "$port" -V 5 -q 1 -t "ask/$run" -C 1 -W 15 -d \
            -F 'MESSAGE %R %D' >"$work/asked" 2>&1
        read -r _ answer_to data < <(grep '^MESSAGE' "$work/asked")
        publish -V 5 -q 1 -t "$answer_to" -m answer -D publish correlation-data "$data"
    ) &
    children+=($!)
    wait_for asked '^Subscribed'
    answer=$(timeout 20 mosquitto_rr -h "$host" -p "$port" -V 5 -q 1 -t "ask/$run" \
        -e "tell/$run" -m question -D publish correlation-data 77 -W 15)
    expect "$answer" answer
fi

begin "\$SYS"
expect "$(subscribe -t '$SYS/broker/version' -C 1 -W 15 | cut -d' ' -f1)" '$SYS/broker/version'

echo "mosquitto: all right"
