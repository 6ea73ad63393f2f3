# Sourced. reap PID: waits for a child and returns its exit code. mpirun's own shutdown deadlocks now and then when a rank dies
# while it starts (PMIx waits for a lock in its finalize, its ranks long gone): after half a minute without a living rank
# it is killed too.
reap() {
  local idle=0
  while [[ -e /proc/$1 && $(ps -o stat= -p "$1") != Z* ]]; do
    if ps -o stat= --ppid "$1" | grep -qv '^Z'; then idle=0; else idle=$((idle + 1)); fi
    if [[ $(ps -o comm= -p "$1") == mpirun ]] && ((idle > 300)); then kill -9 "$1" || true; fi
    sleep 0.1
  done
  wait "$1" 2>/dev/null
}
