"""A layer boundary of attention TP 2 x DP 2 with numpy, on 4 ranks.

Run: mixcomm run -n 4 -- python fused_numpy.py. torchrun, mpirun and srun work as well.
Started by itself it runs the ranks as threads.
"""

import numpy as np

import mixcomm


def main(bootstrap: mixcomm.Bootstrap) -> None:
    """One rank."""
    rows = [3, 1]  # of each DP rank: they need not be equal
    hidden = 8
    with mixcomm.Communicator(bootstrap, tp=2, dp=2) as communicator:
        # What attention leaves: partial sums over TP, of this DP rank's rows.
        attention = np.full((rows[communicator.dp_rank], hidden), 1.0 + communicator.rank, np.float32)
        # One call instead of all-reduce and all-gather: every rank gets all rows, summed.
        tokens = communicator.all_reduce_all_gather(attention, rows)
        assert (tokens[:3] == 1 + 2).all() and (tokens[3:] == 3 + 4).all()
        # And back: the experts' partial sums over all ranks become this DP rank's rows.
        experts = tokens * (communicator.rank + 1)
        mine = communicator.reduce_scatter_all_reduce(experts, rows)
        assert (mine == tokens[:3] * 10 if communicator.dp_rank == 0 else tokens[3:] * 10).all()
        print(f"rank {communicator.rank} of {communicator.world_size}: {mine.shape} correct")


if mixcomm.info()["launcher"]:
    main(mixcomm.from_env())
else:
    mixcomm.run_threads(4, main)
