#!/usr/bin/env bash
# Who comes in, how, and what they may do there, as other people's programs see it: front.sh PROGRAM, where
# PROGRAM is a build of sluice. Each part can be called alone, in the same way.
set -euo pipefail

for part in passwords tokens http acl tls transports limits; do
    "$(dirname "$0")/front/$part.sh" "$1"
done
echo "front: all right"
