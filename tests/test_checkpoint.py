"""Checkpoints: which are kept, what they restore, and the errors of broken ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from selfreg.run.checkpoint import Checkpoints, restore
from selfreg.run.records import Checkpoint
from selfreg.run.rundir import saved_steps


def trees(value):
    return {"params": {"w": jnp.full((3, 2), value)}, "moments": {"count": jnp.int32(value)}}


def test_start_peak_and_latest_are_kept_and_the_rest_is_not(tmp_path):
    checkpoints = Checkpoints(tmp_path, 0)
    for step, peak in [(0, 0.3), (2, 0.4), (4, None), (5, 0.5), (6, None), (8, None)]:
        checkpoints.save(step, trees(step), peak_value=peak)
    checkpoints.close()
    kept = {int(p.name) for p in (tmp_path / "campaign_00").iterdir() if p.name.isdigit()}
    assert kept == {0, 5, 8}
    assert Checkpoints(tmp_path, 0).steps()[-1] == 8
    for step in kept:
        back = restore(tmp_path, Checkpoint(0, step), trees(0))
        np.testing.assert_array_equal(back["params"]["w"], np.full((3, 2), step))
        assert back["moments"]["count"] == step


def test_a_peak_outlives_the_process_that_saved_it(tmp_path):
    for saves in ([(0, 0.3), (2, 0.4), (3, None)], [(4, None), (6, None)]):
        checkpoints = Checkpoints(tmp_path, 0)
        for step, peak in saves:
            checkpoints.save(step, trees(step), peak_value=peak)
        checkpoints.close()
    assert saved_steps(tmp_path, 0) == [0, 2, 6]


def test_only_the_trees_asked_for_are_read(tmp_path):
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(0, trees(7))
    checkpoints.close()
    assert restore(tmp_path, Checkpoint(1, 0), {"params": trees(0)["params"]}).keys() == {"params"}


def test_saved_arrays_may_be_donated_at_once(tmp_path):
    checkpoints, saved = Checkpoints(tmp_path, 0), trees(3)
    checkpoints.save(0, saved)
    saved["params"]["w"].delete()
    checkpoints.close()
    back = restore(tmp_path, Checkpoint(0, 0), trees(0))
    np.testing.assert_array_equal(back["params"]["w"], np.full((3, 2), 3))


@pytest.mark.parametrize("damage", ["missing", "torn", "misshapen"])
def test_an_unreadable_checkpoint_is_named(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path, 0)
    checkpoints.save(0, trees(1))
    checkpoints.close()
    place, like = tmp_path / "campaign_00" / "0", trees(0)
    if damage == "torn":
        for file in (place / "params").rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if damage == "misshapen":
        like["params"]["w"] = jnp.zeros((4, 2))
    with pytest.raises(ValueError, match=r"campaign_00/.* cannot be read"):
        restore(tmp_path, Checkpoint(0, 9 if damage == "missing" else 0), like)
