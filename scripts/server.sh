# shellcheck shell=bash
# What the server scripts share: the cache, the user a server runs as, free ports, one lock per
# directory, and `run`, which ties a server's life to its parent's. Sourced, never executed.

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# need TOOL:PACKAGE...: ends the script naming every missing tool and one command that installs them.
need() {
  local pair missing=() packages=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || { missing+=("${pair%%:*}"); packages+=("${pair#*:}"); }
  done
  [ ${#missing[@]} -eq 0 ] || die "missing: ${missing[*]}. Install with: apt-get install ${packages[*]}"
}

need_java() {
  need java:default-jre-headless
  local major
  major=$(java -version 2>&1 | sed -n '1s/^[^"]*"\([0-9]*\).*/\1/p')
  [ "${major:-0}" -ge 17 ] ||
    die "Kafka needs Java 17 or newer, found ${major:-none}. Install with: apt-get install openjdk-17-jre-headless"
}

# Prints where downloads and the dev stack live. Root gets a place that the unprivileged server user
# can read, which a home directory is not.
cache_dir() {
  if [ -n "${TXSTREAM_CACHE:-}" ]; then
    echo "$TXSTREAM_CACHE"
  elif [ "$(id -u)" -eq 0 ]; then
    echo /var/cache/txstream
  elif [ -n "${XDG_CACHE_HOME:-${HOME:-}}" ]; then
    echo "${XDG_CACHE_HOME:-$HOME/.cache}/txstream"
  else
    die "neither TXSTREAM_CACHE, XDG_CACHE_HOME nor HOME is set: set TXSTREAM_CACHE to a directory"
  fi
}

# Prints the user that servers run as: Postgres refuses root, and Kafka does not need it.
server_user() {
  if [ "$(id -u)" -ne 0 ]; then
    id -un
  elif id -u postgres >/dev/null 2>&1; then
    echo postgres
  else
    echo nobody
  fi
}

# as_server COMMAND...: runs it as the server user, from a directory which that user can enter, and
# without the lock, which a server left running would hold for ever.
as_server() (exec_as_server "$@")

# exec_as_server COMMAND...: the same in place of this shell, for who needs the pid.
exec_as_server() {
  cd / || exit 1
  exec 9>&-
  if [ "$(id -u)" -eq 0 ]; then
    need setpriv:util-linux
    local user
    user=$(server_user)
    exec setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups -- "$@"
  fi
  exec "$@"
}

# Prints a TCP port nobody listens on, below the range the kernel gives to outgoing connections, so
# that a restarted server finds it free again, and below the ports that tests choose for theirs.
free_port() {
  local port
  while :; do
    port=$((10000 + (RANDOM * 32768 + RANDOM) % 14000))
    # Nor one that this server is to have besides, and nobody listens on yet.
    in_use "$port" || grep -qsx "$port" "$dir"/*port || { echo "$port"; return; }
  done
}

# in_use PORT: whether someone listens there.
in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# keep_given_port PORT: makes it the port of $dir from now on; an empty one changes nothing.
keep_given_port() {
  [ -n "$1" ] || return 0
  ! in_use "$1" || die "port $1 of 127.0.0.1 is in use: choose another with --port"
  echo "$1" >"$dir/port"
}

# fetch_once DIR FUNCTION: calls FUNCTION in a new directory and renames that to DIR, unless DIR
# exists. Two processes may ask at once: one fetches, the other waits.
fetch_once() {
  local dir=$1 fill=$2
  [ -d "$dir" ] || fetch_locked "$dir" "$fill"
  as_server test -r "$dir/." ||
    die "$(server_user) cannot read $dir: set TXSTREAM_CACHE to a directory it can reach"
}

fetch_locked() {
  local dir=$1 fill=$2 new
  umask 022
  mkdir -p "$(dirname "$dir")" || die "cannot write $(dirname "$dir"): set TXSTREAM_CACHE to a directory you own"
  need flock:util-linux
  exec 8>"$dir.lock"
  flock 8
  if [ ! -d "$dir" ]; then
    # Whoever held the lock before may have been killed half-way.
    rm -rf "$dir".new.*
    new=$(mktemp -d "$dir.new.XXXXXX")
    # shellcheck disable=SC2064 # the directory of now
    trap "rm -rf '$new'" EXIT
    pushd "$new" >/dev/null || die "cannot enter $new"
    "$fill" >&2
    popd >/dev/null || die "cannot leave $new"
    chmod 755 "$new"
    mv -T "$new" "$dir"
    trap - EXIT
  fi
  exec 8>&-
}

# Makes $dir, owned by the server user, if it is missing.
make_server_dir() {
  if [ -d "$dir" ] && [ ! -e "$dir/lock" ] && [ -n "$(ls -A "$dir")" ]; then
    die "$dir holds something else: name a new directory"
  fi
  mkdir -p "$dir"
  if [ "$(id -u)" -eq 0 ]; then
    chown "$(server_user)" "$dir"
    chmod 755 "$dir"
  fi
  as_server test -w "$dir" || die "$(server_user) cannot write $dir: choose a directory it can reach"
}

# lock_dir: one start or stop of $dir at a time; held until `unlock_dir` or the script's end.
lock_dir() {
  [ -d "$dir" ] || die "$dir does not exist"
  exec 9>>"$dir/lock"
  flock 9
  [ -e "$dir/lock" ] || die "$dir was removed meanwhile"
}

unlock_dir() { exec 9>&-; }

# make_certificate: a CA and a server certificate for localhost and 127.0.0.1 in $dir/tls, valid for as long
# as anyone keeps a test server.
make_certificate() {
  [ ! -d "$dir/tls" ] || return 0
  need openssl:openssl
  mkdir "$dir/tls"
  (
    cd "$dir/tls"
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=txstream test CA" -keyout ca.key -out ca.crt
    openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout server.key -out server.csr
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out server.crt \
      -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1")
  ) >"$dir/tls.log" 2>&1 || { cat "$dir/tls.log" >&2; die "making a certificate failed"; }
  chmod 600 "$dir/tls/server.key"
  [ "$(id -u)" -ne 0 ] || chown -R "$(server_user)" "$dir/tls"
}

# Prints the pids of the process PID and of its children.
family() {
  echo "$1"
  cat "/proc/$1/task/$1/children" 2>/dev/null || true
}

# signal_family SIGNAL PID: the parent first, so that a frozen one cannot make children meanwhile.
signal_family() {
  local pid
  kill "-$1" "$2" 2>/dev/null || return 1
  for pid in $(family "$2"); do kill "-$1" "$pid" 2>/dev/null || true; done
}

# run_until_stdin_ends: starts the server of $dir (function `start`), prints its facts and `end`, and when
# standard input ends, however the process at its other end died, throws the server (function
# `destroy`) and its directory away. TXSTREAM_KEEP=1 keeps the directory.
run_until_stdin_ends() {
  if [ -d "$dir" ] && [ -n "$(ls -A "$dir")" ]; then die "$dir is not empty, and run throws it away"; fi
  make_server_dir
  trap finish_run EXIT
  trap 'exit 1' HUP INT TERM PIPE
  lock_dir
  start
  unlock_dir
  facts
  echo end
  while read -r _; do :; done
}

finish_run() {
  trap '' HUP INT TERM PIPE
  exec 9>>"$dir/lock"
  flock 9
  destroy >/dev/null 2>&1 || true
  [ -n "${TXSTREAM_KEEP:-}" ] || rm -rf "$dir"
}
