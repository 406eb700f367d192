"""What comes out of Debian packages: tiny ones, built here byte by byte; no network, no Debian needed."""

import io
import lzma
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_packages import COPYRIGHT, STK, WESNOTH, ZAZ, ZEROAD, files_below, ogg, tar_of, write_deb, zaz_files

from datamodules.errors import InputError
from datamodules.recordings import PACKAGES, choose, debs
from datamodules.recordings.copyright import (
    Stanza,
    glob_matches,
    read_copyright,
    source_of,
    stanza_of,
    why_not_free,
)
from datamodules.recordings.debs import unpack, unpacked


@pytest.fixture(params=["dpkg-deb", "python"])
def reader(request, monkeypatch):
    """Both ways to read a .deb: Debian's own program, and none."""
    if request.param == "dpkg-deb" and not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg-deb here")
    if request.param == "python":
        monkeypatch.setattr(debs.shutil, "which", lambda name: None)
    return request.param


# ---- the list


def test_no_package_of_the_benchmark_and_none_of_unclear_terms_is_in_the_list():
    names = {name for package in PACKAGES for name in package.names}
    assert len(PACKAGES) == 16
    assert not names & {
        "naev-data", "ufoai-music", "warzone2100-music", "nexuiz-music", "singularity-music", "pushover-data",
        "fretsonfire-songs-muldjord", "drascula-music", "trackballs-data", "freedink-data", "planetblupi",
    }  # fmt: skip
    assert choose(None) == list(PACKAGES)
    assert choose(["wesnoth-1.14-music", "wesnoth-1.18-music"]) == [WESNOTH]
    with pytest.raises(InputError, match="naev-data"):
        choose(["naev-data"])


def test_a_version_in_a_folders_name_and_an_archive_are_part_of_the_root():
    assert WESNOTH.relative("usr/share/games/wesnoth/1.18/data/core/music/sad.ogg") == "data/core/music/sad.ogg"
    assert ZEROAD.relative("usr/share/games/0ad/mods/public/public.zip") == ""
    assert ZEROAD.relative("usr/share/games/0ad/mods/mod/mod.zip") is None
    assert STK.relative("usr/share/games/supertux2/music/x.ogg") is None


# ---- copyright files


def by_hand(pattern: str, path: str) -> bool:
    """DEP-5's rules for patterns, tried one by one."""
    if not pattern:
        return not path
    if pattern[0] == "*":
        return by_hand(pattern[1:], path) or (bool(path) and by_hand(pattern, path[1:]))
    if pattern[0] == "\\" and pattern[1:2] and pattern[1] in "*?\\":
        return path[:1] == pattern[1] and by_hand(pattern[2:], path[1:])
    return bool(path) and pattern[0] in ("?", path[0]) and by_hand(pattern[1:], path[1:])


@given(st.text("ab/*?\\.[", max_size=7), st.text("ab/*\\.[", max_size=7))
def test_patterns_match_as_the_standard_says(pattern, path):
    assert glob_matches(pattern, path) == by_hand(pattern, path)


@given(
    st.lists(st.lists(st.text("ab/*?", min_size=1, max_size=4), min_size=1, max_size=3), max_size=4),
    st.text("ab/", min_size=1, max_size=5),
)
def test_of_several_stanzas_the_last_counts(stanzas, path):
    expected = None
    for number, patterns in enumerate(stanzas):
        if any(by_hand(pattern, path) for pattern in patterns):
            expected = number
    text = "Format: 1.0\n\n" + "\n".join(
        f"Files:{''.join(f'{chr(10)} {pattern}' for pattern in patterns)}\nCopyright: {number}\nLicense: MIT\n text\n"
        for number, patterns in enumerate(stanzas)
    )
    found = stanza_of(path, read_copyright(text))
    assert (found and found.holders) == (None if expected is None else (str(expected),))


def test_fields_are_read_with_their_further_lines():
    stanzas = read_copyright(COPYRIGHT)
    assert [one.licence for one in stanzas] == ["GPL-2+", "CC-BY-SA-3.0", "CC-BY-NC-3.0", "of-my-own"]
    assert stanzas[0] == Stanza(("*",), "GPL-2+", ("2001 A", "2002 B"))
    assert stanzas[1].files == ("data/mus1.ogg", "data/mus?.ogg")
    assert stanzas[1].holder == "Ann Author"
    assert source_of(COPYRIGHT) == "https://example.org/game"
    assert read_copyright("This package was debianized by somebody.\n\nLicense: GPL\n") is None


@pytest.mark.parametrize(
    ("notice", "holder"),
    [
        ("2011, Obsidian Shell", "Obsidian Shell"),
        ("Copyright (C) 2009, Remigiusz Dybka <dybka@example.org>", "Remigiusz Dybka"),
        ("© 2002-2019 by the Team", "the Team"),
        ("2016, 2022 GeekPenguinBR, Heuchi1", "GeekPenguinBR, Heuchi1"),
        ("Will Savino (http://www.example.org)", "Will Savino"),
        ("Claude Werner (bollen)", "Claude Werner (bollen)"),
        ("0zone0ne", "0zone0ne"),
        ("Unknown Horizons Team", "Unknown Horizons Team"),
        ("unknown", None),
        ("2012-2021 Clint Bellanger and others", None),
        ("commissioned by Bart Kelsey (http://opengameart.org)", None),
        ("Not Applicable---Public Domain", None),
        ("2004", None),
    ],
)
def test_the_holder_is_a_name_without_years_and_addresses(notice, holder):
    assert Stanza(("*",), "MIT", (notice,)).holder == holder
    assert Stanza(("*",), "MIT", (notice, "somebody else")).holder is None


def test_licences_are_free_not_free_or_unknown():
    for name in (
        "GPL-2+", "GPL", "CC-BY-SA-3.0+", "CC-BY-SA", "CC0", "public-domain", "GPL-2+ OR CC-BY-SA", "Expat",
        "CC-BY-NC-3.0 or GPL-2", "GPL-3+ with Font exception", "zlib or GPL-2 or CC-BY-3.0", "GPL-2 and CC-BY-4.0, MIT",
    ):  # fmt: skip
        assert why_not_free(name) == ""
    for name in ("CC-BY-NC-3.0", "CC-BY-ND-4.0", "GPL-2 and CC-BY-NC-SA-2.0", "GPL-2 or MIT, and CC-BY-NC-4.0"):
        assert "is not a free one" in why_not_free(name)
    for name in ("", "of-my-own", "GPL-2 and of-my-own", "Sunny"):
        assert "cannot be told" in why_not_free(name)


# ---- unpacking


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_only_music_and_copyright_come_out_of_a_package(tmp_path, reader, compression):
    deb = write_deb(tmp_path / "zaz-data_1%3a1.0-1_all.deb", zaz_files(), compression)
    found = unpack(deb, ZAZ, tmp_path / "out")
    assert (found.name, found.version) == ("zaz-data", "1:1.0-1")
    assert files_below(tmp_path / "out") == [
        "zaz-data/copyright", *(f"zaz-data/files/mus{n}.ogg" for n in range(1, 7)), "zaz-data/package.json",
    ]  # fmt: skip
    assert (found.files / "mus2.ogg").read_bytes() == ogg(pitch=330)
    assert unpacked(ZAZ, tmp_path / "out") == found


def zip_of(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name, data in files.items():
            out.writestr(name, data)
    return file.getvalue()


def test_music_comes_out_of_an_archive_within_the_package(tmp_path, reader):
    inside = zip_of({"audio/music/a.ogg": b"a", "audio/voice/b.ogg": b"b", "audio/LICENSE.txt": b"terms"})
    deb = write_deb(
        tmp_path / "0ad-data_1_all.deb",
        {"./usr/share/games/0ad/mods/public/public.zip": inside, "./usr/share/games/0ad/mods/mod/mod.zip": b"other"},
    )
    unpack(deb, ZEROAD, tmp_path / "out")
    assert files_below(tmp_path / "out" / "0ad-data") == [
        "credits/audio/LICENSE.txt",
        "files/audio/music/a.ogg",
        "package.json",
    ]


@pytest.mark.parametrize("guard", ["ours and tarfile's", "tarfile's alone"])
def test_nothing_lands_outside_of_the_folder(tmp_path, reader, guard, monkeypatch):
    if guard == "tarfile's alone":
        monkeypatch.setattr(debs, "_place", lambda package, relative: f"files/{relative}")
    for name in ("mus/../../../../evil.ogg", "mus/../../../../../../../../../../../tmp/evil.ogg"):
        deb = write_deb(tmp_path / "debs" / "zaz-data_1_all.deb", {f"./usr/share/games/zaz/{name}": ogg()})
        with pytest.raises(InputError, match=r"leads elsewhere|outside the destination"):
            unpack(deb, ZAZ, tmp_path / "a" / "b")
    assert files_below(tmp_path) == ["debs/zaz-data_1_all.deb"]
    assert not Path("/tmp/evil.ogg").exists()


def test_nothing_in_an_archive_lands_outside_either(tmp_path):
    inside = zip_of({"audio/music/../../../../../evil.ogg": b"evil"})
    deb = write_deb(tmp_path / "0ad-data_1_all.deb", {"./usr/share/games/0ad/mods/public/public.zip": inside})
    with pytest.raises(InputError, match="leads elsewhere"):
        unpack(deb, ZEROAD, tmp_path / "a" / "b")
    assert files_below(tmp_path) == [deb.name]


def test_links_are_not_followed(tmp_path, reader):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:xz") as tar:
        for name, target in (("mus1.ogg", "/etc/passwd"), ("mus", str(tmp_path))):
            member = tarfile.TarInfo(f"./usr/share/games/zaz/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
        member = tarfile.TarInfo("./usr/share/games/zaz/mus/evil.ogg")
        tar.addfile(member)
    deb = write_deb(tmp_path / "zaz-data_1_all.deb", file.getvalue())
    unpack(deb, ZAZ, tmp_path / "out")
    assert files_below(tmp_path) == ["out/zaz-data/files/mus/evil.ogg", "out/zaz-data/package.json", deb.name]


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.95])
def test_a_damaged_package_is_refused_and_leaves_nothing(tmp_path, reader, share):
    deb = write_deb(tmp_path / "zaz-data_1_all.deb", zaz_files())
    deb.write_bytes(deb.read_bytes()[: int(share * deb.stat().st_size)])
    with pytest.raises(InputError, match="is damaged"):
        unpack(deb, ZAZ, tmp_path / "out")
    assert files_below(tmp_path) == [deb.name]


def test_damage_at_the_very_end_is_seen(tmp_path, reader):
    """Behind the last file there is more to check: here, much more."""
    tar = tar_of(zaz_files(), "w") + np.random.default_rng(0).bytes(1 << 20)
    deb = write_deb(tmp_path / "zaz-data_1_all.deb", lzma.compress(tar, preset=0))
    unpack(deb, ZAZ, tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole")
    data = bytearray(deb.read_bytes())
    data[data.index(b"_gpgorigin") - 20] ^= 255
    deb.write_bytes(data)
    with pytest.raises(InputError, match="is damaged"):
        unpack(deb, ZAZ, tmp_path / "out")
    assert files_below(tmp_path) == [deb.name]


def test_a_package_without_music_where_it_used_to_lie_is_refused(tmp_path, reader):
    deb = write_deb(tmp_path / "zaz-data_1_all.deb", {"./usr/share/games/zaz/level.bin": b"0"})
    with pytest.raises(InputError, match="holds no music"):
        unpack(deb, ZAZ, tmp_path / "out")


def test_zstd_without_dpkg_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(debs.shutil, "which", lambda name: None)
    deb = write_deb(tmp_path / "zaz-data_1_all.deb", zaz_files())
    deb.write_bytes(deb.read_bytes().replace(b"data.tar.xz ", b"data.tar.zst"))
    with pytest.raises(InputError, match="zstd"):
        unpack(deb, ZAZ, tmp_path / "out")
