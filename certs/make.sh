#!/usr/bin/env bash
# Makes development certificates in this directory, in the place of those that are there; further arguments
# as for `sluice certs`. SLUICE names the program; without it, it is built.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${SLUICE:-}" ]; then
    cargo build --quiet --release --bin sluice
    SLUICE=target/release/sluice
fi
rm -f certs/*.pem certs/*.key
"$SLUICE" certs --out certs "$@"
