#!/usr/bin/env bash
# TLS: versions, certificates of both sides, resumption, certificates as users. tls.sh PROGRAM
source "$(dirname "$0")/common.sh"

"$sluice" certs --out "$work/certs" --client ann >/dev/null
"$sluice" certs --out "$work/other" --client eve >/dev/null
"$sluice" certs --out "$work/named" --host broker.test >/dev/null
ca=(--cafile "$work/certs/ca.pem")
tls() { local port=$1; shift; publish -h localhost -p "$port" -q 1 "${ca[@]}" "$@"; }

# $1 is what the broker says of a handshake that fails, the rest is for tls.
no_handshake() {
    local words=$1
    shift
    : >"$work/log"
    if tls "$@"; then fail "let in: $*"; fi
    wait_for "closed: TLS: .*$words"
}

# With a certificate and its key, as $1.pem and $1.key.
with() { local name=$1; shift; "$@" --cert "$work/$name.pem" --key "$work/$name.key"; }

# A CA of openssl with the key of the other one.
mkdir authority
cat >authority/ca.cnf <<TEXT
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
[sensor]
basicConstraints = CA:FALSE
subjectAltName = DNS:sensor-7.test
[list]
authorityKeyIdentifier = keyid
TEXT
: >authority/index.txt
echo 01 >authority/serial
authority() {
    openssl ca -batch -notext -config authority/ca.cnf "$@" >authority/log 2>&1 || { cat authority/log >&2; return 1; }
}
sign() {
    local name=$1
    shift
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" \
        -keyout "$name.key" -out "$name.csr" 2>authority/log
    authority -in "$name.csr" -out "$name.pem" "$@"
}

s_client() { timeout 20 openssl s_client -CAfile "$work/certs/ca.pem" "$@" >"$work/said" 2>&1; }

begin "versions, and who has which certificate"
listener() {
    cat <<TOML
[[listener]]
bind = "127.0.0.1:0"
[listener.tls]
certificate = "$work/certs/server.pem"
key = "$work/certs/server.key"
TOML
}
{
    listener
    printf '[[listener.tls.more]]\ncertificate = "%s"\nkey = "%s"\n' "$work/named/server.pem" "$work/named/server.key"
    listener
    cat <<TOML
client_certificates = "required"
client_ca = "$work/certs/ca.pem"
TOML
} >"$work/sluice.toml"
start
for version in tlsv1.2 tlsv1.3; do
    for mqtt in mqttv31 mqttv311 mqttv5; do tls "${ports[0]}" --tls-version $version -V $mqtt; done
    no_handshake 'received fatal alert: \(DecryptError\|UnknownCA\)' "${ports[0]}" --tls-version $version --cafile "$work/other/ca.pem"
    with certs/client tls "${ports[1]}" --tls-version $version
    no_handshake 'peer sent no certificates' "${ports[1]}" --tls-version $version
    with other/client no_handshake 'invalid peer certificate: BadSignature' "${ports[1]}" --tls-version $version
done

begin "what openssl sees: the version, ALPN, and a certificate for each name"
for version in 1.2 1.3; do
    s_client -connect "localhost:${ports[0]}" -tls${version/./_} -alpn mqtt -verify_return_error </dev/null
    said 'Verify return code: 0 (ok)'
    said 'ALPN protocol: mqtt'
    said "^New, TLSv$version"
done
shown() { openssl x509 -in "$1" -noout -fingerprint -sha256; }
for name in localhost broker.test elsewhere.test; do
    s_client -connect "localhost:${ports[0]}" -servername $name </dev/null
    wanted=certs
    if [ $name = broker.test ]; then wanted=named; fi
    diff <(shown "$work/said") <(shown "$work/$wanted/server.pem")
done

begin "sessions resume"
# A CONNECT of MQTT 3.1.1, and a DISCONNECT: a ticket comes after the handshake, and -ign_eof has openssl wait
# until the broker closes.
visit() {
    printf '\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00\xe0\x00' | s_client -ign_eof -connect "localhost:${ports[0]}" "$@"
}
for version in 1.2 1.3; do
    visit -tls${version/./_} -sess_out "$work/session"
    grep -aq "^New, TLSv$version" "$work/said"
    for _ in 1 2; do
        visit -tls${version/./_} -sess_in "$work/session"
        grep -aq "^Reused, TLSv$version" "$work/said"
        # The broker spoke: the CONNACK is in there, and it closed.
        grep -aqP '\x20\x02\x00\x00' "$work/said"
    done
done
stop

begin "the name in a certificate is the user, and rules can be for it"
{
    for name in common_name subject_alternative_name; do
        listener
        cat <<TOML
client_certificates = "required"
client_ca = "$work/certs/ca.pem"
certificate_user = "$name"
TOML
    done
    cat <<TOML
[acl]
default = "deny"
[[acl.rule]]
effect = "allow"
topics = ["%u/#"]
[[acl.rule]]
effect = "allow"
topics = ["certified"]
certificates = ["ann"]
TOML
} >"$work/sluice.toml"
start
sign sensor -extensions sensor
certificates=(certs/client sensor)
names=(ann sensor-7.test)
certified=(16 135)
for at in 0 1; do
    # Whatever user name the client gives.
    for given in '' '-u eve'; do
        # shellcheck disable=SC2206 # two words, or none
        identified=(-h localhost -p "${ports[at]}" "${ca[@]}" -V mqttv5 $given)
        with "${certificates[at]}" answered 16 "${identified[@]}" -t "${names[at]}/x"
        with "${certificates[at]}" answered 135 "${identified[@]}" -t eve/x
        with "${certificates[at]}" answered "${certified[at]}" "${identified[@]}" -t certified
        with "${certificates[at]}" subscription 0 "${identified[@]}" -t "${names[at]}/x"
        with "${certificates[at]}" subscription 135 "${identified[@]}" -t eve/x
    done
done
stop

begin "certificates that have expired or were revoked"
sign valid
sign expired -startdate 20200101000000Z -enddate 20200201000000Z
sign revoked
authority -gencrl -out "$work/crl.pem"
{
    listener
    cat <<TOML
client_certificates = "required"
client_ca = "$work/certs/ca.pem"
client_crl = "$work/crl.pem"
TOML
} >"$work/sluice.toml"
start
for version in tlsv1.2 tlsv1.3; do
    for name in valid revoked; do with $name tls "${ports[0]}" --tls-version $version; done
    with expired no_handshake 'invalid peer certificate: certificate expired' "${ports[0]}" --tls-version $version
done

begin "SIGHUP takes in what was revoked, and a broken list is not taken"
with revoked subscribe -h localhost "${ca[@]}" -t t -q 1 -C 3
connected() { with valid tls "${ports[0]}" -m "$1"; }
connected first
authority -revoke "$work/revoked.pem"
authority -gencrl -out "$work/crl.pem"
reload
check_revoked() {
    for version in tlsv1.2 tlsv1.3; do
        with valid tls "${ports[0]}" --tls-version $version -t other
        with revoked no_handshake 'invalid peer certificate: Revoked' "${ports[0]}" --tls-version $version
    done
}
check_revoked
connected second
printf -- '-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n' >"$work/crl.pem"
reload "$work/crl.pem"
check_revoked
connected third
received 't first' 't second' 't third'
stop
if "$sluice" --config "$work/sluice.toml" 2>"$work/said"; then fail "started with a broken list"; fi
said "$work/crl.pem"
