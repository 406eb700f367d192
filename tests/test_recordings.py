"""Recordings fetched as Debian packages and collected: tiny packages; no network, no Debian needed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_packages import COPYRIGHT, STK, WESNOTH, ZAZ, files_below, ogg, write_deb, zaz_files

from datamodules.errors import InputError
from datamodules.recordings import all_unpacked, collect, fetch, fetching, write_attribution
from datamodules.recordings.debs import unpack
from datamodules.recordings.packages import with_known_names
from datamodules.recordings.tags import read_tags, title_from_name


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
