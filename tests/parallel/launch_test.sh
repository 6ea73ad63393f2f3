#!/usr/bin/env bash
# launch_test.sh PROBE MPIEXEC: how a world starts and how it ends, from outside: half-started launches get one message,
# a rank that fails takes all others along.
set -uo pipefail
probe=$1
mpiexec=$2
faults=0

# expect NAME RC TEXT COMMAND…: the exit code, and a text that must stand exactly once in what is printed.
expect() {
  local name=$1 rc=$2 text=$3
  shift 3
  local out got
  out=$(timeout 60 "$@" 2>&1)
  got=$?
  local times
  times=$(grep -c -- "$text" <<<"$out")
  if [[ $got -ne $rc || $times -ne 1 ]]; then
    echo "FAILED $name: exit code $got (want $rc), text $times times (want once)"
    echo "$out"
    faults=$((faults + 1))
  else
    echo "ok $name"
  fi
}

clean=(env -u RANK -u WORLD_SIZE -u SLURM_NTASKS -u PMIX_RANK -u OMPI_COMM_WORLD_SIZE)
expect "one rank without mpirun" 0 "rank 0 of 1" "${clean[@]}" "$probe"
expect "three ranks" 0 "rank 2 of 3" "${clean[@]}" "$mpiexec" -n 3 "$probe"
expect "srun without PMIx" 2 "add --mpi=pmix" "${clean[@]}" SLURM_NTASKS=4 "$probe"
expect "mpirun inside a Slurm job" 0 "rank 1 of 2" "${clean[@]}" SLURM_NTASKS=4 "$mpiexec" -n 2 "$probe"
expect "torchrun" 2 "torchrun is not a launcher" "${clean[@]}" RANK=0 WORLD_SIZE=2 "$probe"
expect "torchrun's variables for one rank" 0 "rank 0 of 1" "${clean[@]}" RANK=0 WORLD_SIZE=1 "$probe"
# Rank 1 fails while the others wait for it in a collective.
expect "a failed check ends all ranks" 1 "check failed: rank 1 breaks" "${clean[@]}" "$mpiexec" -n 3 "$probe" fatal
expect "a failed check alone" 1 "check failed: rank 0 breaks" "${clean[@]}" "$probe" fatal
expect "a killed rank ends all ranks" 137 "exited on signal 9" "${clean[@]}" "$mpiexec" -n 3 "$probe" kill
expect "an agreed failure ends all ranks in order" 3 "agreed: no such shard" "${clean[@]}" "$mpiexec" -n 3 "$probe" agree
# Watched, with a timeout of a second: a line of a survivor's, the code of the signal or of a lost rank.
expect "a killed rank is named" 137 "rank 1 (host .*), process [0-9]*, died after barrier of axis world (hosts)" \
  "${clean[@]}" "$mpiexec" -n 4 "$probe" watched-kill
missing='rank 1 (host .*) has not entered agree of axis world (hosts) at step 17 for 1.* s: '
expect "a stopped rank is named" 5 "${missing}stopped or cut off" "${clean[@]}" "$mpiexec" -n 4 "$probe" watched-stop
expect "a spinning rank is named" 5 "${missing}alive, but without progress" "${clean[@]}" "$mpiexec" -n 4 "$probe" watched-spin
expect "a stopped rank of another host is named" 5 "$missing" "${clean[@]}" "$mpiexec" -n 3 "$probe" watched-split
rm -rf launch_probe.pulses
expect "of ranks that fail alike one is heard" 1 "check failed: on all ranks alike; rank [0-3] of 4 (host .*) after barrier" \
  "${clean[@]}" "$mpiexec" -n 4 "$probe" watched-fatal
if pgrep -f "^$probe watched" >/dev/null; then
  echo "FAILED something is left running: $(pgrep -af "^$probe watched")"
  faults=$((faults + 1))
fi
exit $((faults > 0))
