"""Tracks, tables and readings of what evaluation sets are made of."""

import csv
import json

import numpy as np
import soundfile

from datamodules.manifest import Track, read_manifest, write_manifest

RATE = 1000


def sound(path, seconds, rate=RATE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate))
    soundfile.write(path, noise, rate)
    return path


def corpus(folder, rows, **facts):
    """[(id, split, seconds, artist or "")] -> noise and a manifest."""
    tracks = []
    for seed, (name, split, seconds, artist) in enumerate(rows):
        path = sound(folder / f"{name}.wav", seconds, seed=seed)
        named = {"artist": artist} if artist else {}
        tracks.append(Track(name, path, seconds, RATE, f"about {name}", split, {**named, **facts}))
    write_manifest(folder / "manifest.jsonl", tracks)
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def reasons(folder):
    return {line["id"]: line["reason"] for line in lines(folder / "missing.jsonl")}


def ids(folder):
    return [track.id for track in read_manifest(folder)]


HEAD = "ytid start_s end_s audioset_positive_labels aspect_list caption author_id is_balanced_subset is_audioset_eval"


def music_caps(path, rows):
    """[(ytid, start, caption, balanced)] -> a CSV as the public one is."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(HEAD.split())
        for video, start, caption, balanced in rows:
            aspects = "['low \"quality\"', \"drummer's fill\", 'a, b']"
            table.writerow([video, start, start + 10, "/m/04rlf,/m/0l14md", aspects, caption, 4, balanced, False])
    return path


DESCRIBER = "caption_id track_id caption is_valid_subset familiarity artist_id album_id path duration"


def describer(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(DESCRIBER.split())
        for caption_id, track, caption, valid in rows:
            table.writerow([caption_id, track, caption, valid, 1, 7063, 118, f"{track[-2:]}/{track}.mp3", 160.1])
    return path
