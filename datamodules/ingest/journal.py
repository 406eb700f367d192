"""What was found so far, a line a file, so that no file is decoded twice."""

import json
from pathlib import Path
from typing import Any, TextIO

from datamodules.ingest.scanning import Found
from datamodules.whole_files import write_whole

FILE_NAME = "scan.jsonl"
# Raise when an inspection measures something else: what an older one found is then found anew.
REVISION = 1


class Journal:
    """The journal of a manifest's folder: a line for each file inspected; a torn last line is passed over."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._seen: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            for line in self.path.read_bytes().split(b"\n"):
                try:
                    record = json.loads(line)
                    if record["revision"] == REVISION:
                        self._seen[record["path"]] = record
                except (ValueError, KeyError, TypeError):
                    continue
        self._out: TextIO | None = None

    def known(self, file: Found) -> dict[str, Any] | None:
        """What was found in a file, if it has not changed since."""
        record = self._seen.get(file.path)
        same = record is not None and (record["size"], record["changed"]) == (file.size, file.changed)
        return record["result"] if same and record is not None else None

    def add(self, file: Found, result: dict[str, Any]) -> None:
        """Notes what was found; the line is with the operating system when this returns."""
        if self._out is None:
            torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size
            self._out = self.path.open("a", encoding="utf-8")
            self._out.write("\n" if torn else "")
        record = {"path": file.path, "size": file.size, "changed": file.changed, "revision": REVISION}
        self._seen[file.path] = {**record, "result": result}
        self._out.write(json.dumps(self._seen[file.path], ensure_ascii=False) + "\n")
        self._out.flush()

    def compact(self, files: list[Found]) -> None:
        """Keeps one line for each file that is there, whole or not at all."""
        self.close()
        lines = (json.dumps(self._seen[file.path], ensure_ascii=False) + "\n" for file in files)
        write_whole(self.path, lambda out: out.writelines(line.encode() for line in lines))

    def close(self) -> None:
        """Closes the file; what was added stays."""
        if self._out is not None:
            self._out.close()
            self._out = None
