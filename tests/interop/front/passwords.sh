#!/usr/bin/env bash
# Users with passwords: the files of sluice and of mosquitto, bans, SCRAM-SHA-256. passwords.sh PROGRAM
source "$(dirname "$0")/common.sh"

begin "passwords of sluice and of mosquitto"
users=$work/users
mosquitto_passwd -b -c "$users" old secret
mosquitto_passwd -b -H sha512 "$users" older secret
echo secret | "$sluice" passwd "$users" new >/dev/null
printf 'one:1\ntwo:2\n' | "$sluice" passwd "$users" --batch >/dev/null
cat >"$work/sluice.toml" <<TOML
[[listener]]
bind = "127.0.0.1:0"
[auth]
password_file = "$users"
[auth.ban]
failures_by_address = "unlimited"
failures_by_user = 8
TOML
start
for version in mqttv31 mqttv311 mqttv5; do
    for user in old older new; do allowed -V "$version" -u "$user" -P secret; done
    refused 'bad user \?name or password' -V "$version" -u old -P wrong
    refused 'bad user \?name or password' -V "$version" -u nobody -P secret
    refused 'bad user \?name or password' -V "$version" -u old
    refused 'ot authori' -V "$version"
done
allowed -u one -P 1
allowed -u two -P 2

begin "SIGHUP takes in users that were added and removed"
"$sluice" passwd "$users" one --delete >/dev/null
echo secret | "$sluice" passwd "$users" late >/dev/null
refused 'ot authori\|bad user' -u late -P secret
reload
allowed -u late -P secret
refused 'ot authori\|bad user' -u one -P 1

begin "who guesses is banned, until SIGHUP lifts it"
for _ in 1 2 3 4 5 6 7 8; do refused 'bad user \?name or password' -V mqttv5 -u two -P guess; done
refused 'banned' -V mqttv5 -u two -P 2
refused 'ot authori' -V mqttv311 -u two -P 2
wait_for 'user "two" is banned'
allowed -u new -P secret
echo 'exempt_users = ["two"]' >>"$work/sluice.toml"
reload
allowed -V mqttv5 -u two -P 2
stop

begin "SCRAM-SHA-256, by MQTT.js"
echo secret | "$sluice" passwd "$work/scram" 'ann,x=1' --scram >/dev/null
echo other | "$sluice" passwd "$work/scram" bob --scram >/dev/null
cat >"$work/sluice.toml" <<TOML
shards = 2
[[listener]]
bind = "127.0.0.1:0"
[auth]
password_file = "$work/scram"
TOML
start
timeout 60 node "$interop/mqttjs_scram.mjs" 127.0.0.1 "${ports[0]}" 'ann,x=1' secret bob other
for version in mqttv311 mqttv5; do allowed -V $version -u 'ann,x=1' -P secret; done
stop
