#!/usr/bin/env bash
# What scripts/bench-hosts runs in namespaces of its own: two hosts of two ranks and a processor each, the network
# between them measured, then all jobs in turns.  FOLDER BUILD LIMIT MPIS OPTION=VALUE...
set -euo pipefail
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
folder=$1 build=$2 limit=$3 mpis=$4
shift 4
hosts=2
. "$source_dir/scripts/namespaces.bash"
make_hosts
write_agent one
# Ranks that wait give their processor up, an MPI's as well: they share one.
yields() { case $1 in openmpi) echo --mca mpi_yield_when_idle 1 ;; esac; }
export MPIR_CVAR_POLLS_BEFORE_YIELD=1
rank=$build/bench/bench_hosts_rank
jobs=()
for mpi in ${mpis//,/ }; do
  mpi_words "$mpi" 2,2
  echo "bench-hosts: $mpi, links" >&2
  timeout --kill-after 5 60 "${words[@]}" $(yields "$mpi") -n 4 "$rank" links </dev/null >"$folder/said" 2>&1 || true # MPICH's end
  tr -d '\0' <"$folder/said" | grep -o '{"latency_us.*}' >"$folder/links.$mpi" || { cat "$folder/said" >&2; exit 1; }
  cat "$folder/links.$mpi" >&2
  jobs+=(-- "mixcomm/$mpi" "$rank" "${words[@]}" $(yields "$mpi"))
  jobs+=(-- "$mpi" "$build/tools/mixcomm-mpi-$mpi" "${words[@]}" $(yields "$mpi"))
done
first=${mpis%%,*}
mpi_words "$first" 2
jobs+=(-- mixcomm/sum/within "$rank" "${words[@]}" $(yields "$first"))
jobs+=(-- mixcomm/gather/within "$rank" "${words[@]}" $(yields "$first"))
timeout --kill-after 5 "$limit" "$build/bench/bench_hosts" "$@" interfaces=cable0,cable1 json="$folder/rows.json" "${jobs[@]}"
