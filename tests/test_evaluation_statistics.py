"""Statistics files: round trip, fadtk's form, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from datamodules.errors import InputError
from evaluation.fad import frechet_distance
from evaluation.statistics_files import read_fadtk_statistics, read_statistics, write_statistics

JUDGE = SimpleNamespace(name="nano", checksum="ab" * 32, sample_rate=16000, window=2.0)


def statistics(seed=0, d=6):
    values = np.random.default_rng(seed).normal(size=(50, d))
    return values.mean(0), np.cov(values, rowvar=False)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "reference.npz"
    write_statistics(path, *statistics(), 50, JUDGE, "musiccaps.jsonl, sha256 0123")
    return path


def test_what_is_written_is_read(written):
    found = read_statistics(written, JUDGE)
    mean, covariance = statistics()
    np.testing.assert_array_equal(found.mean, mean)
    np.testing.assert_array_equal(found.covariance, covariance)
    assert (found.judge, found.checksum, found.count) == ("nano", "ab" * 32, 50)
    assert (found.sample_rate, found.window, found.source) == (16000, 2.0, "musiccaps.jsonl, sha256 0123")
    assert frechet_distance(found.mean, found.covariance, mean, covariance) < 1e-12
    assert [path.name for path in written.parent.iterdir()] == ["reference.npz"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "vggish"}, "statistics of judge 'nano', not of 'vggish'"),
        ({"checksum": "cd" * 32}, "checksum of judge 'nano' was abab.* and is cdcd"),
        ({"sample_rate": 48000}, "sample_rate of judge 'nano' was 16000 there and is 48000"),
        ({"window": 10.0}, r"window of judge 'nano' was 2.0 there and is 10.0"),
    ],
)
def test_another_judges_file_is_refused_by_name(written, change, says):
    with pytest.raises(InputError, match=says):
        read_statistics(written, SimpleNamespace(**(vars(JUDGE) | change)))


def test_fadtks_form_is_read_by_model(tmp_path):
    path = tmp_path / "fma_pop.npz"
    mean, covariance = statistics(1)
    np.savez(
        path, **{"vggish.mu": mean, "vggish.cov": covariance, "clap-2023.mu": mean[:2], "clap-2023.cov": np.eye(2)}
    )
    found = read_fadtk_statistics(path, "vggish")
    np.testing.assert_array_equal(found.covariance, covariance)
    assert (found.judge, found.count, found.checksum, found.sample_rate) == ("vggish", None, None, None)
    assert "fadtk fma_pop.npz, sha256 " in found.source
    assert read_fadtk_statistics(path, "clap-2023").mean.shape == (2,)
    with pytest.raises(InputError, match="no statistics of model 'clap'; it has vggish, clap-2023"):
        read_fadtk_statistics(path, "clap")
    with pytest.raises(InputError, match="it is fadtk's, with vggish, clap-2023"):
        read_statistics(path, JUDGE)


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "boom"), "w")

    path = tmp_path / "bomb.npz"
    bomb = np.array([Bomb()], dtype=object)
    np.savez(path, **{"vggish.mu": bomb, "vggish.cov": np.eye(1)}, mean=bomb, cov=bomb, about=bomb)
    for read in (lambda: read_fadtk_statistics(path, "vggish"), lambda: read_statistics(path, JUDGE)):
        with pytest.raises(InputError, match="damaged"):
            read()
    assert not (tmp_path / "boom").exists()


def test_broken_files_are_refused(tmp_path, written):
    whole = written.read_bytes()
    for name, content in (("empty", b""), ("cut", whole[: len(whole) // 2]), ("text", b"no archive at all")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: damaged"):
            read_statistics(tmp_path / name, JUDGE)
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    (tmp_path / "flipped").write_bytes(flipped)
    with pytest.raises(InputError, match="flipped: damaged"):
        read_statistics(tmp_path / "flipped", JUDGE)
    np.save(tmp_path / "one.npy", np.eye(3))
    with pytest.raises(InputError, match="one array"):
        read_statistics(tmp_path / "one.npy", JUDGE)
    with pytest.raises(InputError, match="no such file"):
        read_fadtk_statistics(tmp_path / "none.npz", "vggish")
    np.savez(tmp_path / "else.npz", a=np.eye(3))
    with pytest.raises(InputError, match="no statistics of this suite"):
        read_statistics(tmp_path / "else.npz", JUDGE)
    with pytest.raises(InputError, match="it has none of any"):
        read_fadtk_statistics(tmp_path / "else.npz", "vggish")


def test_files_that_do_not_say_what_they_are_are_refused(tmp_path, written):
    about = json.loads(str(np.load(written)["about"]))
    mean, covariance = statistics()
    for broken, says in (({"format": 2}, "format is not 1"), ({"source": None}, "does not say its source")):
        path = tmp_path / "broken.npz"
        np.savez(path, mean=mean, cov=covariance, about=np.array(json.dumps(about | broken)))
        with pytest.raises(InputError, match=says):
            read_statistics(path, JUDGE)


def test_what_is_no_gaussian_is_refused(tmp_path):
    mean, covariance = statistics()
    skewed, negative, endless = covariance.copy(), covariance - 9 * np.eye(6), mean * np.nan
    skewed[0, 1] += 1
    for wrong, says in (
        ((mean[:3], covariance), "mean .D."),
        ((mean, skewed), "symmetric"),
        ((mean, negative), "at least 0"),
        ((endless, covariance), "finite"),
    ):
        with pytest.raises(InputError, match=says):
            write_statistics(tmp_path / "wrong.npz", *wrong, 50, JUDGE, "made up")
        np.savez(tmp_path / "theirs.npz", **{"m.mu": wrong[0], "m.cov": wrong[1]})
        with pytest.raises(InputError, match=rf"theirs\.npz.*{says}"):
            read_fadtk_statistics(tmp_path / "theirs.npz", "m")
    assert not (tmp_path / "wrong.npz").exists()
