"""mixcomm.from_mpi: mpi4py's communicators, on one host (scripts/check-hosts has several)."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

RANKS = pathlib.Path(__file__).with_name("mpi_ranks.py")

pytest.importorskip("mpi4py", reason="mpi4py is not installed")


def launcher():
    """The mpirun that belongs to mpi4py's MPI."""
    from mpi4py import MPI

    open_mpi = "Open MPI" in MPI.Get_library_version()
    for name in ("mpirun.openmpi", "mpirun") if open_mpi else ("mpiexec.mpich", "mpiexec"):
        if path := shutil.which(name):
            return [path, *(["--oversubscribe"] if open_mpi else [])]
    pytest.skip("there is no mpirun of mpi4py's MPI")


@pytest.mark.parametrize(("ranks", "tp"), [(2, 1), (4, 2)])
def test_ranks_of_mpi4py_gather(ranks, tp):
    """Also over communicators that number the ranks in another way."""
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    job = [*launcher(), "-n", str(ranks), sys.executable, str(RANKS), str(tp)]
    done = subprocess.run(job, env={**os.environ, **as_root}, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"1 hosts of {ranks} ranks" in done.stdout
