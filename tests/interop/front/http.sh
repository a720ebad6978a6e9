#!/usr/bin/env bash
# A server that is asked over HTTP who may come in, is down for a while, and hangs. http.sh PROGRAM
source "$(dirname "$0")/common.sh"

cat >"$work/server.py" <<'PY'
import http.server, json, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        print("asked about", asked["username"], flush=True)
        if asked["username"] == "hang":
            time.sleep(60)
        is_right = (asked["username"], asked["password"]) == ("hal", "9000")
        body = json.dumps({"result": "allow" if is_right else "deny"}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("port", server.server_address[1], flush=True)
server.serve_forever()
PY
# Starts the server at a port, and sets $http to that; 0: any.
serve() {
    : >"$work/served"
    python3 "$work/server.py" "$1" >"$work/served" 2>&1 &
    helper=$!
    until_it grep -q '^port ' "$work/served"
    http=$(sed -n 's/^port //p' "$work/served")
}
end_server() { kill "$helper"; wait "$helper" || true; helper=""; }
bad='bad user \?name or password'

begin "it says who comes in"
users=$work/users
echo secret | "$sluice" passwd "$users" new >/dev/null
serve 0
cat >"$work/sluice.toml" <<TOML
[[listener]]
bind = "127.0.0.1:0"
[auth]
anonymous = true
password_file = "$users"
[auth.http]
url = "http://127.0.0.1:$http/authenticate"
cache_time = "10m"
timeout = "2s"
TOML
start
for version in mqttv311 mqttv5; do
    allowed -V $version -u hal -P 9000 -i known
    refused "$bad" -V $version -u hal -P 9001
    refused "$bad" -V $version -u eve -P 9000
done
grep -q 'asked about eve' "$work/served"

begin "it hangs, and others come in meanwhile"
began=$(date +%s%N)
timeout 20 mosquitto_pub -h 127.0.0.1 -p "${ports[0]}" -V mqttv5 -u hang -P x -t t -m m >"$work/hung" 2>&1 &
hung=$!
until_it grep -q 'asked about hang' "$work/served"
allowed -u hal -P 9000 -i known
kill -0 "$hung"
if wait "$hung"; then fail "let in without an answer"; fi
took=$((($(date +%s%N) - began) / 1000000))
grep -q 'er unavailable' "$work/hung"
if [ $took -lt 2000 ] || [ $took -gt 4500 ]; then fail "given up after $took ms"; fi
wait_for "WARN.*http://127.0.0.1:$http/authenticate gives no answer, and a client is refused"

begin "it is down"
end_server
: >"$work/log"
for version in mqttv311 mqttv5; do
    refused 'er unavailable' -V $version -u hal -P 9000 -i new
    # Who is in the file, gives no name, or was asked about lately has no need of the server.
    allowed -V $version -u new -P secret
    allowed -V $version
    allowed -V $version -u hal -P 9000 -i known
    refused "$bad" -V $version -u new -P wrong
done
wait_for 'refused: nobody can say now whether it may come in'

begin "it is down, and clients are let in"
echo 'without_answer = "allow"' >>"$work/sluice.toml"
reload
for version in mqttv311 mqttv5; do allowed -V $version -u hal -P 9001; done
wait_for 'WARN.*gives no answer, and a client is let in'

begin "it is there again"
serve "$http"
for version in mqttv311 mqttv5; do
    allowed -V $version -u hal -P 9000
    refused "$bad" -V $version -u hal -P 9001
done
grep -q 'asked about hal' "$work/served"
end_server
stop
