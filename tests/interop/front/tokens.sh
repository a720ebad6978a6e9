#!/usr/bin/env bash
# Tokens that openssl has signed. tokens.sh PROGRAM
source "$(dirname "$0")/common.sh"

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

# A token with these claims beside "sub", signed by the algorithm $alg.
token() {
    local text signature
    text=$(printf '{"alg":"%s"}' "$alg" | base64url).$(printf '{"sub":"t",%s}' "$1" | base64url)
    case $alg in
    RS256) signature=$(printf %s "$text" | openssl dgst -sha256 -sign "$work/token.key" | base64url) ;;
    HS256) signature=$(printf %s "$text" | openssl dgst -sha256 -hmac "$(cat "$work/token.pub")" -binary | base64url) ;;
    # openssl writes two INTEGER of DER, a token has two numbers of 32 bytes.
    ES256) signature=$(printf %s "$text" | openssl dgst -sha256 -sign "$work/token.key" |
        openssl asn1parse -inform DER | sed -n 's/.*INTEGER *://p' |
        while read -r number; do printf '%64s' "$number" | tr ' ' 0; done |
        sed 's/../\\x&/g' | xargs -0 printf '%b' | base64url) ;;
    esac
    printf '%s.%s' "$text" "$signature"
}
in_seconds() { printf '"exp":%s' $(($(date +%s) + $1)); }

for alg in RS256 HS256 ES256; do
    begin "$alg"
    case $alg in
    RS256) openssl genpkey -quiet -algorithm RSA -out "$work/token.key" ;;
    ES256) openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/token.key" ;;
    esac
    if [ $alg = HS256 ]; then
        printf 'a secret of thirty-two characters' >"$work/token.pub"
    else
        openssl pkey -in "$work/token.key" -pubout -out "$work/token.pub"
    fi
    cat >"$work/sluice.toml" <<TOML
shards = 1
[[listener]]
bind = "127.0.0.1:0"
[auth.jwt]
algorithm = "$alg"
key_file = "$work/token.pub"
leeway = "0s"
[acl]
default = "allow"
TOML
    start
    good=$(token "$(in_seconds 600)")
    forged=${good%.*}.$(printf '{"sub":"t",%s}' "$(in_seconds 900)" | base64url | head -c 43)
    for version in mqttv31 mqttv311 mqttv5; do
        allowed -V $version -u t -P "$good"
        refused 'ot authori' -V $version -u t -P "$(token "$(in_seconds -60)")"
        refused 'bad user' -V $version -u t -P "$forged"
    done
    if [ $alg != ES256 ]; then stop; fi
done

begin "a claim says what its client may do"
may=$(token "$(in_seconds 600)"',"acl":{"publish":["a/%u/#"],"subscribe":["b/#"]}')
answered '\(0\|16\)' -V mqttv5 -u t -P "$may" -t a/t/x
answered 135 -V mqttv5 -u t -P "$may" -t a/eve/x
subscription 0 -V mqttv5 -u t -P "$may" -t 'b/#'
subscription 135 -V mqttv5 -u t -P "$may" -t 'a/#'
subscription 128 -V mqttv311 -u t -P "$may" -t 'a/#'

begin "who is connected when its token expires is disconnected"
for version in mqttv311 mqttv5; do
    brief=$(token "$(in_seconds 3)")
    : >"$work/log"
    subscribe -V $version -u t -P "$brief" -t t
    wait_for 'closed: its login has expired'
    if [ $version = mqttv5 ]; then until_it grep -q '^Received DISCONNECT (160)' "$work/got"; fi
    leave
done
stop
