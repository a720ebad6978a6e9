#!/usr/bin/env bash
# Limits of listeners, clients and users, and what becomes of who comes when there is no room. limits.sh PROGRAM
source "$(dirname "$0")/common.sh"

begin "packets, connections of a listener, a user's connections, messages in a second"
printf 'one:1\ntwo:2\nslow:3\n' | "$sluice" passwd "$work/limited" --batch >/dev/null
cat >"$work/sluice.toml" <<TOML
shards = 2
[[listener]]
bind = "127.0.0.1:0"
[listener.limits]
max_packet_size = "1KiB"
max_keep_alive = "1s"
[[listener]]
bind = "127.0.0.1:0"
max_connections = 1
authentication = ["anonymous"]
[auth]
password_file = "$work/limited"
[[quota]]
users = ["one"]
max_connections = 1
[[quota]]
users = ["slow"]
publish_messages_per_second = 5
TOML
start
head -c 900 /dev/zero | tr '\0' x >"$work/small"
head -c 1100 /dev/zero | tr '\0' x >"$work/large"
for version in mqttv31 mqttv311 mqttv5; do
    sent=(-h 127.0.0.1 -p "${ports[0]}" -u two -P 2 -V "$version" -q 1 -t t)
    timeout 20 mosquitto_pub "${sent[@]}" -f "$work/small"
    # A client of version 5 knows the limit, and does not send.
    if timeout 20 mosquitto_pub "${sent[@]}" -f "$work/large" >"$work/said" 2>&1 && [ $version != mqttv5 ]; then
        fail "a packet that is too large was taken"
    fi
done
test "$(grep -c 'closed: packet too large' "$work/log")" = 2

begin "a user's connections"
subscribe -u one -P 1 -t t
refused 'quota' -V mqttv5 -u one -P 1
refused 'refused' -V mqttv311 -u one -P 1
allowed -u two -P 2
leave
until_it publish -V mqttv5 -u one -P 1

begin "a listener's connections"
subscribe -p "${ports[1]}" -t t
if publish -p "${ports[1]}"; then fail "a listener took more connections than it may"; fi
wait_for 'max_connections of the listener'
allowed -u two -P 2
leave

begin "messages in a second"
# A burst of five, and then five a second; none is lost.
subscribe -u two -P 2 -t rate -C 15
began=$(date +%s%N)
seq 15 | timeout 20 mosquitto_pub -h 127.0.0.1 -p "${ports[0]}" -u slow -P 3 -t rate -q 1 -l
mapfile -t all < <(seq -f 'rate %g' 15)
received "${all[@]}"
took=$((($(date +%s%N) - began) / 1000000))
if [ "$took" -lt 1800 ]; then fail "15 messages at 5 a second took $took ms"; fi
wait_for 'publishes more than it may'

begin "a listener's keep alive"
# A client of version 5 is told, and asks as often as that in place of every ten minutes.
subscribe -u two -P 2 -V mqttv5 -k 600 -t t
until_it grep -q 'received PINGRESP' "$work/got"
leave

begin "SIGHUP changes limits, and says what it cannot change"
sed -i 's/^max_connections = 1$/max_connections = 2/; s/^shards = 2$/shards = 1/' "$work/sluice.toml"
reload
grep -q 'next start: shards$' "$work/log"
subscribe -p "${ports[1]}" -t t
allowed -p "${ports[1]}"
leave
stop

begin "a process that takes more memory than it may lets nobody in"
cat >"$work/sluice.toml" <<TOML
[[listener]]
bind = "127.0.0.1:0"
[limits]
max_memory = "1MiB"
TOML
start
wait_for 'the process is beyond limits.max_memory: new clients are refused'
refused 'quota exceeded' -V mqttv5
for version in mqttv31 mqttv311; do refused 'unavailable' -V $version; done
stop
