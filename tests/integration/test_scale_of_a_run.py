"""A scale from the command line to the table: what is said before the work, what the card and the table name."""

from __future__ import annotations

import pytest
from command_line import TINY_NETWORK, TINY_PROTOCOL, card, invoke
from generated import SIZE, write_images

RUN = ("run", "method=random", "dataset=folder", "dataset.root=scans", f"dataset.preprocess.image_size={SIZE}",
       *TINY_NETWORK, *TINY_PROTOCOL)  # fmt: skip


@pytest.fixture
def bench(tmp_path):
    for split, count in (("train", 8), ("test", 4)):
        write_images(tmp_path / "scans" / split, ("disc", "square"), count)
    return lambda *arguments: invoke(*arguments, cwd=tmp_path)


def test_a_folder_is_distilled_at_the_laptop_s_scale_which_is_said_first_and_last(bench, tmp_path):
    result = bench(*RUN, "hydra.run.dir=runs/laptop")
    assert result.code == 0, result.err
    assert result.err.splitlines()[0].startswith("scale laptop, since nobody published how to distil this data set")
    assert "scale: laptop" in result.out.splitlines()
    assert card(tmp_path / "runs/laptop")["scale"] == "laptop"
    assert "Made at scale laptop." in bench("compare", "runs").out
    other = bench(*RUN, "scale=workstation", "seed=1", "hydra.run.dir=runs/workstation")
    assert other.err.splitlines()[0] == "scale workstation"
    table = bench("compare", "runs", "--format", "csv").out
    assert "Random subset, scale laptop" in table, "two scales are not pooled into one row"
    assert "Random subset, scale workstation" in table


def test_the_scale_of_a_set_goes_where_the_set_goes(bench, tmp_path):
    """A set is judged by a protocol, and an exported one on data that have a scale of their own."""
    assert bench(*RUN, "scale=workstation", "hydra.run.dir=made").code == 0
    for given in ((), ("scale=workstation",)):
        judged = bench("eval", "synthetic=made", *given, f"hydra.run.dir=judged{len(given)}")
        assert judged.code == 0, judged.err
        assert card(tmp_path / f"judged{len(given)}")["scale"] == "workstation"
    refused = bench("eval", "synthetic=made", "scale=laptop")
    assert refused.code == 2
    assert "scale: the run was made at workstation, not at laptop" in refused.err
    assert bench("export", "made", "--format", "safetensors", "-o", "given").code == 0
    again = bench("eval", "synthetic=given", *RUN[2:], "hydra.run.dir=again")
    assert again.code == 0, again.err
    assert "scale laptop, since" in again.err
    assert card(tmp_path / "again")["scale"] == "workstation"


def test_scales_are_listed_and_a_wrong_one_is_refused(bench):
    assert "auto, laptop, published, workstation" in bench("list", "settings").out
    refused = bench(*RUN, "scale=desktop")
    assert refused.code == 2
    assert "scale 'desktop': no such choice" in refused.err
    assert "Traceback" not in refused.err
