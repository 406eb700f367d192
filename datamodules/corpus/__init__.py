"""The embedded corpus: public-domain scores rendered to captioned audio, with nothing downloaded.

The way of a piece, a file each: ``catalogue`` (which scores there are) -> ``selection`` (which one piece n plays) ->
``reading`` (music21 to plain notes; ``musicxml`` cuts what is too long) -> ``scores`` (excerpt) -> ``orchestration``
(who plays what; ``harmony``, ``accompaniment`` and ``drums`` help) -> ``rendering`` (samples) -> ``captions`` ->
``pieces`` (the file) -> ``building`` (many of them, and the manifest).
"""

from datamodules.corpus.building import build_corpus

__all__ = ["build_corpus"]
