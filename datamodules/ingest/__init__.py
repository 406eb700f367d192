"""From folders of music to a manifest: what is there, what it is worth, what is refused and why.

The way of a file, a module each: ``scanning`` (which files there are) -> ``inspecting`` (decoded to its end, in
processes; ``loudness`` helps) -> ``journal`` (what was found, so that a run that was broken off goes on and a second
one looks only at what changed) -> ``metadata`` (tags, side-cars, tables) -> ``judging`` (kept, or refused with a
reason) -> ``splitting`` (train, valid and test by artist) -> ``running`` (all of it, and the files that it ends in)
with ``page`` (a summary to look at).
"""

from datamodules.ingest.running import IngestConfig, Summary, ingest

__all__ = ["IngestConfig", "Summary", "ingest"]
