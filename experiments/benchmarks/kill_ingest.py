"""``mgl manifest``, killed."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import soundfile

from datamodules.ingest.journal import FILE_NAME as JOURNAL
from datamodules.ingest.page import FILE_NAME as PAGE
from datamodules.ingest.running import REJECTED
from datamodules.manifest import FILE_NAME as MANIFEST
from experiments.benchmarks.kill_subject import Subject, differ, noise, parses

_FILES, _FILE_SECONDS = 60, 20.0


class Ingest(Subject):
    """``mgl manifest`` over WAV, FLAC and Vorbis files with side-cars."""

    what, unit, total = "ingest", "files", _FILES

    def prepare(self) -> None:
        """Writes the files; two are alike and one is silent, so that there is something to refuse."""
        source = self.folder / "music"
        source.mkdir(parents=True)
        for number in range(_FILES):
            end = ("wav", "flac", "ogg")[number % 3]
            audio = noise(self.seed, 1 if number == 4 else number, _FILE_SECONDS, 22050)
            soundfile.write(source / f"{number:03d}.{end}", audio * (number != 2), 22050)
            facts = {"title": f"Piece {number}", "artist": f"Artist {number % 7}", "description": f"noise {number}"}
            (source / f"{number:03d}.json").write_text(json.dumps(facts), encoding="utf-8")

    def command(self, out: Path) -> list[str]:
        """The same whether it begins or goes on."""
        return ["manifest", str(self.folder / "music"), "--out", str(out)]

    def done(self, out: Path) -> dict[str, Any]:
        """Files in the journal, and how often each stands there."""
        journal = out / JOURNAL
        lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
        return dict(Counter(json.loads(line)["path"] for line in lines if line and parses(line)))

    def lost(self, before: dict[str, Any], out: Path, said: str | None) -> list[str]:
        """Files that are no longer in the journal, or were decoded twice."""
        now = self.done(out)
        lost = [f"{path}: no longer in the journal" for path in before if path not in now]
        lost += [f"{path}: decoded {count} times" for path, count in now.items() if count > 1]
        decoded = re.search(r"\(([\d,]+) decoded this time\)", said) if said is not None else None
        assert said is None or decoded, "the command no longer says how many files it decoded"
        if decoded and (count := int(decoded[1].replace(",", ""))) != self.total - len(before):
            lost.append(f"{count} files decoded, {self.total - len(before)} were not yet known")
        return lost

    def half_written(self, out: Path, whole: Path) -> list[str]:
        """Manifest, rejects and page are absent or whole; of the journal only the last line may be cut short."""
        names = {path.name for path in out.iterdir() if path.is_file() and path.suffix != ".partial"}
        wrong = [f"{name}: nobody's file" for name in names - {MANIFEST, REJECTED, PAGE, JOURNAL}]
        wrong += [name for name in names & {MANIFEST, REJECTED} if differ(out / name, whole / name)]
        if JOURNAL in names:
            wrong += [JOURNAL for line in (out / JOURNAL).read_bytes().split(b"\n")[:-1] if not parses(line)]
        return wrong

    def differing(self, out: Path, whole: Path) -> list[str]:
        """Manifest and rejects, byte for byte."""
        return [name for name in (MANIFEST, REJECTED) if differ(out / name, whole / name)]
