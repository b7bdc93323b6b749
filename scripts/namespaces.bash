# Hosts that are network namespaces of this machine, and MPIs between them: what scripts/check-hosts and
# scripts/bench-hosts share. Sourced in namespaces of its own, with $folder (a temporary one) and $hosts (how many).

address() { echo "10.77.0.$(($1 + 1))"; }

make_hosts() {
  mount -t tmpfs tmpfs /run/netns 2>/dev/null || { mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns; }
  hostname launcher
  ip link set lo up
  ip link add bridge0 type bridge
  ip address add 10.77.0.254/24 dev bridge0
  ip link set bridge0 up
  { echo '127.0.0.1 localhost'; echo '10.77.0.254 launcher'; } >"$folder/hosts"
  for ((h = 0; h < hosts; ++h)); do
    ip netns add "host$h"
    ip link add "cable$h" type veth peer name eth0 netns "host$h"
    ip link set "cable$h" master bridge0 up
    ip -n "host$h" address add "$(address $h)/24" dev eth0
    ip -n "host$h" link set eth0 up
    ip -n "host$h" link set lo up
    echo "$(address $h) host$h" >>"$folder/hosts"
  done
  mount --bind "$folder/hosts" /etc/hosts
}

# What MPIs take for ssh: AGENT [OPTIONS] HOST COMMAND... With `one`, each host has one processor, its own
# where there are as many.
write_agent() {
  printf '#!/bin/sh\nprocessors=%s all=%d\n' "${1:-all}" "$(nproc)" >"$folder/agent"
  cat >>"$folder/agent" <<'AGENT'
while [ "${1#-}" != "$1" ]; do shift; done
host=$1
shift
[ "$processors" = all ] || taskset -p -c $((${host#host} % all)) $$ >/dev/null
exec ip netns exec "$host" unshare --uts --ipc --mount sh -c '
  hostname "$1"
  mount -t tmpfs tmpfs /dev/shm
  shift
  exec sh -c "$*"' - "$host" "$@"
AGENT
  chmod +x "$folder/agent"
}

ranks_in() {
  local all=0 each
  for each in ${1//,/ }; do all=$((all + each)); done
  echo $all
}

# mpi_words MPI LAYOUT: sets `words`, the command that starts ranks on the hosts, LAYOUT of them on each, but
# for their number and program.
mpi_words() {
  local mpi=$1 layout=$2 list= h=0 each
  for each in ${layout//,/ }; do
    list+=${list:+,}host$h:$each
    h=$((h + 1))
  done
  case $mpi in
    openmpi)
      words=(mpirun.openmpi --allow-run-as-root --oversubscribe --bind-to none --host "$list" --map-by slot
        --mca plm_rsh_agent "$folder/agent" --mca plm_rsh_no_tree_spawn 1 --mca orte_keep_fqdn_hostnames 1
        --mca oob_tcp_if_include 10.77.0.0/24 --mca btl_tcp_if_include 10.77.0.0/24 --mca pml ob1
        --mca btl self,vader,tcp -x MIXCOMM_MPI=openmpi ${MPI4PY_LIBMPI:+-x MPI4PY_LIBMPI} ${MIXCOMM_NOTES:+-x MIXCOMM_NOTES})
      ;;
    mpich)
      words=(env MIXCOMM_MPI=mpich UCX_TLS=self,sm,tcp UCX_NET_DEVICES=eth0 UCX_WARN_UNUSED_ENV_VARS=n
        mpiexec.mpich -launcher ssh -launcher-exec "$folder/agent" -localhost 10.77.0.254 -disable-auto-cleanup
        -hosts "$list")
      ;;
  esac
}
