"""Tables of which algorithm pays where: measured, used, refused elsewhere."""

from pathlib import Path

import numpy as np
import pytest

import mixcomm

QUICK = {"seconds": 0, "most_bytes": 16384, "progress": False}


def test_a_table_is_used(tmp_path):
    """As an object and as a file; all ranks have the same, and communicators choose by it."""
    path = tmp_path / "table.json"

    def rank(bootstrap):
        table = mixcomm.tune(bootstrap, tp=2, out=path, **QUICK)
        assert (table.tp, table.dp, table.backend) == (2, 1, "cpu")
        chosen = table.algorithm("all_reduce", 4096)
        assert chosen in ("one_shot", "two_shot")
        for tuning in (table, path, str(path)) if bootstrap.rank == 0 else (table, table, table):
            with mixcomm.Communicator(bootstrap, tp=2, tuning=tuning) as communicator:
                assert (communicator.all_reduce(np.ones((2, 4), np.float32)) == 2).all()
                plan = communicator.plan("all_reduce", 1, 2048)
                assert plan["algorithm"] == chosen
                assert "tuned" in plan["why"]
        return table

    tables = mixcomm.run_threads(2, rank)
    assert tables[0] == tables[1] == mixcomm.TuningTable.load(path)
    assert str(tables[0]) == path.read_text()


def test_refusals(tmp_path):
    """What cannot be measured, and tables that are for something else."""
    with pytest.raises(mixcomm.InvalidArgument, match="one rank"):
        mixcomm.tune(**QUICK)
    with pytest.raises(mixcomm.InvalidArgument, match="one rank"):
        mixcomm.tune(**QUICK, backend="cuda")
    with pytest.raises(mixcomm.InvalidArgument, match="12 bytes"):
        mixcomm.run_threads(2, lambda b: mixcomm.tune(b, backend="cuda", **{**QUICK, "most_bytes": 12}))
    with pytest.raises(mixcomm.InvalidArgument, match="there are: cpu, cuda"):
        mixcomm.run_threads(2, lambda b: mixcomm.tune(b, backend="tpu", **QUICK))
    with pytest.raises(mixcomm.InvalidArgument, match="12 bytes"):
        mixcomm.run_threads(2, lambda b: mixcomm.tune(b, **{**QUICK, "most_bytes": 12}))
    table = mixcomm.run_threads(2, lambda b: mixcomm.tune(b, dp=2, **QUICK))[0]
    with pytest.raises(mixcomm.InvalidArgument, match="tp 1 x dp 2"):
        mixcomm.run_threads(2, lambda b: mixcomm.Communicator(b, tp=2, tuning=table))
    with pytest.raises(mixcomm.SystemError):
        mixcomm.TuningTable.load(tmp_path / "missing.json")


def test_without_cuda():
    """Said on every rank, at once."""
    if mixcomm.info()["cuda"] and Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    with pytest.raises(mixcomm.Unsupported, match=r"backend cuda: (built without CUDA|no CUDA device)"):
        mixcomm.run_threads(2, lambda b: mixcomm.tune(b, backend="cuda", **QUICK))


def test_progress(capfd):
    """Rank 0 says on stderr how far it is."""
    mixcomm.run_threads(2, lambda b: mixcomm.tune(b, **{**QUICK, "progress": True}))
    assert "mixcomm.tune: 0 of" in capfd.readouterr().err
