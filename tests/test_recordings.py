"""Recordings out of Debian packages: tiny packages, built here byte by byte; no network, no Debian needed."""

import io
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import InputError
from datamodules.recordings import PACKAGES, all_unpacked, choose, collect, debs, fetch, fetching, write_attribution
from datamodules.recordings.copyright import (
    Stanza,
    glob_matches,
    read_copyright,
    source_of,
    stanza_of,
    why_not_free,
)
from datamodules.recordings.debs import unpack, unpacked
from datamodules.recordings.packages import with_known_names
from datamodules.recordings.tags import read_tags, title_from_name

ZAZ = choose(["zaz-data"])[0]
STK = choose(["supertuxkart-data"])[0]
ZEROAD = choose(["0ad-data"])[0]
WESNOTH = choose(["wesnoth-1.16-music"])[0]
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Source: https://example.org/game

Files: *
Copyright: 2001 A
           2002 B
License: GPL-2+

Files: data/mus1.ogg data/mus?.ogg
Copyright: 2005-2007, Ann Author <ann@example.org>
License: CC-BY-SA-3.0
 The text of the licence
 .
 Files: of no stanza

Files: data/mus3.ogg
Copyright: Carl
License: CC-BY-NC-3.0

Files: data/mus4.ogg
Copyright: Dora
License: of-my-own
"""


@lru_cache
def ogg(seconds: float = 21.0, pitch: float = 220.0, **tags: str) -> bytes:
    file = io.BytesIO()
    file.name = "x.ogg"
    wav = 0.3 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * 8000)) / 8000)
    with soundfile.SoundFile(file, "w", samplerate=8000, channels=1, format="OGG", subtype="VORBIS") as out:
        for name, value in tags.items():
            setattr(out, name, value)
        out.write(wav)
    return file.getvalue()


def tar_of(files: dict[str, bytes], mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def write_deb(path: Path, files: dict[str, bytes] | bytes, compression: str = "xz") -> Path:
    """A .deb of these files, or of a tar that is made already."""
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": tar_of({"./control": b"Package: x\n"}, "w:gz"),
        f"data.tar.{compression}": files if isinstance(files, bytes) else tar_of(files, f"w:{compression}"),
        "_gpgorigin": b"a signature of somebody's",
    }
    data = b"!<arch>\n"
    for name, part in parts.items():
        data += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(part):<10}`\n".encode() + part + b"\n" * (len(part) % 2)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def zaz_files(copyright_text: str = COPYRIGHT) -> dict[str, bytes]:
    root = "./usr/share/games/zaz/"
    return {
        root + "mus1.ogg": ogg(title="The Title", artist="The Artist", comment="Licensed under CC-BY-SA 2.0"),
        root + "mus2.ogg": ogg(pitch=330),
        root + "mus3.ogg": ogg(pitch=440),
        root + "mus4.ogg": ogg(pitch=550),
        root + "mus5.ogg": ogg(seconds=2.0),
        root + "mus6.ogg": b"no audio at all",
        root + "pling.ogg": ogg(seconds=1.0),
        root + "level.bin": b"0",
        "./usr/share/doc/zaz-data/copyright": copyright_text.encode(),
        "./usr/share/doc/zaz-data/changelog.gz": b"0",
    }


@pytest.fixture(params=["dpkg-deb", "python"])
def reader(request, monkeypatch):
    """Both ways to read a .deb: Debian's own program, and none."""
    if request.param == "dpkg-deb" and not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg-deb here")
    if request.param == "python":
        monkeypatch.setattr(debs.shutil, "which", lambda name: None)
    return request.param


@pytest.fixture
def zaz(tmp_path):
    """A folder of .deb files with the package zaz-data in it."""
    return write_deb(tmp_path / "debs" / "zaz-data_1%3a1.0-1_all.deb", zaz_files()).parent


@pytest.fixture
def apt(tmp_path, monkeypatch, zaz):
    """An apt-get that serves the folder of .deb files, and a list of what it was asked to download."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg-deb here")
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(
        textwrap.dedent(f"""\
        #!{sys.executable}
        import shutil, sys
        from pathlib import Path
        name = sys.argv[-1]
        found = sorted(Path({str(zaz)!r}).glob(name + "_*.deb"))
        if not found:
            sys.exit(f"E: Unable to locate package {{name}}")
        if "--print-uris" in sys.argv:
            print(f"'http://example.org/{{name}}.deb' {{found[0].name}} {{found[0].stat().st_size}} SHA256:0")
        else:
            with open({str(tmp_path / "asked")!r}, "a") as log:
                log.write(name + chr(10))
            if Path({str(tmp_path / "offline")!r}).exists():
                sys.exit("E: Failed to fetch: no network")
            shutil.copy(found[0], ".")
        """)
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    asked = tmp_path / "asked"
    return lambda: asked.read_text().split() if asked.exists() else []


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


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


# ---- fetching


def test_without_debian_one_line_says_what_is_needed(tmp_path, monkeypatch, zaz):
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"^[^\n]*Debian or Ubuntu \(apt-get and dpkg-deb\), or --debs FOLDER[^\n]*$"):
        fetch([ZAZ], tmp_path / "out", say=lambda line: None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds none of the packages"):
        fetch([ZAZ], tmp_path / "out", tmp_path / "empty", say=lambda line: None)
    with pytest.raises(InputError, match="no such folder"):
        fetch([ZAZ], tmp_path / "out", tmp_path / "nowhere")
    said = []
    assert fetch([ZAZ, STK], tmp_path / "out", zaz, say=said.append) == []
    assert any("supertuxkart-data: not in --debs, and there is no apt-get" in line for line in said)
    assert [found.name for found in all_unpacked(tmp_path / "out")] == ["zaz-data"]
    assert files_below(zaz) == ["zaz-data_1%3a1.0-1_all.deb"]  # theirs stay


def test_apt_get_downloads_what_there_is_once(tmp_path, apt, zaz):
    music = {"./usr/share/games/wesnoth/1.16/data/core/music/sad.ogg": ogg()}
    write_deb(zaz / "wesnoth-1.16-music_1_all.deb", music)
    said = []
    assert fetch([STK, WESNOTH, ZAZ], tmp_path / "out", say=said.append) == []
    assert apt() == ["wesnoth-1.16-music", "zaz-data"]
    assert any("supertuxkart-data: this release does not have it" in line for line in said)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == apt()  # no download is left lying about
    assert fetch([WESNOTH, ZAZ], tmp_path / "out", say=said.append) == []
    assert apt() == ["wesnoth-1.16-music", "zaz-data"]


def test_a_folder_of_packages_comes_before_apt_get(tmp_path, apt, zaz):
    own = tmp_path / "own"
    own.mkdir()
    (zaz / "zaz-data_1%3a1.0-1_all.deb").rename(own / "zaz-data_1_all.deb")
    write_deb(zaz / "wesnoth-1.16-music_1_all.deb", {"./usr/share/games/wesnoth/1.16/data/core/music/sad.ogg": ogg()})
    fetch([WESNOTH, ZAZ], tmp_path / "out", own, say=lambda line: None)
    assert apt() == ["wesnoth-1.16-music"]
    assert len(all_unpacked(tmp_path / "out")) == 2


def test_empty_lists_of_apt_are_said(tmp_path, apt):
    with pytest.raises(InputError, match="apt-get update"):
        fetch([STK], tmp_path / "out", say=lambda line: None)


def test_a_failed_download_is_told_and_the_next_run_goes_on(tmp_path, apt):
    (tmp_path / "offline").touch()
    failed = fetch([ZAZ], tmp_path / "out", say=lambda line: None)
    assert len(failed) == 1
    assert "zaz-data: apt-get could not download it (E: Failed to fetch" in failed[0]
    assert files_below(tmp_path / "out") == []
    (tmp_path / "offline").unlink()
    assert fetch([ZAZ], tmp_path / "out", say=lambda line: None) == []
    assert all_unpacked(tmp_path / "out")


def test_too_little_room_is_said_before_anything_is_fetched(tmp_path, apt, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: usage._replace(free=ZAZ.megabytes * 10**6))
    with pytest.raises(InputError, match=r"0\.0 GB are free and 0\.0 GB are wanted"):
        fetch([ZAZ], tmp_path / "out", say=lambda line: None)
    assert apt() == []


KILLED = """
import os, signal, sys
from pathlib import Path
from datamodules.recordings import choose, debs, fetch
take, left = debs._take, int(sys.argv[3])
def dying(*arguments):
    global left
    take(*arguments)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
debs._take = dying
fetch(choose(["zaz-data"]), Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("after", [1, 9])
def test_a_run_that_was_killed_is_taken_up(tmp_path, zaz, after):
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "out"), str(zaz), str(after)], cwd=root, capture_output=True
    )
    assert run.returncode == -signal.SIGKILL
    assert all_unpacked(tmp_path / "out") == []
    assert files_below(tmp_path / "out")
    fetch([ZAZ], tmp_path / "out", zaz, say=lambda line: None)
    assert len(all_unpacked(tmp_path / "out")) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["zaz-data"]


# ---- collecting


def collected(tmp_path, zaz):
    fetch([ZAZ], tmp_path / "out" / "packages", zaz, say=lambda line: None)
    found = collect(all_unpacked(tmp_path / "out" / "packages"), tmp_path / "out")
    write_attribution(found, tmp_path / "out")
    return found


def test_what_is_free_and_long_enough_is_kept_and_the_rest_is_listed(tmp_path, zaz):
    found = collected(tmp_path, zaz)
    out = tmp_path / "out"
    assert [(piece.path, piece.original, piece.stanza.licence) for piece in found.pieces] == [
        ("audio/zaz-data/mus1.ogg", "data/mus1.ogg", "CC-BY-SA-3.0"),
        ("audio/zaz-data/mus2.ogg", "data/mus2.ogg", "CC-BY-SA-3.0"),
    ]
    assert files_below(out / "audio") == [f"zaz-data/mus{n}.{end}" for n in (1, 2) for end in ("json", "ogg")]
    reasons = {one["original_path"]: one["reason"] for one in map(json.loads, (out / "left_out.jsonl").open())}
    assert "CC-BY-NC-3.0 is not a free one" in reasons["data/mus3.ogg"]
    assert "cannot be told: 'of-my-own'" in reasons["data/mus4.ogg"]
    assert reasons["data/mus5.ogg"] == "too short: 2.0 s"
    assert "cannot be read as audio" in reasons["data/mus6.ogg"]
    assert (out / "LICENCES" / "zaz-data.copyright").read_text() == COPYRIGHT


def test_each_piece_has_a_side_car_that_attributes_it(tmp_path, zaz):
    collected(tmp_path, zaz)
    beside = json.loads((tmp_path / "out" / "audio" / "zaz-data" / "mus1.json").read_text())
    assert beside == {
        "title": "The Title",
        "artist": "The Artist",
        "genre": "video game music",
        "caption": 'Music of the puzzle game Zaz: "The Title", by The Artist.',
        "licence": "CC-BY-SA-3.0",
        "source": "zaz-data 1:1.0-1",
        "original_path": "data/mus1.ogg",
        "attribution": '"The Title" by The Artist, music of the puzzle game Zaz (data/mus1.ogg in Debian package '
        "zaz-data 1:1.0-1). Copyright: 2005-2007, Ann Author <ann@example.org>. Licence: CC-BY-SA-3.0. The file itself "
        "says: Licensed under CC-BY-SA 2.0",
    }
    untagged = json.loads((tmp_path / "out" / "audio" / "zaz-data" / "mus2.json").read_text())
    assert untagged["artist"] == "Ann Author"
    assert untagged["caption"] == "Music of the puzzle game Zaz."
    page = (tmp_path / "out" / "ATTRIBUTION.md").read_text()
    for words in ("## zaz-data 1:1.0-1", "### CC-BY-SA-3.0", "https://example.org/game", "*The Title*, The Artist",
                  "2005-2007, Ann Author <ann@example.org>", "originally `data/mus2.ogg`"):  # fmt: skip
        assert words in page


def test_a_second_run_touches_nothing_and_removes_what_is_no_longer_wanted(tmp_path, zaz):
    collected(tmp_path, zaz)
    out = tmp_path / "out"
    (out / "audio" / "zaz-data" / "mus9.ogg").write_bytes(ogg())
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.rglob("mus[12].*")}
    before |= {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.glob("*.*")}
    collected(tmp_path, zaz)
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in before}
    assert not (out / "audio" / "zaz-data" / "mus9.ogg").exists()


def test_audio_is_copied_where_a_file_cannot_have_two_names(tmp_path, zaz, monkeypatch):
    def refuse(*arguments):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    collected(tmp_path, zaz)
    copy = tmp_path / "out" / "audio" / "zaz-data" / "mus1.ogg"
    number = copy.stat().st_ino
    collected(tmp_path, zaz)
    assert copy.stat().st_ino == number  # not copied again
    assert copy.read_bytes() == (tmp_path / "out" / "packages" / "zaz-data" / "files" / "mus1.ogg").read_bytes()


@pytest.mark.parametrize(
    ("text", "kept"),
    [("GNU General Public License version 2\n   or at your option any later version", True), ("All is mine.", False)],
)
def test_a_copyright_file_in_prose_counts_only_while_it_says_what_it_said(tmp_path, text, kept):
    deb = write_deb(
        tmp_path / "wesnoth-1.16-music_1_all.deb",
        {
            "./usr/share/games/wesnoth/1.16/data/core/music/sad.ogg": ogg(),
            "./usr/share/doc/wesnoth-1.16-music/copyright": text.encode(),
        },
    )
    found = collect([unpack(deb, WESNOTH, tmp_path / "packages")], tmp_path / "out")
    assert [piece.stanza.licence for piece in found.pieces] == (["GPL-2+"] if kept else [])
    assert [one.reason for one in found.left_out] == (
        [] if kept else ["licence cannot be told: the package's copyright file is not machine-readable"]
    )


def test_tags_that_take_back_a_free_licence_are_heeded(tmp_path):
    root = "./usr/share/games/zaz/"
    files = {
        root + "mus1.ogg": ogg(comment="Licensed under http://creativecommons.org/licenses/by-nc-sa/3.0/"),
        root + "mus2.ogg": ogg(copyright="2008, all rights reserved"),
        "./usr/share/doc/zaz-data/copyright": COPYRIGHT.encode(),
    }
    found = collect([unpack(write_deb(tmp_path / "zaz-data_1_all.deb", files), ZAZ, tmp_path / "p")], tmp_path / "out")
    assert found.pieces == ()
    assert all("take back" in one.reason for one in found.left_out)


def test_titles_come_from_names_and_musicians_have_one_name():
    names = {
        "03_-_Along_the_Nile": "Along the Nile", "AlongTheNile": "Along The Nile", "boss-theme": "boss theme",
        "Forging_a_City-State": "Forging a City-State", "007": "007", "ingame_07": "ingame 07",
    }  # fmt: skip
    assert {name: title_from_name(name) for name in names} == names
    assert with_known_names("0zone0ne and Krobonil") == "Max Freeman and Chris Leutwyler"
    assert with_known_names("Chris Leutwyler (Krobonil)") == "Chris Leutwyler"
    assert with_known_names("Wanstimann") == "Wanstimann"


def test_of_the_tags_only_what_tells_something_counts(monkeypatch):
    import tinytag

    def tags(**fields):
        monkeypatch.setattr(tinytag.TinyTag, "get", lambda path: SimpleNamespace(as_dict=lambda: fields))
        return read_tags(Path("hr3-rlyeh.ogg"))

    assert tags(composer=["Jan"], artist=["???"], genre=["Soundtrack", "Folk"], channels=2).artist == "Jan"
    assert tags(genre=["Soundtrack", "Folk"]).genre == "Folk"
    assert tags(genre=["Game"]).genre is None
    several = tags(title=["Living Caves", "Crossroads", "R'Lyeh"])
    assert (several.title, several.named) == ("R'Lyeh", True)
    assert tags(title=["Living Caves", "Crossroads"]).title == "hr3 rlyeh"
    assert tags(title=["One", "One"]).title == "One"


def test_the_command_ends_in_a_manifest(tmp_path, zaz, capsys):
    from datamodules.manifest import read_manifest
    from experiments.commands.recordings import recordings

    recordings(str(tmp_path / "out"), debs=str(zaz), packages=["zaz-data"], workers=1)
    tracks = read_manifest(tmp_path / "out")
    assert {track.facts["licence"] for track in tracks} == {"CC-BY-SA-3.0"}
    assert len(tracks) == 2
    assert {track.facts["source"] for track in tracks} == {"zaz-data 1:1.0-1"}
    assert all("Ann Author" in track.facts["attribution"] and track.caption for track in tracks)
    assert "kept 2 tracks" in capsys.readouterr().out
