"""The packages whose music is for training, and where in them it lies.

Looked through by hand in Debian 12. Not here, on purpose: naev-data, ufoai-music, warzone2100-music, nexuiz-music,
singularity-music, pushover-data and fretsonfire-songs-muldjord are for benchmarks and must stay unheard in training;
the music of drascula-music, trackballs-data, freedink-data and planetblupi comes under special or unclear terms.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from datamodules.errors import InputError
from datamodules.recordings.copyright import Stanza, glob_matches

# Other names that musicians go by, as copyright files and tags tell when read side by side: an artist under two names
# would come to stand on both sides of a split. Who composed for 0 A.D. is mostly not said, Omri Lahav most of it.
MUSICIANS = {
    "0zone0ne": "Max Freeman",
    "Chris Leutwyler (Krobonil)": "Chris Leutwyler",
    "Krobonil": "Chris Leutwyler",
    "Klaus Halfmann aka Hasi50": "Klaus Halfmann",
    "Omri Lahav": "Omri Lahav, Wildfire Games",
    "Wansti": "Marek Moeckel",
    "http://zhaymusic.com/": "Joseph G. Toscano (Zhaytee)",
}
AUDIO_SUFFIXES = (".ogg", ".oga", ".opus", ".flac", ".mp3", ".wav")


@dataclass(frozen=True)
class Prose:
    """How to read a copyright file that only people can: what it must say, and what that means.

    Attributes:
        says: regular expression; it must be found, or the licence counts as unknown (the file may have changed).
        stanza: what then holds for all music of the package.
    """

    says: str
    stanza: Stanza


@dataclass(frozen=True)
class Package:
    """One package.

    Attributes:
        names: the names it goes by in releases of Debian and Ubuntu, the newest first.
        game: what the music was made for, as captions say it.
        root: folder in the package that the other paths are relative to; ``*`` stands for one folder of any name. A
            root that ends in ``.zip/`` is an archive within the package.
        source: what stands in the place of ``root`` in the source tree, which copyright files speak of.
        music: patterns of the files that are music, relative to ``root``.
        left_out: pattern and reason, for what lies among the music but is not to be used.
        credits: patterns of texts that name the musicians; they are kept beside the copyright file.
        megabytes: room that the music takes, and the archive while it is opened.
        prose: for copyright files that are not machine-readable.
    """

    names: tuple[str, ...]
    game: str
    root: str
    source: str
    music: tuple[str, ...]
    megabytes: int
    left_out: tuple[tuple[str, str], ...] = ()
    credits: tuple[str, ...] = ()
    prose: Prose | None = None
    _root: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        inside = re.escape(self.root).replace(r"\*", "[^/]+")
        object.__setattr__(self, "_root", re.compile(inside))

    @property
    def archive(self) -> bool:
        """Whether the music lies in a zip archive within the package."""
        return self.root.endswith(".zip/")

    def relative(self, path: str) -> str | None:
        """``path`` inside the package, relative to the root; None if it lies elsewhere, "" for the root itself."""
        match = self._root.match(path + "/" if self.archive and path.endswith(".zip") else path)
        return None if match is None else path[match.end() :]

    def is_music(self, relative: str) -> bool:
        """Whether a path relative to the root is an audio file among the music."""
        return relative.lower().endswith(AUDIO_SUFFIXES) and any(glob_matches(one, relative) for one in self.music)

    def is_credits(self, relative: str) -> bool:
        """Whether a path relative to the root is a text that names musicians."""
        return any(glob_matches(one, relative) for one in self.credits)


def with_known_names(artist: str) -> str:
    """An artist, or several in one text, under the names that ``MUSICIANS`` gives them."""
    for name, known in MUSICIANS.items():
        artist = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", known, artist)
    return artist


def choose(names: Sequence[str] | None) -> list[Package]:
    """The packages of these names, by any of the names they go by; all of them for None.

    Raises:
        InputError: a name is not in the list.
    """
    known = {name: package for package in PACKAGES for name in package.names}
    for name in names or ():
        if name not in known:
            first = ", ".join(package.names[0] for package in PACKAGES)
            raise InputError(f"--packages: {name!r} is none of the packages for training: {first}")
    return list(PACKAGES) if names is None else list(dict.fromkeys(known[name] for name in names))


PACKAGES = (
    Package(
        ("0ad-data",),
        "the historical strategy game 0 A.D.",
        root="usr/share/games/0ad/mods/public/public.zip/",
        source="binaries/data/mods/public/",
        music=("audio/music/*",),
        credits=("audio/LICENSE.txt", "gui/credits/texts/audio.json"),
        megabytes=3600,
    ),
    Package(
        ("colobot-common-sounds",),
        "the programming and strategy game Colobot",
        root="usr/share/games/colobot/",
        source="data/",
        music=("music/*",),
        left_out=(
            ("music/music010.ogg", "too short: 18 s of music, and silence behind it"),
            ("music/music011.ogg", "too short: 18 s of music, and silence behind it"),
        ),
        megabytes=60,
    ),
    Package(
        ("extremetuxracer-data",),
        "the downhill racing game Extreme Tux Racer",
        root="usr/share/games/etr/",
        source="data/",
        music=("music/*",),
        credits=("music/readme", "credits.lst"),
        megabytes=30,
    ),
    Package(
        ("flare-game",),
        "the fantasy role-playing game Flare",
        root="usr/share/games/flare/",
        source="",
        music=("mods/*/music/*",),
        left_out=(("*/wind_ambient.ogg", "sound of wind, not music"),),
        credits=("mods/*/cutscenes/credits.txt",),
        megabytes=60,
    ),
    Package(
        ("freedroidrpg-data",),
        "the science-fiction role-playing game FreedroidRPG",
        root="usr/share/freedroidrpg/",
        source="",
        music=("data/sound/music/*",),
        left_out=(
            ("*/TheBeginning.ogg", "licence cannot be told: a release of the label kahvi.org, which is not mentioned"),
            ("*/Bleostrada.ogg", "licence cannot be told: a release of the label kahvi.org, which is not mentioned"),
            ("*/Daybreak.ogg", "licence cannot be told: a release of the label kahvi.org, which is not mentioned"),
        ),
        credits=("data/base/titles/Credits.lua", "data/sound/README"),
        megabytes=80,
    ),
    Package(
        ("hedgewars-data",),
        "the turn-based artillery game Hedgewars",
        root="usr/share/games/hedgewars/",
        source="share/hedgewars/",
        music=("Data/Music/*",),
        left_out=(("*/sdmusic.ogg", "licence cannot be told: credited to Kevin MacLeod, who is not mentioned"),),
        credits=("Data/Music/credits.txt",),
        megabytes=100,
    ),
    Package(
        ("hyperrogue-music",),
        "the non-Euclidean puzzle game HyperRogue",
        root="usr/share/hyperrogue/",
        source="",
        music=("music/*",),
        megabytes=80,
    ),
    Package(
        ("marsshooter-data",),
        "the space shooter M.A.R.S.",
        root="usr/share/games/marsshooter/",
        source="data/",
        music=("audio/music/*", "audio/menu.ogg", "audio/tutorial.ogg"),
        megabytes=80,
    ),
    Package(
        ("megaglest-data",),
        "the fantasy strategy game MegaGlest",
        root="usr/share/games/megaglest/",
        source="",
        music=("data/core/menu/music/*", "techs/*/factions/*/music/*"),
        credits=("docs/AUTHORS.data.txt",),
        megabytes=60,
    ),
    Package(
        ("supertux-data",),
        "the jump-and-run game SuperTux",
        root="usr/share/games/supertux2/",
        source="data/",
        music=("music/*",),
        left_out=(
            (
                "*/greatgigantic.ogg",
                "licence cannot be told: an arrangement of Chris Huelsbeck's music, by a permission that is not given",
            ),
        ),
        credits=("credits.stxt",),
        megabytes=120,
    ),
    Package(
        ("supertuxkart-data",),
        "the kart racing game SuperTuxKart",
        root="usr/share/games/supertuxkart/",
        source="",
        music=(
            "data/music/*",
            "data/tracks/ancient_colosseum_labyrinth/Battle_Theme_1.ogg",
            "data/tracks/battleisland/Gran_Paradiso_Unused*.ogg",
        ),
        credits=("data/CREDITS", "data/music/*.music"),
        megabytes=80,
    ),
    Package(
        ("unknown-horizons",),
        "the economic simulation game Unknown Horizons",
        root="usr/share/unknown-horizons/",
        source="",
        music=("content/audio/music/*",),
        credits=("content/gui/xml/mainmenu/credits.xml",),
        megabytes=80,
    ),
    Package(
        ("wesnoth-1.18-music", "wesnoth-1.16-music", "wesnoth-1.14-music", "wesnoth-1.12-music"),
        "the fantasy strategy game The Battle for Wesnoth",
        root="usr/share/games/wesnoth/*/",
        source="",
        music=("data/core/music/*",),
        megabytes=200,
        prose=Prose(
            says=r"GNU General Public License version 2\s+or at your option any later version",
            stanza=Stanza(("*",), "GPL-2+", ("David White and others, named in the copyright file",)),
        ),
    ),
    Package(
        ("widelands-data",),
        "the settlement-building strategy game Widelands",
        root="usr/share/games/widelands/",
        source="",
        music=("data/music/*",),
        credits=("data/txts/AUTHORS.lua",),
        megabytes=130,
    ),
    Package(
        ("xmoto-data",),
        "the motocross game X-Moto",
        root="usr/share/games/xmoto/",
        source="bin/",
        music=("Textures/Musics/*",),
        megabytes=20,
    ),
    Package(
        ("zaz-data",),
        "the puzzle game Zaz",
        root="usr/share/games/zaz/",
        source="data/",
        music=("mus*.ogg",),
        megabytes=20,
    ),
)
