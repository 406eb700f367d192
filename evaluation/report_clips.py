"""The clips of a report: which prompts are listened to, and the players and pictures of each."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from datamodules.errors import InputError
from evaluation import media
from evaluation.compare import Results
from evaluation.report_extremes import Extremes, beaten_shares
from evaluation.report_room import player_seconds
from evaluation.tables import METRICS, number


def shared_ids(systems: Sequence[Results]) -> list[str]:
    """Ids of all systems' clips; those that every system has come first, each part in the order of a hash."""
    counts: dict[str, int] = {}
    for one in systems:
        for name in one.clips:
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], blake2b(name.encode(), digest_size=8).digest()))


class Clips:
    """What is shown of the systems' clips, each player made once.

    Args:
        systems: in their order.
        ids: prompts that have players, in their order.
        quality: of the sound.
    """

    def __init__(self, systems: Sequence[Results], ids: Sequence[str], quality: media.Quality) -> None:
        self.systems, self.ids, self.quality = systems, ids, quality
        self._clips = [one.clips for one in systems]
        self._reasons = [{failure["id"]: failure["reason"] for failure in one.data["failed"]} for one in systems]
        self._seconds = player_seconds(self._clips)
        self._rows = {name: row for row, name in enumerate(ids)}

    def grid(self, further: Sequence[str] = ()) -> list[dict[str, Any]]:
        """A row for each prompt: caption, the reference's player, and each system's with its scores.

        Args:
            further: prompts of which scores alone are shown.
        """
        return [self._row(name, True) for name in self.ids] + [self._row(name, False) for name in further]

    def single(self, index: int, name: str) -> dict[str, Any]:
        """A system's clip by itself: of a prompt of the grid its scores and where its player is, else its player."""
        clip = self._clips[index][name]
        take: dict[str, Any] = {"scores": _scores(clip)}
        take |= {"place": self._place(index, name)} if name in self._rows else self._player(index, "generated", name)
        return {"id": name, "caption": clip["caption"], "take": take}

    def _row(self, name: str, playable: bool) -> dict[str, Any]:
        owner = next(index for index, clips in enumerate(self._clips) if name in clips)
        return {
            "id": name,
            "caption": self._clips[owner][name]["caption"],
            "reference": self._player(owner, "reference", name) if playable else None,
            "cells": [self._cell(index, name, playable) for index in range(len(self.systems))],
        }

    def _cell(self, index: int, name: str, playable: bool) -> dict[str, Any]:
        clip = self._clips[index].get(name)
        if clip is None:
            return {"missing": self._reasons[index].get(name, "not generated")}
        cell: dict[str, Any] = {"scores": _scores(clip)}
        if playable:
            cell |= {**self._player(index, "generated", name), "anchor": self._place(index, name)}
        return cell

    def _place(self, index: int, name: str) -> str:
        return f"take-{self._rows[name]}-{index}"

    def _player(self, index: int, side: str, name: str) -> dict[str, str]:
        path = self.systems[index].audio(self._clips[index][name], side)
        try:
            return media.player(path, self._seconds[name], self.quality)
        except InputError as error:
            return {"missing": str(error)}


def extreme_rows(shown: Clips, found: Sequence[Extremes]) -> list[dict[str, Any]]:
    """For each system its best and its worst clips, as ``Clips.single`` with the share of others that it beats."""
    rows = []
    for index, (one, ends) in enumerate(zip(shown.systems, found, strict=True)):
        shares = beaten_shares(one.clips)

        def side(names: Sequence[str], index: int = index, shares: Mapping[str, float] = shares) -> list[Any]:
            return [{**shown.single(index, name), "beats": f"{100 * shares[name]:.0f}"} for name in names]

        rows.append({"name": one.name, "index": index, "best": side(ends.best), "worst": side(ends.worst)})
    return rows


def _scores(clip: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(metric.name, number(clip[metric.key])) for metric in METRICS if clip.get(metric.key) is not None]
