#!/usr/bin/env bash
# Sockets of this machine, IPv6, WebSocket, the PROXY protocol. transports.sh PROGRAM
source "$(dirname "$0")/common.sh"

begin "a socket of this machine"
socket=$work/mqtt.sock
cat >"$work/sluice.toml" <<TOML
[[listener]]
bind = "unix:$socket"
[[listener]]
bind = "unix:$socket.proxied"
proxy_protocol = true
TOML
for round in first second; do
    start
    for mqtt in mqttv31 mqttv311 mqttv5; do
        subscribe --unix "$socket" -V $mqtt -t unix -C 1
        timeout 20 mosquitto_pub --unix "$socket" -V $mqtt -q 2 -t unix -m "$mqtt here"
        received "unix $mqtt here"
    done
    if [ $round = second ]; then break; fi
    # What a broker that is killed leaves is no hindrance to the next.
    kill -KILL "$broker"
    wait "$broker" 2>/dev/null || true
    test -S "$socket"
done
stop
test ! -e "$socket"

begin "IPv6, and both"
cat >"$work/sluice.toml" <<TOML
[[listener]]
bind = "[::1]:0"
[[listener]]
bind = "[::]:0"
[[listener]]
bind = "[::]:0"
v6only = true
[auth]
anonymous = true
TOML
start
comes() { timeout 20 mosquitto_pub -h "$1" -p "$2" -V mqttv5 -q 1 -t t -m m >"$work/said" 2>&1; }
for port in "${ports[@]}"; do comes ::1 "$port"; done
comes 127.0.0.1 "${ports[1]}"
for port in "${ports[0]}" "${ports[2]}"; do
    if comes 127.0.0.1 "$port"; then fail "IPv4 came in"; fi
    said 'Connection refused'
done
stop

begin "WebSocket and the PROXY protocol, as curl sees them"
"$sluice" certs --out "$work/certs" >/dev/null
cat >"$work/sluice.toml" <<TOML
[[listener]]
bind = "127.0.0.1:0"
[listener.websocket]
[[listener]]
bind = "127.0.0.1:0"
proxy_protocol = true
proxy_from = ["127.0.0.1"]
[listener.websocket]
[listener.tls]
certificate = "$work/certs/server.pem"
key = "$work/certs/server.key"
TOML
start
status() { curl -s -o "$work/said" -w '%{http_code}' --max-time 20 "$@" || true; }
upgrade=(-H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13'
    -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' --http1.1)
test "$(status "http://localhost:${ports[0]}/mqtt")" = 426
test "$(status "${upgrade[@]}" "http://localhost:${ports[0]}/other")" = 404
test "$(status "${upgrade[@]}" "http://localhost:${ports[0]}/mqtt")" = 400
said 'subprotocol'
proxied=(--haproxy-protocol --cacert "$work/certs/ca.pem" "https://localhost:${ports[1]}/mqtt")
test "$(status "${upgrade[@]}" "${proxied[@]}")" = 400
said 'subprotocol'
test "$(status "${upgrade[@]}" "${proxied[@]:1}")" = 000
stop

begin "WebSocket in a browser: only pages of the origins that are listed may connect"
# The page is served first, which says at which origin.
mkfifo asks answers
timeout 120 node "$interop/browser.mjs" origins <answers >asks &
helper=$!
exec 3>answers 4<asks
read -r origin <&4
{
    for allowed in "$origin" "http://elsewhere.test"; do
        printf '[[listener]]\nbind = "127.0.0.1:0"\n[listener.websocket]\norigins = ["%s"]\n' "$allowed"
    done
} >"$work/sluice.toml"
start
printf 'ws://127.0.0.1:%s/mqtt ws://127.0.0.1:%s/mqtt\n' "${ports[@]}" >&3
exec 3>&-
cat <&4
wait "$helper"
helper=""
test "$(status -H "Origin: $origin" -H 'Sec-WebSocket-Protocol: mqtt' "${upgrade[@]}" "http://127.0.0.1:${ports[1]}/mqtt")" = 403
stop
