#!/bin/sh
# Installs what the demo, the tests and the benchmark need besides a Rust toolchain: Chromium, and a C
# compiler for the TLS library. Each word on the command line adds one more thing:
#
#   nginx    the server of that name
#   redis    the server of that name
#   systemd  what checks its units
#   xvfb     a screen that nobody sees
#   node     Node.js, and the npm clients of tests/clients/package-lock.json, in target/clients
#   python   Python, and the packages of tests/clients/requirements.txt, in target/clients/venv
#   kustomize  what renders docker/kubernetes: that program, or kubectl, which has it inside
#
# Does nothing where they are there already.
set -eu
cd "$(dirname "$0")/.."

has() { command -v "$1" >/dev/null 2>&1; }
# Outside root's PATH on Debian.
has_nginx() { has nginx || [ -x /usr/sbin/nginx ]; }
# Debian ships the module that fills a new environment as a package of its own.
has_venv() { has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }
# Debian 12 has neither in a version that knows components: then there is none, and the tests that render say so.
kustomize_package() {
    for package in kustomize kubectl; do
        if apt-cache show "$package" >/dev/null 2>&1; then
            echo " $package"
            return
        fi
    done
    echo "kubectl is in no package here, so the overlays in docker/kubernetes are not rendered: https://kubernetes.io/docs/tasks/tools/" >&2
}
wants() { case " $words " in *" $1 "*) ;; *) false ;; esac; }

words="$*"
missing=""
has chromium || has chromium-browser || has google-chrome || has google-chrome-stable ||
    [ -n "${TABPROXY_CHROMIUM:-}" ] || missing="$missing chromium"
has cc || missing="$missing gcc libc6-dev"
nginx=""
redis=""
for word in "$@"; do
    case "$word" in
        nginx) has_nginx || nginx=" nginx-light" ;;
        redis) has redis-server || redis=" redis-server" ;;
        systemd) has systemd-analyze || missing="$missing systemd" ;;
        xvfb) has Xvfb || missing="$missing xvfb" ;;
        node)
            has node || missing="$missing nodejs"
            has npm || missing="$missing npm"
            ;;
        kustomize) has kustomize || has kubectl || missing="$missing$(kustomize_package)" ;;
        python) has_venv || missing="$missing python3 python3-venv" ;;
        *) echo "$0: what is $word?" >&2 && exit 2 ;;
    esac
done
missing="$missing$nginx$redis"

as_root=""
if [ "$(id -u)" != 0 ]; then
    has sudo && as_root="sudo"
fi
if [ -z "$missing" ]; then
    :
elif has apt-get && { [ "$(id -u)" = 0 ] || [ -n "$as_root" ]; }; then
    echo "installing:$missing" >&2
    $as_root apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
    # Only the programs are wanted, not servers on their usual ports.
    if [ -d /run/systemd/system ]; then
        [ -z "$nginx" ] || $as_root systemctl disable --now --quiet nginx
        [ -z "$redis" ] || $as_root systemctl disable --now --quiet redis-server
    fi
else
    echo "please install:$missing (or name a browser in TABPROXY_CHROMIUM)" >&2
    exit 1
fi

# What is listed beside the tests goes to where it does not show, again whenever the list has changed. The copy of
# the list is written last, so that an installation that broke off is not taken for a whole one.
listed=tests/clients
there=target/clients

if wants node && ! cmp -s "$listed/package-lock.json" "$there/node_modules/.installed"; then
    node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || {
        echo "the npm clients of the tests need Node.js 18 or later; this is $(node --version)" >&2
        exit 1
    }
    echo "installing the npm clients of the tests in $there" >&2
    mkdir -p "$there"
    cp "$listed/package.json" "$listed/package-lock.json" "$there/"
    # No package has a script of its own to run.
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error --prefix "$there" >/dev/null || {
        echo "npm could not install $listed/package-lock.json: is the npm registry within reach?" >&2
        exit 1
    }
    cp "$listed/package-lock.json" "$there/node_modules/.installed"
fi

if wants python && ! cmp -s "$listed/requirements.txt" "$there/venv/.installed"; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "the Python packages of the tests need Python 3.11 or later; this is $(python3 --version)" >&2
        exit 1
    }
    echo "installing the Python clients of the tests in $there/venv" >&2
    rm -rf "$there/venv"
    python3 -m venv "$there/venv"
    "$there/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$listed/requirements.txt" || {
        echo "pip could not install $listed/requirements.txt: is the package index within reach?" >&2
        exit 1
    }
    cp "$listed/requirements.txt" "$there/venv/.installed"
fi
