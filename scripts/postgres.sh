# shellcheck shell=bash
# A PostgreSQL server of our own in a temporary directory, on a Unix socket and a free port.

pg_dir='' pg_bin=''

start_postgres() {
    pg_bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
    [[ -x $pg_bin/initdb ]] || { say "PostgreSQL is not installed: its tests are left out"; return 0; }
    pg_dir=$(mktemp -d /tmp/caelum-pg.XXXXXX)
    local as=() port
    if [[ $(id -u) == 0 ]]; then
        chown postgres "$pg_dir"
        as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
    fi
    port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
    (
        cd "$pg_dir"
        "${as[@]}" "$pg_bin/initdb" -D "$pg_dir/data" -U caelum -A trust --no-sync >"$pg_dir/init.log" 2>&1 || { cat "$pg_dir/init.log"; exit 1; }
        "${as[@]}" "$pg_bin/pg_ctl" -D "$pg_dir/data" -w -l "$pg_dir/log" -o "-p $port -k $pg_dir -c listen_addresses=127.0.0.1 -c max_connections=200" start >/dev/null
        "${as[@]}" "$pg_bin/createdb" -h 127.0.0.1 -p "$port" -U caelum caelum
    )
    export CAELUM_TEST_PG_URL="postgresql://caelum@127.0.0.1:$port/caelum"
    say "PostgreSQL on port $port"
}

stop_postgres() {
    [[ -n $pg_dir ]] || return 0
    local as=()
    [[ $(id -u) == 0 ]] && as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
    (cd "$pg_dir" && "${as[@]}" "$pg_bin/pg_ctl" -D "$pg_dir/data" -m immediate stop >/dev/null 2>&1) || true
    rm -rf "$pg_dir"
    pg_dir=''
}
