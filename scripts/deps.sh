#!/bin/sh
# Installs what the demo, the tests and the benchmark need besides a Rust toolchain: Chromium, and a C
# compiler for the TLS library; with the words `nginx` and `systemd`, those too. Does nothing where they are there
# already.
set -eu

has() { command -v "$1" >/dev/null 2>&1; }
# Outside root's PATH on Debian.
has_nginx() { has nginx || [ -x /usr/sbin/nginx ]; }

missing=""
has chromium || has chromium-browser || has google-chrome || has google-chrome-stable ||
    [ -n "${TABPROXY_CHROMIUM:-}" ] || missing="$missing chromium"
has cc || missing="$missing gcc libc6-dev"
nginx=""
for word in "$@"; do
    case "$word" in
        nginx) has_nginx || nginx=" nginx-light" ;;
        systemd) has systemd-analyze || missing="$missing systemd" ;;
        *) echo "$0: what is $word?" >&2 && exit 2 ;;
    esac
done
missing="$missing$nginx"
[ -z "$missing" ] && exit 0

as_root=""
if [ "$(id -u)" != 0 ]; then
    has sudo && as_root="sudo"
fi
if has apt-get && { [ "$(id -u)" = 0 ] || [ -n "$as_root" ]; }; then
    echo "installing:$missing" >&2
    $as_root apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
    # Only the program is wanted, not a server on port 80.
    if [ -n "$nginx" ] && [ -d /run/systemd/system ]; then
        $as_root systemctl disable --now --quiet nginx
    fi
else
    echo "please install:$missing (or name a browser in TABPROXY_CHROMIUM)" >&2
    exit 1
fi
