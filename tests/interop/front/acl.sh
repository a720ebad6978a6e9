#!/usr/bin/env bash
# Who may do what: an acl_file of Mosquitto, and rules in TOML. acl.sh PROGRAM
source "$(dirname "$0")/common.sh"

users=$work/users
printf '%s:secret\n' old new boss ann bob | "$sluice" passwd "$users" --batch >/dev/null
# One shard: what one client publishes after another was answered arrives in that order.
cat >"$work/base.toml" <<TOML
shards = 1
[[listener]]
bind = "127.0.0.1:0"
[auth]
password_file = "$users"
TOML
as() { local user=$1; shift; "$@" -u "$user" -P secret; }

begin "an acl_file of mosquitto: at delivery"
cat >"$work/acl" <<'TEXT'
user old
topic readwrite home/#
topic deny home/safe
user new
topic write home/#
user boss
topic read home/#
topic read from/#
pattern write from/%u
TEXT
{ cat "$work/base.toml"; printf '[acl]\nmosquitto_file = "%s"\n' "$work/acl"; } >"$work/sluice.toml"
start
for version in mqttv311 mqttv5; do
    # Whoever may read it is there to get it, so that the answer is not "no matching subscribers" (16).
    as boss subscribe -V $version -q 1 -t 'home/#' -C 2
    boss=$sub && mv "$work/got" "$work/boss"
    as old subscribe -V $version -q 1 -t 'home/#' -C 1
    as new answered 0 -V mqttv5 -t home/safe -m no
    as new answered 0 -V mqttv5 -t home/door -m yes
    received 'home/door yes'
    sub=$boss && mv "$work/boss" "$work/got"
    received 'home/safe no' 'home/door yes'
done

begin "an acl_file of mosquitto: at publish"
as new answered 135 -V mqttv5 -t elsewhere -m no
as old answered 135 -V mqttv5 -t home/safe -m no
as old publish -V mqttv5 -q 2 -t home/safe -m no
said 'Publish 1 failed: Not authorized'
as new answered 135 -V mqttv5 -t from/old -m no
as boss subscribe -t 'home/#' -t 'from/#' -C 3
for version in mqttv31 mqttv311; do
    # A client of 3.x cannot be told: it is answered as ever, and nobody gets it.
    as old answered 0 -V $version -t home/safe -m no
    as old answered 0 -V $version -t from/new -m no
done
as old answered 0 -V mqttv311 -t home/door -m open
as new answered 0 -V mqttv311 -t from/new -m first
as new answered 0 -V mqttv5 -t from/new -m second
received 'home/door open' 'from/new first' 'from/new second'

begin "an acl_file of mosquitto: at subscribe"
as boss subscription 128 -V mqttv311 -t elsewhere
as boss subscription 135 -V mqttv5 -t elsewhere
as old subscription 128 -V mqttv311 -t home/safe
as new subscription 135 -V mqttv5 -t 'home/#'
as boss subscription 1 -V mqttv311 -q 1 -t 'home/#'
as boss subscription 1 -V mqttv5 -q 1 -t 'home/#'
as boss subscription '0, 135' -V mqttv5 -t home/door -t elsewhere
as old subscription 135 -V mqttv5 -t home/safe
as old subscription 0 -V mqttv5 -t 'home/#'
# As in Mosquitto: some of it is allowed, and the rest is not delivered.
as boss subscription 0 -V mqttv5 -t '#'
stop

begin "a client of 3.x that publishes what it may not can be closed"
echo 'v3_publisher = "disconnect"' >>"$work/sluice.toml"
start
if as old publish -V mqttv311 -q 1 -t home/safe -m no -d; then fail "it was taken"; fi
said 'received CONNACK (0)'
said 'connection was lost'
wait_for 'closed: published where it may not'
as old answered 135 -V mqttv5 -t home/safe -m no
stop

begin "rules: a user, a group, a client identifier, QoS"
rules() {
    cat "$work/base.toml" - <<TOML
[acl]
default = "deny"
[[acl.group]]
name = "readers"
users = [$1]
[[acl.rule]]
effect = "allow"
topics = ["#"]
users = ["boss"]
[[acl.rule]]
effect = "allow"
action = "subscribe"
topics = ["news/#", "more/#"]
groups = ["readers"]
[[acl.rule]]
effect = "deny"
topics = ["devices/%c/secret"]
[[acl.rule]]
effect = "allow"
topics = ["devices/%c/#"]
max_qos = 1
retain = false
TOML
}
rules '"ann"' >"$work/sluice.toml"
start
as boss subscribe -t 'devices/#' -q 2
for user in ann bob; do
    as $user answered 0 -V mqttv5 -i thermo -t devices/thermo/state
    as $user answered 135 -V mqttv5 -i thermo -t devices/other/state
    as $user answered 135 -V mqttv5 -i thermo -t devices/thermo/secret
    as $user publish -V mqttv5 -i thermo -t devices/thermo/state -q 2
    said 'Publish 1 failed: Not authorized'
    as $user answered 135 -V mqttv5 -i thermo -t devices/thermo/state -r
    as $user answered 135 -V mqttv5 -t news/x
done
leave
as ann subscription 0 -V mqttv5 -t 'news/#'
as ann subscription 135 -V mqttv5 -t '#'
as bob subscription 135 -V mqttv5 -t 'news/#'
as bob subscription 128 -V mqttv311 -t 'news/#'
as bob subscription 1 -V mqttv5 -i thermo -q 2 -t 'devices/thermo/#'
as bob subscription 1 -V mqttv311 -i thermo -q 2 -t 'devices/thermo/#'
as bob subscription 135 -V mqttv5 -i other -t 'devices/thermo/#'

begin "rules: SIGHUP gives and takes rights"
as ann subscribe -t 'news/#' -t 'devices/thermo/#' -i thermo -q 1 -C 2
as boss answered 0 -V mqttv5 -t news/x -m before
rules '"bob"' >"$work/sluice.toml"
reload
as boss answered 16 -V mqttv5 -t news/x -m after
as boss answered 0 -V mqttv5 -t devices/thermo/x -m still
received 'news/x before' 'devices/thermo/x still'
as ann subscription 135 -V mqttv5 -t 'news/#'
as bob subscription 0 -V mqttv5 -t 'news/#'
sed -i 's/^default = .*/default = "maybe"/' "$work/sluice.toml"
reload 'acl.default'
as bob subscription 0 -V mqttv5 -t 'news/#'
as ann subscription 135 -V mqttv5 -t 'news/#'
stop
