"""One rank of test_mpi.py, and of scripts/check-hosts, started by mpirun with mpi4py.

Usage: mpi_ranks.py TP [HOSTS]: the ranks gather, and scatter, on a grid of TP x the rest, on so many hosts.
"""

import sys

import numpy as np
from mpi4py import MPI

import mixcomm

tp, hosts = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
reversed_ranks = MPI.COMM_WORLD.Split(0, -MPI.COMM_WORLD.rank)
for comm in (None, MPI.COMM_WORLD, reversed_ranks):
    bootstrap = mixcomm.from_mpi(comm, timeout=20)
    rank, world = bootstrap.rank, bootstrap.world_size
    assert rank == (comm or MPI.COMM_WORLD).rank
    assert len(set(bootstrap.hosts)) == hosts, bootstrap.hosts
    with mixcomm.Communicator(bootstrap, tp=tp, dp=world // tp, timeout=20) as communicator:
        d = rank // tp
        counts = [each % 3 for each in range(world // tp)]  # uneven, one DP rank has none
        part = np.full((counts[d], 300), 1 + d, dtype=np.float32)
        everything = communicator.all_reduce_all_gather(part, counts)
        expected = np.repeat(np.arange(1, world // tp + 1) * tp, counts)
        assert (everything == expected[:, None]).all()
        sums = communicator.reduce_scatter_all_reduce(everything, counts)
        assert (sums == part * (tp * world)).all()
    bootstrap.close()
if MPI.COMM_WORLD.rank == 0:
    print(f"{hosts} hosts of {MPI.COMM_WORLD.size} ranks: mpi4py, gathered and scattered")
