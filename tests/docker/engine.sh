# Sourced by run.sh: a Docker engine, and images to build upon.
#
# With DOCKER_HOST set, that engine is used; otherwise one is started for the test, with a socket and a directory
# of its own (target/docker, which keeps the layers), and ended with it. The base images are made with debootstrap,
# so that nothing is pulled; with PULL=1 they are those that the Dockerfile and the compose file name.

# Installs what is missing, on Debian and Ubuntu.
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 && return
    echo "installing: $2"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y "$2"; } >"$work/apt.log" 2>&1 ||
        fail "please install $1 (see $work/apt.log)"
}

start_engine() {
    need docker docker.io
    docker compose version >/dev/null 2>&1 || need docker-compose docker-compose
    [ -n "${DOCKER_HOST:-}" ] && return
    [ "$(id -u)" = 0 ] || fail "a Docker engine is started by root only; set DOCKER_HOST to use one that runs"
    need dockerd docker.io
    # The path of a socket has to be short.
    sockets=$(mktemp -d)
    export DOCKER_HOST="unix://$sockets/docker.sock"
    for storage in "" "--storage-driver=vfs"; do
        # shellcheck disable=SC2086 # none or one word
        dockerd --host "$DOCKER_HOST" --pidfile "$sockets/pid" --exec-root "$sockets/exec" \
            --data-root "$work/engine" $storage >"$work/dockerd.log" 2>&1 &
        engine=$!
        for _ in $(seq 60); do
            docker info >/dev/null 2>&1 && return
            kill -0 "$engine" 2>/dev/null || break
            sleep 0.5
        done
        kill "$engine" 2>/dev/null || true
        wait "$engine" || true
    done
    fail "no Docker engine starts here, see $work/dockerd.log"
}

stop_engine() {
    [ -n "${engine:-}" ] || return 0
    kill "$engine" 2>/dev/null || true
    wait "$engine" || true
    rm -rf "$sockets"
}

has_image() { [ -n "$(docker images -q "$1")" ]; }

make_bases() {
    if [ -n "${PULL:-}" ]; then
        BUILD_BASE=rust:1-slim-trixie RUN_BASE=debian:trixie-slim NGINX_IMAGE=nginx:stable
        export BUILD_BASE RUN_BASE NGINX_IMAGE
        return
    fi
    export BUILD_BASE=tabproxy-test/rust RUN_BASE=tabproxy-test/debian NGINX_IMAGE=tabproxy-test/nginx
    has_image $RUN_BASE || make_debian
    has_image $BUILD_BASE || make_rust
    has_image $NGINX_IMAGE || make_nginx
}

# Debian as its slim image is: no documentation, manuals, translations.
make_debian() {
    need debootstrap debootstrap
    echo "a base image with debootstrap"
    root=$work/debian
    rm -rf "$root"
    debootstrap --variant=minbase trixie "$root" http://deb.debian.org/debian >"$work/debootstrap.log"
    for suite in trixie trixie-updates; do echo "deb http://deb.debian.org/debian $suite main"; done >"$root/etc/apt/sources.list"
    echo "deb http://deb.debian.org/debian-security trixie-security main" >>"$root/etc/apt/sources.list"
    for what in doc man locale; do
        echo "path-exclude /usr/share/$what/*" >>"$root/etc/dpkg/dpkg.cfg.d/slim"
        rm -rf "$root/usr/share/$what"/*
    done
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/log/*
    tar -C "$root" -c . | docker import - $RUN_BASE >/dev/null
    rm -rf "$root"
}

# The same with this machine's Rust toolchain, and with the certificates that this machine trusts.
make_rust() {
    echo "a base image with this machine's Rust toolchain"
    context=$work/rust
    rm -rf "$context"
    mkdir -p "$context/usr/bin" "$context/usr/lib"
    sysroot=$(rustc --print sysroot)
    cp -a "$sysroot/bin/rustc" "$sysroot/bin/cargo" "$context/usr/bin/"
    cp -a "$sysroot"/lib/*.so* "$sysroot/lib/rustlib" "$context/usr/lib/"
    cp -L "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$context/trusted.crt"
    docker build -q -t $BUILD_BASE -f - "$context" <<-EOF >/dev/null
	FROM $RUN_BASE
	RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && mkdir -p /etc/ssl/certs
	COPY usr /usr/local
	COPY trusted.crt /etc/ssl/certs/ca-certificates.crt
	EOF
    rm -rf "$context"
}

# Debian's nginx, filling in templates at its start as the nginx image does.
make_nginx() {
    echo "an nginx image from Debian's packages"
    context=$work/nginx
    mkdir -p "$context"
    cat >"$context/start" <<-'EOF'
	#!/bin/sh
	names=$(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/${\1}/p' | tr '\n' ' ')
	envsubst "$names" </etc/nginx/templates/default.conf.template >/etc/nginx/conf.d/default.conf
	exec nginx -g "daemon off;"
	EOF
    chmod +x "$context/start"
    docker build -q -t $NGINX_IMAGE -f - "$context" <<-EOF >/dev/null
	FROM $RUN_BASE
	RUN apt-get update && apt-get install -y --no-install-recommends nginx-light gettext-base \\
	    && rm -rf /var/lib/apt/lists/* /etc/nginx/sites-enabled/* \\
	    && ln -sf /dev/stdout /var/log/nginx/access.log && ln -sf /dev/stderr /var/log/nginx/error.log
	COPY start /start
	STOPSIGNAL SIGQUIT
	CMD ["/start"]
	EOF
}
