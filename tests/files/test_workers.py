import subprocess
import sys
import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from geneformer.files.atomic import Workers
from geneformer.files.manifest import digest

STAY = """
import sys, time
from pathlib import Path
from geneformer.files.atomic import Workers
with Workers(Path(sys.argv[1])) as workers:
    print(workers.name, flush=True)
    time.sleep(60)
"""


def test_a_worker_is_there_until_it_leaves(tmp_path):
    with Workers(tmp_path / "locks") as first:
        with Workers(tmp_path / "locks") as second:
            assert first.is_there(second.name)
            assert second.is_there(first.name)
            assert first.is_there(first.name)
        assert not first.is_there(second.name)


def test_a_killed_worker_is_gone_at_once(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", STAY, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    name = process.stdout.readline().strip()
    with Workers(tmp_path) as here:
        assert here.is_there(name)
        process.kill()
        process.wait()
        assert not here.is_there(name)
        assert not (tmp_path / f"{name}.lock").exists()
    process.stdout.close()


def test_one_process_claims_at_a_time(tmp_path):
    code = STAY.replace("print", "claimed = workers.claiming(); claimed.__enter__(); print")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    from filelock import FileLock, Timeout

    try:
        with FileLock(tmp_path / "claim.lock", timeout=0.05):
            raise AssertionError
    except Timeout:
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    start = time.monotonic()
    with Workers(tmp_path) as here, here.claiming():
        assert time.monotonic() - start < 30  # the lock of the dead process does not last


def test_alone_there_are_no_files():
    with Workers(None) as alone, alone.claiming():
        assert alone.is_there("anyone")


SOME = st.recursive(
    st.integers(-9, 9) | st.text(max_size=3) | st.none() | arrays.arrays(np.int64, st.integers(0, 3)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(SOME, SOME)
def test_a_digest_tells_values_apart(one, other):
    assert (digest(one) == digest(other)) == (ordered(one) == ordered(other))


def ordered(value):
    """The value as text, tables by name."""
    if isinstance(value, dict):
        return repr({name: ordered(value[name]) for name in sorted(value)})
    return repr([ordered(entry) for entry in value]) if isinstance(value, list) else repr(value)


def test_a_digest_sees_shape_and_type():
    ones = np.ones(4, dtype=np.int64)
    assert digest(ones) == digest(ones.copy())
    assert len({digest(ones), digest(ones.reshape(2, 2)), digest(ones.astype(np.int32)), digest(ones * 2)}) == 4
    assert digest(np.array(["a", None], dtype=object)) != digest(np.array(["a", "None"], dtype=object))
