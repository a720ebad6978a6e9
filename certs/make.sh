#!/usr/bin/env bash
# Makes development certificates in this directory; further arguments as for `sluice certs`.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -f certs/*.pem certs/*.key
cargo run --quiet --release --bin sluice -- certs --out certs "$@"
