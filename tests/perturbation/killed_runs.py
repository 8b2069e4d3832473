"""Kill a run with SIGKILL at every change of the disk it makes, and take it up again; `test_run.py` starts this.

The package is imported once; every run is a fork. Before a file has reached the disk its last bytes are torn off, as a
power cut might do.
"""

import gc
import json
import os
import shutil
import signal
import stat
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from pyarrow import parquet

from geneformer.files import manifest
from geneformer.perturbation import run
from geneformer.tokens.storage import read_dataset
from small_plans import planned

TORN = 3
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


class Killer:
    """Counts changes of the disk, and kills the process at the one wanted."""

    def __init__(self, last: int, under: Path) -> None:
        self.left, self.under = last, str(under)
        self.write_table = parquet.write_table

    def arm(self) -> None:
        sys.addaudithook(self.audit)
        os.fsync, parquet.write_table = self.synced, self.written

    def count(self, tear=None) -> None:
        self.left -= 1
        if not self.left:
            if tear is not None:
                os.truncate(tear, max(Path(tear).stat().st_size - TORN, 0))
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event, arguments) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in CHANGES:
            path = arguments[0]
            if not isinstance(path, int) and (self.under in os.fspath(path) or not Path(path).is_absolute()):
                self.count()

    def synced(self, descriptor) -> None:
        path = f"/proc/self/fd/{descriptor}"
        self.count(path if stat.S_ISREG(os.fstat(descriptor).st_mode) else None)
        self.count()

    def written(self, table, path, *arguments, **named) -> None:
        self.write_table(table, path, *arguments, **named)
        self.count(path)


def contents(folder: Path) -> dict:
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    told = json.loads(found.pop("geneformer_manifest.json"))
    told.pop("created")
    return found | {"manifest": told}


def killed(plan, place: Path, moment: int) -> bool:
    """Whether a run got as far as that moment, and was killed there."""
    child = os.fork()
    if not child:
        try:
            Killer(moment, place).arm()
            run.run_to_folder(plan, place / "out", resume=True)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL


def main(tokens: Path, folder: Path, whole: Path) -> dict:
    torch.set_num_threads(1)
    # What takes long and changes nothing on the disk is done once.
    os.fsync = lambda _: None
    manifest.version = cache(manifest.version)
    plan = planned(read_dataset(tokens), genes=("all",), start="sick", goal="well", state_key="kind", cells_per_shard=1)
    real, made = run.run_shard, {}
    run.run_shard = lambda plan, shard, *rest: made[shard] if shard in made else real(plan, shard, *rest)
    made |= {shard: run.run_shard(plan, shard, made.get) for shard in range(plan.n_shards)}
    run.run_to_folder(plan, folder / "warm")
    gc.freeze()
    wanted, wrong, complete, moment = contents(whole), {}, 0, 1
    assert contents(folder / "warm") == wanted
    while True:
        place = folder / f"{moment}"
        place.mkdir()
        if not killed(plan, place, moment):
            return {"kills": moment - 1, "complete": complete, "wrong": wrong}
        out = place / "out"
        if out.exists():
            complete += 1
        else:
            run.run_to_folder(plan, out, resume=True)
        if not complete and [path.name for path in place.iterdir()] != ["out"]:
            wrong[moment] = "something was left behind"
        if out.exists() and contents(out) != wanted:
            wrong[moment] = "the output is another"
        shutil.rmtree(place)
        moment += 1


if __name__ == "__main__":
    print(json.dumps(main(*map(Path, sys.argv[1:]))))
