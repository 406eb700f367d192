"""What a border changes, against a loop over frames."""

import numpy as np
import pytest
import torch

from datamodules.sample_order import uniform
from experiments.benchmarks.borders import border_rows, border_table


@pytest.fixture
def codec(codec):
    codec.checksum = "c"
    return codec


def test_codes_are_compared_by_their_distance_from_the_border(codec):
    wav = torch.randn(1, 900 * 8, generator=torch.Generator().manual_seed(0))
    rows = {(row.what, row.distance): row for row in border_table(codec, [wav], seconds=4.0, crops=3)}
    whole = codec.encode(wav[None])[0]
    wanted = {}
    for crop in range(3):
        start = int(uniform(0, crop, "border") * (900 - 400 + 1))
        alone = codec.encode(wav[None, :, start * 8 : (start + 400) * 8])[0]
        for distance in range(200):
            for side, frame in (("left", distance), ("right", 399 - distance)):
                same = (alone[:, frame] == whole[:, start + frame]).numpy()
                wanted.setdefault((side, distance), []).append(same)
    for (what, distance), row in rows.items():
        begin, _, end = distance.partition("-")
        side = what.split()[-2]
        same = [s for d in range(int(begin), min(200, int(end or begin) + 1)) for s in wanted[side, d]]
        assert row.what == f"crops of 4 s, from the {side} border"
        assert row.frames == len(same)
        np.testing.assert_allclose(row.equal, np.mean(same, 0))
    # The border is felt, but not far from it.
    assert min(rows["crops of 4 s, from the left border", "0"].equal) < 1
    assert rows["crops of 4 s, from the left border", "128-255"].equal == (1,) * 4
    assert rows["crops of 4 s, from the right border", "128-255"].equal == (1,) * 4


def test_seams_are_felt_only_without_context(codec):
    wav = torch.randn(1, 100_000, generator=torch.Generator().manual_seed(1))
    rows = border_table(codec, [wav], crops=0)
    without, with_context = ([row for row in rows if name in row.what] for name in ("no context", "writer's context"))
    assert {row.equal for row in with_context} == {(1,) * 4}
    assert {row.what.split()[-3] for row in with_context} == {"behind", "before"}
    assert min(min(row.equal) for row in without) < 1


def test_without_a_codec_there_are_no_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    assert border_rows(say=said.append) == []
    assert "make demo" in said[0]
