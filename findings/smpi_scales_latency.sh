#!/usr/bin/env bash
# SimGrid's smpirun does not simulate the network that the platform file describes: unless told otherwise it multiplies
# latencies by 1.6 to 11.6 and bandwidths by 0.2 to 0.94, by a message's size (factors that fit one cluster of 2010 with
# TCP over Gigabit Ethernet), and each byte takes 5 % of the way back as well. Messages over a link of "10us" and "1GBps"
# take twice as long as described, and who compares a formula with such a simulation finds it wrong by as much. With
# --cfg=network/model:CM02 --cfg=network/crosstraffic:no they take what is described.
#
# Seen with libsimgrid-dev 3.32-2+b2 (Debian 12), one link of 10 us and 1 GB/s in each direction, both used at once:
#   described 10.00 us   by default  20.18 us   CM02 without cross traffic  10.03 us     (1 byte)
#   described 110.00 us  by default 228.08 us   CM02 without cross traffic 110.03 us     (100000 bytes)
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for package in libsimgrid-dev=3.32-2+b2 libsimgrid3.32=3.32-2+b2; do apt-get download -q "$package" >/dev/null 2>&1; done
for archive in *.deb; do dpkg -x "$archive" root; done
# Its scripts know where they were installed.
for script in root/usr/bin/smpicc root/usr/bin/smpirun; do sed -i "s#/usr/\(include\|lib\|bin/smpi\)#$folder/root/usr/\1#g" $script; done
export LD_LIBRARY_PATH=$folder/root/usr/lib/x86_64-linux-gnu LIBRARY_PATH=$folder/root/usr/lib/x86_64-linux-gnu
export CPATH=$folder/root/usr/include:$folder/root/usr/include/smpi
cat >ping.c <<'C'
#include <mpi.h>
#include <stdio.h>
static char buffer[100000];
int main(int argc, char** argv) {
  int rank;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  for (int bytes = 1; bytes <= 100000; bytes *= 100000) {
    MPI_Request both[2];
    double begin = MPI_Wtime();
    MPI_Isend(buffer, bytes, MPI_BYTE, !rank, 0, MPI_COMM_WORLD, &both[0]);
    MPI_Irecv(buffer, bytes, MPI_BYTE, !rank, 0, MPI_COMM_WORLD, &both[1]);
    MPI_Waitall(2, both, MPI_STATUSES_IGNORE);
    if (rank == 1) printf("%.2f\n", (MPI_Wtime() - begin) * 1e6);
    MPI_Barrier(MPI_COMM_WORLD);
  }
  MPI_Finalize();
}
C
cat >platform.xml <<'XML'
<?xml version="1.0"?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <zone id="all" routing="Full">
    <host id="a" speed="1Gf"/>
    <host id="b" speed="1Gf"/>
    <link id="there" bandwidth="1GBps" latency="10us"/>
    <link id="back" bandwidth="1GBps" latency="10us"/>
    <route src="a" dst="b" symmetrical="NO"><link_ctn id="there"/></route>
    <route src="b" dst="a" symmetrical="NO"><link_ctn id="back"/></route>
  </zone>
</platform>
XML
printf 'a\nb\n' >hosts
root/usr/bin/smpicc ping.c -o ping
run() {
  root/usr/bin/smpirun -np 2 -platform platform.xml -hostfile hosts --cfg=smpi/simulate-computation:no "$@" \
    --log=root.thres:warning ./ping
}
mapfile -t default < <(run)
mapfile -t plain < <(run --cfg=network/model:CM02 --cfg=network/crosstraffic:no)
described=(10.00 110.00)
for i in 0 1; do
  echo "described ${described[i]} us, by default ${default[i]} us, CM02 without cross traffic ${plain[i]} us"
  awk -v s="${described[i]}" -v d="${default[i]}" -v p="${plain[i]}" 'BEGIN { exit !(d > 1.9 * s && p < 1.01 * s) }'
done
