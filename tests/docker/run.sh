#!/bin/bash
# make test-docker: the image and the compose files, on a real Docker engine, by the commands that the README names.
#
# A shell script because it tests what people type. It is not a part of `make test`: it wants root, a quarter of an
# hour and some gigabytes of disk. Each line `ok` is something that was looked at; the first thing that is wrong
# ends it with exit code 1. PICTURES=docs also takes the pictures of nginx's pages.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$PWD/target/docker
mkdir -p "$work"

fail() { echo "FAILED: $*" >&2; exit 1; }
ok() { echo "ok  $*"; }
# shellcheck source=tests/docker/engine.sh
. tests/docker/engine.sh

# A port of this machine that is free now.
free_port() {
    local port
    for port in $(shuf -i 20000-29999 -n 50); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port" && return; }
    done
}
# until_true SECONDS WHAT COMMAND…: waits for a condition.
until_true() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "$what (still not after a long while)"
        sleep 0.2
    done
    ok "$what"
}
has() { grep -qF -- "$2" <<<"$1" || fail "not in the text: $2 -- the text: $1"; }
has_not() { ! grep -qF -- "$2" <<<"$1" || fail "in the text: $2 -- the text: $1"; }
one_line() { [ "$(wc -l <<<"$1")" = 1 ] || fail "more than one line: $1"; }
is_200() { [ "$(curl -s -o /dev/null -w '%{http_code}' "$1")" = 200 ]; }
prompt() {
    echo '{"action":"next","model":"auto","parent_message_id":"p","messages":[{"id":"'"$1"'","author":{"role":"user"},'\
'"content":{"content_type":"text","parts":["'"$2"'"]}}]}'
}
# ask URL ID PROMPT: streams a conversation.
ask() {
    curl -sSN --max-time 60 "$1/backend-api/conversation" -H 'content-type: application/json' \
        -H 'accept: text/event-stream' -d "$(prompt "$2" "$3")"
}
# stops_cleanly CONTAINER: docker stop, within Docker's 10 seconds, with exit code 0.
stops_cleanly() {
    local began=$SECONDS code
    docker stop "$1" >/dev/null
    code=$(docker inspect -f '{{.State.ExitCode}}' "$1")
    [ "$code" = 0 ] || fail "exit code $code of $1: $(docker logs --tail 5 "$1" 2>&1)"
    [ $((SECONDS - began)) -lt 10 ] || fail "$1 took too long to stop"
    ok "docker stop: exit code 0 after $((SECONDS - began)) s"
}

compose() {
    if docker compose version >/dev/null 2>&1; then
        (cd docker && docker compose -f compose.yaml -f compose.demo.yaml "$@")
    else
        (cd docker && docker-compose -f compose.yaml -f compose.demo.yaml "$@")
    fi
}

clean() {
    {
        compose down -v
        docker rm -f -v tabproxy-test
        docker volume rm tabproxy-test
    } >/dev/null 2>&1 || true
}
dotenv=
finish() {
    clean
    [ -z "$dotenv" ] || rm -f "$dotenv"
    stop_engine
}
trap finish EXIT

# A network of the test's own choosing, no proxy of this machine's, nothing from a .env file.
unset HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy
for name in $(compgen -e TABPROXY_ || true); do unset "$name"; done
export COMPOSE_PROJECT_NAME=tabproxy-test TABPROXY_IMAGE=tabproxy-test/tabproxy
image=$TABPROXY_IMAGE

start_engine
clean
make_bases

echo "== the image"
docker build -f docker/Dockerfile --build-arg BUILD_BASE=$BUILD_BASE --build-arg RUN_BASE=$RUN_BASE -t $image . \
    >"$work/build.log" 2>&1 || fail "the image is not built: $(tail -5 "$work/build.log")"
ok "built, $(($(docker image inspect -f '{{.Size}}' $image) / 1000000)) MB"
[ "$(docker run --rm --entrypoint id $image -un)" = tabproxy ] && ok "runs as a user of its own"

echo "== bad input: one line each, with the remedy"
refused() { # WORDS OPTIONS…
    local words=$1 said
    shift
    said=$(docker run --rm "$@" $image 2>&1) && fail "started with $*"
    one_line "$said"
    has "$said" "$words"
    ok "$said"
}
refused TABPROXY_DRAIN -e TABPROXY_DRAIN=soon
refused HTTPS_PROXY -e HTTPS_PROXY=gopher://user:secret@proxy:1
refused "make it writable for user 1000" -v tabproxy-test:/var/lib/tabproxy:ro
refused TABPROXY_LOG_FILE -e TABPROXY_LOG_FILE=/nowhere/tabproxy.log

echo "== docker run"
has "$(docker run --rm --shm-size=1gb $image check)" "all is in place"
ok "check: all is in place"
said=$(docker run --rm --shm-size=1gb $image demo --once 2>&1) || fail "$said"
has "$said" "head after"
has "$said" "sandbox: it is off"
has_not "$said" /dev/shm
ok "a conversation; Docker's own seccomp profile allows no sandbox, and the log says so"
said=$(docker run --rm --cap-drop ALL --security-opt seccomp=docker/seccomp.json --security-opt no-new-privileges \
    $image demo --once 2>&1) || fail "$said"
has "$said" "head after"
has "$said" "/dev/shm has only 64 MiB free"
has "$said" "--shm-size=1gb"
has_not "$said" sandbox
ok "without --shm-size: a warning, and a conversation all the same; with our seccomp profile: a sandbox, and no capability"

port=$(free_port)
docker run -d -p "127.0.0.1:$port:3000" --name tabproxy-test --shm-size=1gb \
    -e HTTPS_PROXY=http://user:secret@127.0.0.1:9 $image >/dev/null
until_true 30 "docker run -d -p 3000:3000 --shm-size=1gb: it answers" is_200 "http://127.0.0.1:$port/healthz"
until_true 10 "an unreachable HTTPS_PROXY is told" \
    sh -c "docker logs tabproxy-test 2>&1 | grep 'proxy http://127.0.0.1:9 cannot be reached'"
said=$(docker exec tabproxy-test tail -n 100 /var/log/tabproxy.log)
has "$said" "listening on http://0.0.0.0:3000"
has_not "$said" secret
has_not "$said" /dev/shm
ok "docker exec tabproxy tail -f /var/log/tabproxy.log"
# The site is out of reach from here.
docker exec tabproxy-test tabproxy health && fail "healthy without a site"
ok "tabproxy health says why it is not ready"
said=$(docker exec tabproxy-test tabproxy doctor --json) && fail "nothing is red without a way out: $said"
has "$said" '"verdict":"red"'
has_not "$said" secret
said=$(docker exec tabproxy-test tabproxy doctor) || true
has "$said" "HTTPS_PROXY"
ok "tabproxy doctor beside it says what is wrong, and does not disturb it"
until_true 5 "it goes on" is_200 "http://127.0.0.1:$port/healthz"
stops_cleanly tabproxy-test
docker rm -v tabproxy-test >/dev/null

# A new version takes the place of one that was killed, on the same volume.
for _ in old new; do
    docker rm -f tabproxy-test >/dev/null 2>&1 || true
    docker run -d -p "127.0.0.1:$port:3000" --name tabproxy-test --shm-size=1gb -v tabproxy-test:/var/lib/tabproxy \
        --cap-drop ALL --security-opt seccomp=docker/seccomp.json --security-opt no-new-privileges $image >/dev/null
    until_true 30 "on a volume of its name: it answers" is_200 "http://127.0.0.1:$port/healthz"
    until_true 30 "and its browser runs" \
        sh -c "docker logs tabproxy-test 2>&1 | grep 'browser: Chrom'"
done
has "$(docker exec tabproxy-test tabproxy key new --name my-bot)" tp-
ok "docker exec tabproxy tabproxy key new --name my-bot"
docker rm -f -v tabproxy-test >/dev/null
docker volume rm tabproxy-test >/dev/null

echo "== compose, with nginx and the practice site"
port=$(free_port)
export PUBLISH=127.0.0.1:$port
url=http://127.0.0.1:$port
compose up -d --no-build >"$work/compose.log" 2>&1 || fail "$(tail -5 "$work/compose.log")"
until_true 60 "up, and nginx only after tabproxy was ready" is_200 "$url/readyz"
tabproxy=$(compose ps -q tabproxy)
inside() { docker exec "$tabproxy" "$@"; }
# How many processes of this name the container has, and how many that nobody has reaped.
count() { inside sh -c 'cat /proc/[0-9]*/comm' 2>/dev/null | grep -cx "$1" || true; }
zombies() { inside sh -c 'cat /proc/[0-9]*/stat' 2>/dev/null | grep -c ') Z ' || true; }
browser() { inside sh -c 'for it in /proc/[0-9]*; do tr "\0" " " <$it/cmdline 2>/dev/null | grep -q "^/usr/lib/chromium/chromium --user-data-dir" && echo ${it#/proc/}; done | head -n 1' 2>/dev/null; }

times=$(ask "$url" stream 'Hello count=8 interval=250' | while read -r line; do
    [ -z "$line" ] || echo "$(date +%s%3N) $line"
done)
has "$times" "data: [DONE]"
took=$(($(tail -n 1 <<<"$times" | cut -d' ' -f1) - $(head -n 1 <<<"$times" | cut -d' ' -f1)))
[ "$took" -ge 1000 ] || fail "it came at once, not as a stream: all within $took ms"
ok "a conversation streams through nginx: first to last event in $took ms"

docker exec "$tabproxy" tail -n +1 -f /var/log/tabproxy.log >"$work/tail" &
tail=$!
until_true 10 "docker exec tabproxy tail -f /var/log/tabproxy.log" grep -q 'listening on' "$work/tail"
id=$(curl -s -D - -o /dev/null "$url/backend-api/models" | tr -d '\r' | sed -n 's/^x-request-id: //pi')
until_true 10 "a request's line comes by" grep "id=$id .* outcome=" "$work/tail"
kill $tail
wait $tail || true
line=$(grep "id=$id" "$work/tail")
echo "    $line"
has "$(docker logs "$tabproxy" 2>&1)" "$line"
ok "and in docker logs"
has_not "$(docker logs "$tabproxy" 2>&1)" WARN
renderer=$(inside sh -c 'grep -l -e --type=renderer /proc/[0-9]*/cmdline | head -n 1 | cut -d/ -f3')
has "$(inside cat "/proc/$renderer/status")" "Seccomp:	2"
[ "$(inside readlink "/proc/$renderer/ns/user" 2>/dev/null || echo hidden)" != "$(inside readlink /proc/1/ns/user)" ] ||
    fail "the renderer is in no namespace of its own"
ok "no warning; pages run in a sandbox, and no capability is left: $(inside grep CapBnd /proc/1/status | tr -s '\t' ' ')"
inside cat "/proc/$(browser)/environ" | tr '\0' '\n' | grep -q '^DISPLAY=:' || fail "the browser has no screen"
ok "the browser has a window"

# By its address: names are answered only where they are in TABPROXY_HOSTS.
front=$(inside getent hosts nginx | cut -d' ' -f1)
said=$(inside tabproxy doctor --nginx "http://$front") || fail "$said"
echo "$said" | sed 's/^/    /'
ok "tabproxy doctor --nginx inside: nothing is red"
has "$(ask "$url" "after-doctor" 'Hello count=2')" "data: [DONE]"

for victim in browser Xvfb; do
    before=$(browser)
    ask "$url" "cut-$victim" 'Hello count=1000 interval=50' >"$work/cut" 2>&1 &
    stream=$!
    until_true 10 "a stream runs" grep -q '^data: {' "$work/cut"
    case $victim in
        browser) inside kill -9 "$before" ;;
        Xvfb) inside sh -c 'kill -9 $(grep -lx Xvfb /proc/[0-9]*/comm | cut -d/ -f3)' ;;
    esac
    began=$SECONDS
    wait $stream && fail "a stream that was cut looks whole"
    until_true 30 "killed $victim: the stream was cut, and it is ready again" is_200 "$url/readyz"
    [ "$(browser)" != "$before" ] || fail "it is the same browser"
    has "$(ask "$url" "after-$victim" 'Hello count=2')" "data: [DONE]"
    [ "$(count Xvfb)" = 1 ] || fail "$(count Xvfb) screens"
    [ "$(zombies)" = 0 ] || fail "$(zombies) zombies"
    ok "a conversation after $((SECONDS - began)) s, one screen, nobody unreaped"
done

echo "== nginx while tabproxy is away"
page() { curl -s -H "accept: $1" -w '\n%{http_code} %{content_type}' "$url$2"; }
docker pause "$tabproxy" >/dev/null
said=$(page text/event-stream /backend-api/conversations)
has "$said" "504 text/plain"
has "$said" 请约十秒后再试
ok "504 after 10 s of silence, as one line of text"
picture() { # NAME WIDTH HEIGHT
    [ -n "${PICTURES:-}" ] || return 0
    need pngquant pngquant
    # By the browser of the image itself, with its fonts. /healthz, since nginx waits for it only five seconds; three
    # seconds of the page's own time, so that it has looked whether all is well.
    timeout 90 docker run --rm --network host --shm-size=1gb -v "$work:/out" --user 0 --entrypoint /usr/lib/chromium/chromium $image \
        --headless=new --no-sandbox --hide-scrollbars --window-size="$2,$3" --virtual-time-budget=3000 \
        --screenshot="/out/$1.png" "$url/healthz" >"$work/picture.log" 2>&1
    pngquant --force --output "$PICTURES/$1.png" 64 "$work/$1.png"
    ok "$PICTURES/$1.png"
}
picture nginx-504 900 620
picture nginx-504-phone 390 780
docker unpause "$tabproxy" >/dev/null
until_true 30 "ready again" is_200 "$url/readyz"

ask "$url" long 'Hello count=1000 interval=50' >"$work/cut" 2>&1 &
stream=$!
until_true 10 "a stream runs" grep -q '^data: {' "$work/cut"
stops_cleanly "$tabproxy"
wait $stream && fail "a stream that was cut looks whole"
for want in "text/html|502 text/html|正在" "*/*|502 text/plain|请约十秒后再试"; do
    IFS='|' read -r accept status words <<<"$want"
    said=$(page "$accept" /backend-api/conversations)
    has "$said" "$status"
    has "$said" "$words"
done
has "$(page application/json /v1/models)" "502 application/json"
ok "502 as a page, as a line of text, and as JSON"
picture nginx-502 900 500
picture nginx-502-phone 390 640
has "$(curl -s -o /dev/null -w '%{http_code}' "$url/metrics")" 403

echo "== a new container takes its place"
compose up -d --no-build --force-recreate --no-deps tabproxy >"$work/compose.log" 2>&1 || fail "$(tail -5 "$work/compose.log")"
tabproxy=$(compose ps -q tabproxy)
until_true 60 "nginx finds it, and it takes over the profile" is_200 "$url/readyz"
has "$(ask "$url" again 'Hello count=2')" "data: [DONE]"
until_true 30 "Docker calls it healthy" sh -c "docker inspect -f '{{.State.Health.Status}}' $tabproxy | grep -x healthy"
ok "a conversation"

echo "== one file changes the port"
if [ -e docker/.env ]; then
    echo "not tried: docker/.env is somebody's"
else
    dotenv=docker/.env
    unset PUBLISH TABPROXY_IMAGE
    other=$(free_port)
    # The example, with what a person changes in it.
    sed -e "s|^#PUBLISH=.*|PUBLISH=127.0.0.1:$other|" -e "s|^#TABPROXY_IMAGE=.*|TABPROXY_IMAGE=$image|" \
        -e "s|^#BUILD_BASE=.*|BUILD_BASE=$BUILD_BASE|" -e "s|^#RUN_BASE=.*|RUN_BASE=$RUN_BASE|" \
        -e "s|^#NGINX_IMAGE=.*|NGINX_IMAGE=$NGINX_IMAGE|" docker/.env.example >$dotenv
    compose up -d --build >"$work/compose.log" 2>&1 || fail "$(tail -5 "$work/compose.log")"
    until_true 60 "docker compose up -d --build, on another port" is_200 "http://127.0.0.1:$other/readyz"
    has "$(ask "http://127.0.0.1:$other" moved 'Hello count=2')" "data: [DONE]"
    ok "a conversation"
fi
echo "all is well"
