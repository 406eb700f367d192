"""Evaluation sets: references of one stated length with a manifest, and a record with a checksum over all of it.

A set's manifest is a prompt file too. The way of a set, a file each: ``held_out``, ``melody``, ``musiccaps`` or
``song_describer`` (which clips are wanted; ``published`` reads the CSVs and finds the audio) -> ``clips`` (cut, or kept
from an interrupted run by the ``journal``) -> ``building`` (the finished folder) -> ``record`` (``set.json``, and
whether a folder still is what it says).
"""

from datamodules.eval_sets.held_out import held_out_set
from datamodules.eval_sets.melody import melody_set
from datamodules.eval_sets.musiccaps import musiccaps_set
from datamodules.eval_sets.record import SetRecord, verify
from datamodules.eval_sets.song_describer import song_describer_set

__all__ = ["SetRecord", "held_out_set", "melody_set", "musiccaps_set", "song_describer_set", "verify"]
