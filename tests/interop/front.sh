#!/usr/bin/env bash
# Who comes in, as other people's programs see it: front.sh PROGRAM, where PROGRAM is a build of sluice.
# Needs the package "mqtt" in NODE_MODULES, which is where run.sh puts it if nothing else is said.
set -euo pipefail

sluice=$1
here=$(cd "$(dirname "$0")" && pwd)
export NODE_MODULES=${NODE_MODULES:-$here/../../target/interop}
work=$(mktemp -d)
step="nothing yet"
broker=""
server=""

finish() {
    local status=$?
    if [ "$status" -ne 0 ]; then
        echo "front: FAILED at: $step" >&2
        tail -n 30 "$work/log" >&2 || true
    fi
    for process in $broker $server; do kill -KILL "$process" 2>/dev/null || true; done
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

begin() { step=$1; echo "front: $step"; }

# Starts the broker on $work/sluice.toml and finds out its ports, in the order of the listeners.
start() {
    "$sluice" --config "$work/sluice.toml" 2>>"$work/log" </dev/null &
    broker=$!
    wait_for ' listening on '
    local addresses
    addresses=$(sed -n 's/.* listening on \(.*\) with .*/\1/p' "$work/log")
    ports=()
    for address in ${addresses//,/ }; do ports+=("${address##*:}"); done
}

wait_for() {
    for _ in $(seq 200); do
        if grep -q -- "$1" "$work/log"; then return 0; fi
        sleep 0.05
    done
    echo "no \"$1\" in the log" >&2
    return 1
}

publish() { timeout 20 mosquitto_pub -h 127.0.0.1 -p "${ports[0]}" -t t -m m "$@" >"$work/said" 2>&1; }

allowed() { publish "$@" || { cat "$work/said" >&2; return 1; }; }

refused() {
    local words=$1
    shift
    if publish "$@"; then
        echo "let in: $*" >&2
        return 1
    fi
    grep -qi -- "$words" "$work/said" || { cat "$work/said" >&2; return 1; }
}

begin "passwords of sluice and of mosquitto"
users=$work/users
mosquitto_passwd -b -c "$users" old secret
mosquitto_passwd -b -H sha512 "$users" older secret
echo secret | "$sluice" passwd "$users" new >/dev/null
printf 'one:1\ntwo:2\n' | "$sluice" passwd "$users" --batch >/dev/null
cat >"$work/sluice.toml" <<END
[[listener]]
bind = "127.0.0.1:0"
[auth]
password_file = "$users"
[auth.ban]
failures_by_user = 4
END
start
for version in mqttv31 mqttv311 mqttv5; do
    for user in old older new; do allowed -V "$version" -u "$user" -P secret; done
    refused 'bad user \?name or password' -V "$version" -u old -P wrong
    refused 'ot authori' -V "$version"
done
allowed -u one -P 1
allowed -u two -P 2

begin "SIGHUP takes in users that were added and removed"
"$sluice" passwd "$users" one --delete >/dev/null
echo secret | "$sluice" passwd "$users" late >/dev/null
refused . -u late -P secret
kill -HUP "$broker"
wait_for 'read again'
allowed -u late -P secret
refused . -u one -P 1

begin "tokens signed by openssl"
base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
openssl genrsa -out "$work/token.key" 2048 2>/dev/null
openssl pkey -in "$work/token.key" -pubout -out "$work/token.pub"
cat >>"$work/sluice.toml" <<END
[auth.jwt]
key_file = "$work/token.pub"
END
: >"$work/log"
kill -HUP "$broker"
wait_for 'read again'
signed() {
    local said
    said=$(printf '{"alg":"RS256"}' | base64url).$(printf '{"sub":"t","exp":%s}' "$1" | base64url)
    printf '%s.%s' "$said" "$(printf %s "$said" | openssl dgst -sha256 -sign "$work/token.key" | base64url)"
}
good=$(signed $(($(date +%s) + 600)))
allowed -u t -P "$good"
allowed -u new -P secret
refused 'ot authori' -V mqttv5 -u t -P "$(signed $(($(date +%s) - 600)))"

begin "who guesses is banned"
for _ in 1 2 3 4; do refused . -u two -P guess; done
refused '.' -V mqttv5 -u two -P 2
grep -q 'user "two" is banned' "$work/log"
allowed -u new -P secret

begin "an acl_file of mosquitto"
cat >"$work/acl" <<END
user old
topic readwrite home/#
topic deny home/safe
pattern write from/%u
END
cat >>"$work/sluice.toml" <<END
[acl]
mosquitto_file = "$work/acl"
END
: >"$work/log"
kill -HUP "$broker"
wait_for 'read again'
: >"$work/got"
timeout 20 stdbuf -oL mosquitto_sub -h 127.0.0.1 -p "${ports[0]}" -V mqttv5 -u old -P secret -d -t 'home/#' -F '%t' -C 1 \
    >"$work/got" 2>&1 &
sub=$!
for _ in $(seq 200); do if grep -q '^Subscribed' "$work/got"; then break; fi; sleep 0.05; done
timeout 20 mosquitto_pub -h 127.0.0.1 -p "${ports[0]}" -u old -P secret -q 1 -t home/safe -m no
timeout 20 mosquitto_pub -h 127.0.0.1 -p "${ports[0]}" -u old -P secret -q 1 -t home/door -m yes
wait "$sub"
grep -q '^home/door$' "$work/got"
if timeout 20 mosquitto_pub -h 127.0.0.1 -p "${ports[0]}" -V mqttv5 -u new -P secret -q 1 -t home/x -m no -d \
    2>&1 | grep -q 'PUBACK.*RC:0'; then
    echo "a publish that is not allowed was taken" >&2
    exit 1
fi

kill -TERM "$broker"
wait "$broker"
broker=""

begin "SCRAM-SHA-256, by MQTT.js"
echo secret | "$sluice" passwd "$work/scram" 'ann,x=1' --scram >/dev/null
echo other | "$sluice" passwd "$work/scram" bob --scram >/dev/null
cat >"$work/sluice.toml" <<END
shards = 2
[[listener]]
bind = "127.0.0.1:0"
[auth]
password_file = "$work/scram"
END
: >"$work/log"
start
scram() { timeout 60 node "$here/mqttjs_scram.mjs" 127.0.0.1 "${ports[0]}" "$@"; }
scram 'ann,x=1' secret bob other
for version in mqttv311 mqttv5; do allowed -V $version -u 'ann,x=1' -P secret; done
kill -TERM "$broker"
wait "$broker"
broker=""

begin "a server that is asked over HTTP, and is down for a while"
cat >"$work/server.py" <<'END'
import http.server, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        is_right = (asked["username"], asked["password"]) == ("hal", "9000")
        body = json.dumps({"result": "allow" if is_right else "deny"}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        print("asked about", asked["username"], flush=True)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("port", server.server_address[1], flush=True)
server.serve_forever()
END
# Starts the server at a port, and sets $http to that; 0: any.
serve() {
    : >"$work/served"
    python3 "$work/server.py" "$1" >"$work/served" 2>&1 &
    server=$!
    http=""
    for _ in $(seq 200); do
        http=$(sed -n 's/^port //p' "$work/served")
        if [ -n "$http" ]; then return 0; fi
        sleep 0.05
    done
    cat "$work/served" >&2
    return 1
}
serve 0
cat >"$work/sluice.toml" <<END
[[listener]]
bind = "127.0.0.1:0"
[auth]
anonymous = true
password_file = "$users"
[auth.http]
url = "http://127.0.0.1:$http/authenticate"
cache_time = "10m"
END
: >"$work/log"
start
for version in mqttv311 mqttv5; do
    allowed -V $version -u hal -P 9000 -i known
    refused 'bad user \?name or password' -V $version -u hal -P 9001
    refused 'bad user \?name or password' -V $version -u eve -P 9000
done
grep -q 'asked about eve' "$work/served"

kill "$server"
wait "$server" || true
server=""
: >"$work/log"
for version in mqttv311 mqttv5; do
    refused 'er unavailable' -V $version -u hal -P 9000 -i new
    # Who is in the file, gives no name, or was asked about lately has no need of the server.
    allowed -V $version -u new -P secret
    allowed -V $version
    allowed -V $version -u hal -P 9000 -i known
    refused 'bad user \?name or password' -V $version -u new -P wrong
done
grep -q "WARN.*http://127.0.0.1:$http/authenticate gives no answer, and a client is refused" "$work/log"
grep -q 'refused: nobody can say now whether it may come in' "$work/log"
echo 'without_answer = "allow"' >>"$work/sluice.toml"
: >"$work/log"
kill -HUP "$broker"
wait_for 'read again'
for version in mqttv311 mqttv5; do allowed -V $version -u hal -P 9001; done
grep -q 'WARN.*gives no answer, and a client is let in' "$work/log"

serve "$http"
for version in mqttv311 mqttv5; do
    allowed -V $version -u hal -P 9000
    refused 'bad user \?name or password' -V $version -u hal -P 9001
done
grep -q 'asked about hal' "$work/served"
kill "$server"
wait "$server" || true
server=""
kill -TERM "$broker"
wait "$broker"
broker=""

begin "TLS: versions, certificates of clients, what openssl sees"
"$sluice" certs --out "$work/certs" --client ann >/dev/null
"$sluice" certs --out "$work/other" --client eve >/dev/null
cat >"$work/sluice.toml" <<END
[[listener]]
bind = "127.0.0.1:0"
[listener.tls]
certificate = "$work/certs/server.pem"
key = "$work/certs/server.key"
[[listener]]
bind = "127.0.0.1:0"
[listener.tls]
certificate = "$work/certs/server.pem"
key = "$work/certs/server.key"
client_certificates = "required"
client_ca = "$work/certs/ca.pem"
certificate_user = "common_name"
END
: >"$work/log"
start
ca=(--cafile "$work/certs/ca.pem")
tls() { local port=$1; shift; timeout 20 mosquitto_pub -h localhost -p "$port" -t t -m m -q 1 "$@" >"$work/said" 2>&1; }
no_tls() { if tls "$@"; then echo "let in: $*" >&2; return 1; fi; }
for version in tlsv1.2 tlsv1.3; do
    for mqtt in mqttv31 mqttv311 mqttv5; do tls "${ports[0]}" "${ca[@]}" --tls-version $version -V $mqtt; done
done
no_tls "${ports[0]}" --cafile "$work/other/ca.pem"
tls "${ports[1]}" "${ca[@]}" --cert "$work/certs/client.pem" --key "$work/certs/client.key"
no_tls "${ports[1]}" "${ca[@]}"
wait_for 'closed: TLS: peer sent no certificates'
no_tls "${ports[1]}" "${ca[@]}" --cert "$work/other/client.pem" --key "$work/other/client.key"
for version in -tls1_2 -tls1_3; do
    timeout 20 openssl s_client -connect "localhost:${ports[0]}" $version -CAfile "$work/certs/ca.pem" \
        -alpn mqtt -verify_return_error </dev/null >"$work/said" 2>&1
    grep -q 'Verify return code: 0 (ok)' "$work/said"
    grep -q 'ALPN protocol: mqtt' "$work/said"
done

kill -TERM "$broker"
wait "$broker"
broker=""

begin "TLS: certificates that have expired or were revoked, by an openssl CA"
mkdir "$work/authority"
cat >"$work/authority/ca.cnf" <<END
[ca]
default_ca = own
[own]
database = $work/authority/index.txt
new_certs_dir = $work/authority
serial = $work/authority/serial
certificate = $work/certs/ca.pem
private_key = $work/certs/ca.key
default_md = sha256
default_days = 30
default_crl_days = 30
policy = named
x509_extensions = client
unique_subject = no
crlnumber = $work/authority/serial
crl_extensions = list
[named]
commonName = supplied
[client]
basicConstraints = CA:FALSE
extendedKeyUsage = clientAuth
[list]
authorityKeyIdentifier = keyid
END
: >"$work/authority/index.txt"
echo 01 >"$work/authority/serial"
authority() { openssl ca -batch -notext -config "$work/authority/ca.cnf" "$@" >>"$work/authority/log" 2>&1; }
sign() {
    local name=$1
    shift
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" \
        -keyout "$work/$name.key" -out "$work/$name.csr" 2>>"$work/authority/log"
    authority -in "$work/$name.csr" -out "$work/$name.pem" "$@"
}
sign valid
sign expired -startdate 20200101000000Z -enddate 20200201000000Z
sign revoked
authority -revoke "$work/revoked.pem"
authority -gencrl -out "$work/crl.pem"
echo "client_crl = \"$work/crl.pem\"" >>"$work/sluice.toml"
: >"$work/log"
start
for version in tlsv1.2 tlsv1.3; do
    client() { tls "${ports[1]}" "${ca[@]}" --tls-version $version --cert "$work/$1.pem" --key "$work/$1.key"; }
    client valid
    for name in expired revoked; do
        if client $name; then echo "let in: $name, $version" >&2; exit 1; fi
    done
done
wait_for 'closed: TLS: invalid peer certificate: .*[Ee]xpired'
wait_for 'closed: TLS: invalid peer certificate: .*Revoked'
kill -TERM "$broker"
wait "$broker"
broker=""
printf -- '-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n' >"$work/crl.pem"
if "$sluice" --config "$work/sluice.toml" 2>"$work/said"; then exit 1; fi
grep -q "$work/crl.pem" "$work/said"

begin "a socket of this machine"
socket=$work/mqtt.sock
cat >"$work/sluice.toml" <<END
[[listener]]
bind = "unix:$socket"
[[listener]]
bind = "unix:$socket.proxied"
proxy_protocol = true
END
for round in first second; do
    : >"$work/log"
    start
    for mqtt in mqttv31 mqttv311 mqttv5; do
        : >"$work/got"
        timeout 20 stdbuf -oL mosquitto_sub --unix "$socket" -V $mqtt -d -t unix -F '%p' -C 1 >"$work/got" 2>&1 &
        sub=$!
        for _ in $(seq 200); do if grep -q '^Subscribed' "$work/got"; then break; fi; sleep 0.05; done
        timeout 20 mosquitto_pub --unix "$socket" -V $mqtt -q 2 -t unix -m "$mqtt here"
        wait "$sub"
        grep -q "^$mqtt here$" "$work/got"
    done
    if [ $round = second ]; then break; fi
    # What a broker that is killed leaves is no hindrance to the next.
    kill -KILL "$broker"
    wait "$broker" || true
    test -S "$socket"
done
kill -TERM "$broker"
wait "$broker"
broker=""
test ! -e "$socket"

begin "WebSocket and the PROXY protocol, as curl sees them"
cat >"$work/sluice.toml" <<END
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
END
: >"$work/log"
start
status() { curl -s -o "$work/said" -w '%{http_code}' --max-time 20 "$@" || true; }
upgrade=(-H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13'
    -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' --http1.1)
test "$(status "http://localhost:${ports[0]}/mqtt")" = 426
test "$(status "${upgrade[@]}" "http://localhost:${ports[0]}/other")" = 404
test "$(status "${upgrade[@]}" "http://localhost:${ports[0]}/mqtt")" = 400
grep -q 'subprotocol' "$work/said"
proxied=(--haproxy-protocol --cacert "$work/certs/ca.pem" "https://localhost:${ports[1]}/mqtt")
test "$(status "${upgrade[@]}" "${proxied[@]}")" = 400
test "$(status "${upgrade[@]}" "${proxied[@]:1}")" = 000

kill -TERM "$broker"
wait "$broker"
broker=""

begin "limits: packets, connections of a listener, a user's connections, messages in a second"
printf 'one:1\ntwo:2\nslow:3\n' | "$sluice" passwd "$work/limited" --batch >/dev/null
cat >"$work/sluice.toml" <<END
shards = 2
[[listener]]
bind = "127.0.0.1:0"
[listener.limits]
max_packet_size = "1KiB"
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
END
: >"$work/log"
start
head -c 900 /dev/zero | tr '\0' x >"$work/small"
head -c 1100 /dev/zero | tr '\0' x >"$work/large"
for version in mqttv31 mqttv311 mqttv5; do
    sent=(-h 127.0.0.1 -p "${ports[0]}" -u two -P 2 -V "$version" -q 1 -t t)
    timeout 20 mosquitto_pub "${sent[@]}" -f "$work/small"
    # A client of version 5 knows the limit, and does not send.
    if timeout 20 mosquitto_pub "${sent[@]}" -f "$work/large" >"$work/said" 2>&1 && [ $version != mqttv5 ]; then
        echo "a packet that is too large was taken" >&2
        exit 1
    fi
done
test "$(grep -c 'closed: packet too large' "$work/log")" = 2

# Subscribes in the background, and waits until that is done; its process is $sub.
subscribe() {
    : >"$work/got"
    timeout 60 stdbuf -oL mosquitto_sub -h 127.0.0.1 -d -F '%p' "$@" >"$work/got" 2>&1 &
    sub=$!
    for _ in $(seq 200); do if grep -q '^Subscribed' "$work/got"; then return 0; fi; sleep 0.05; done
    cat "$work/got" >&2
    return 1
}
leave() { kill "$sub"; wait "$sub" || true; }

subscribe -p "${ports[0]}" -u one -P 1 -t t
refused 'quota' -V mqttv5 -u one -P 1
refused . -u one -P 1
allowed -u two -P 2
leave
wait_until() { for _ in $(seq 200); do if "$@"; then return 0; fi; sleep 0.05; done; return 1; }
wait_until allowed -V mqttv5 -u one -P 1

subscribe -p "${ports[1]}" -t t
if timeout 20 mosquitto_pub -h 127.0.0.1 -p "${ports[1]}" -t t -m m >"$work/said" 2>&1; then
    echo "a listener took more connections than it may" >&2
    exit 1
fi
wait_for 'max_connections of the listener'
allowed -u two -P 2
leave

# A burst of five, and then five a second; none is lost.
subscribe -p "${ports[0]}" -u two -P 2 -t rate -C 15
began=$(date +%s%N)
seq 15 | timeout 20 mosquitto_pub -h 127.0.0.1 -p "${ports[0]}" -u slow -P 3 -t rate -q 1 -l
wait "$sub"
took=$((($(date +%s%N) - began) / 1000000))
test "$(grep -c '^[0-9]*$' "$work/got")" = 15
if [ "$took" -lt 1800 ]; then echo "15 messages at 5 a second took $took ms" >&2; exit 1; fi
wait_for 'publishes more than it may'

begin "SIGHUP changes limits, and says what it cannot change"
sed -i 's/^max_connections = 1$/max_connections = 2/; s/^shards = 2$/shards = 1/' "$work/sluice.toml"
: >"$work/log"
kill -HUP "$broker"
wait_for 'read again'
grep -q 'next start: shards$' "$work/log"
subscribe -p "${ports[1]}" -t t
timeout 20 mosquitto_pub -h 127.0.0.1 -p "${ports[1]}" -t t -m m
leave

kill -TERM "$broker"
wait "$broker"
broker=""
echo "front: all right"
