"""A generation job: what is still to do, batch by batch, and the manifest at its end."""

import errno
import gc
import hashlib
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.manifest import FILE_NAME, Track, write_manifest
from datamodules.whole_files import write_whole
from experiments.jobs.display import Display
from experiments.jobs.journal import Entry, Journal, manifest_facts
from experiments.jobs.requests import Options, Request, make_requests
from experiments.jobs.sound import encode, level
from experiments.jobs.system import write_system
from experiments.out_of_memory import is_out_of_memory
from experiments.prompts import Prompt
from lightning_modules.generation.model import MusicModel

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_LISTED, _NAMED = 3, 20  # of the prompts that could not be generated: with the reason, and in all


def generate_clips(
    model: MusicModel, prompts: list[Prompt], folder: Path, options: Options, name: str, resume: bool = False
) -> None:
    """Generates every prompt into ``folder`` in this process: audio files, a manifest, and ``system.json``.

    Args:
        model: with weights that its checksum names.
        prompts: what to generate.
        folder: where to.
        options: how.
        name: of the model, for ``system.json``; a folder's records of training travel along.
        resume: leave clips alone that lie there and are what is asked for, by checksum of the model. Not for a model
            in training, whose checksum is but a name.

    Raises:
        InputError: a prompt that cannot be generated, an option out of range, or a file that cannot be written.
    """
    job = Job(model, prompts, folder, options, resume=resume)
    batches = job.share()
    with job.display(batches) as display:
        for batch in batches:
            job.make(batch, display)
    job.journal.close()
    job.finish(name)


class Job:
    """The clips of a job that are not finished, and those that are.

    Args:
        model: what generates.
        prompts: what to generate.
        folder: where to.
        options: how.
        rank: of this process.
        resume: whether finished clips are left alone.

    Attributes:
        requests: all, in the order of the prompts.
        pending: those that were not finished when the job began.
        made: how many this process has made.
        failed: id -> why it cannot be generated, of this process.

    Raises:
        InputError: a prompt that cannot be generated, or an option out of range.
    """

    def __init__(
        self,
        model: MusicModel,
        prompts: Sequence[Prompt],
        folder: Path,
        options: Options,
        rank: int = 0,
        resume: bool = True,
    ) -> None:
        self.model, self.folder, self.options = model, folder, options
        rate = model.codec.sample_rate
        encode(torch.zeros(model.codec.channels, rate // 10 + 1), rate, options.format)  # refuses now what it cannot
        self.requests = make_requests(model, prompts, options)
        self.journal = Journal(folder, rank)
        self._finished = self.journal.finished(self.requests) if resume else {}
        self.pending = [request for request in self.requests if request.key not in self._finished]
        self.made = 0
        self.failed: dict[str, str] = {}
        self._told: set[str] = set()
        self._room: float | None = None  # seconds of audio that fit into memory at once, once that is known

    def share(self, rank: int = 0, world: int = 1) -> list[list[Request]]:
        """The batches of one of several processes: each as many as the others, or one less."""
        return batches(self.pending, self.options.batch_size)[rank::world]

    def display(self, batches: list[list[Request]], world: int = 1, shown: bool = True) -> Display:
        """A display of these batches, one process's share of ``world``."""
        seconds = sum(request.prompt.duration for batch in batches for request in batch)
        return Display(seconds, len(self.requests), len(self.requests) - len(self.pending), world, shown)

    def progress(self) -> str:
        """How many clips are finished, in words; looks at what lies in the folder."""
        return f"{len(self.journal.finished(self.requests)):,} of {len(self.requests):,} clips"

    def make(self, batch: list[Request], display: Display) -> None:
        """Generates a batch and puts its files in place; halves it for as long as it does not fit into memory.

        A prompt whose melody or continuation turns out to be of no use is noted in ``failed``, and the others are made.

        Raises:
            InputError: a file cannot be written, there is no room for even one clip, or not one prompt so far can be
                generated.
        """
        self._make_parts(batch, display)
        if self.failed and not self.made and not self._finished:
            name, reason = next(iter(self.failed.items()))
            raise InputError(f"prompt {name!r}: {reason}")

    def _make_parts(self, batch: list[Request], display: Display) -> None:
        while batch:
            size = self._fitting(batch)
            self._make_part(batch[:size], display)
            batch = batch[size:]

    def _make_part(self, part: list[Request], display: Display) -> None:
        try:
            clips, spent, steps = self._draw(part, display)
        except Exception as error:
            full = is_out_of_memory(error)
            if not full and not (isinstance(error, InputError) and any(any(one.prompt.sounds) for one in part)):
                raise
            reason = str(error)
        else:
            for request, wav in zip(part, clips, strict=True):
                self._put(request, wav, spent / len(part), steps / len(part))
                display.finish()
            return
        # Out of the handler, which holds on to the tensors of what failed.
        if full:
            self._make_room(part, display)
        elif len(part) == 1:
            self.failed[part[0].prompt.id] = reason
            display.advance(part[0].prompt.duration)
            return
        half = len(part) // 2
        self._make_parts(part[:half], display)
        self._make_parts(part[half:], display)

    def _fitting(self, batch: list[Request]) -> int:
        """How many of a batch at once."""
        longest = max(request.prompt.duration for request in batch)
        return len(batch) if self._room is None else min(len(batch), max(1, int(self._room / longest + 1e-6)))

    def _make_room(self, part: list[Request], display: Display) -> None:
        """Less at once from here on."""
        longest = max(request.prompt.duration for request in part)
        if len(part) == 1:
            raise InputError(
                f"out of memory with one clip of {longest:g} s alone; take shorter clips, --precision bf16, a smaller "
                "model, or a device with more memory"
            )
        half = len(part) // 2
        self._room = half * longest
        gc.collect()
        display.say(f"out of memory with {len(part)} clips of {longest:g} s at once; {half} at once from here on")

    def _draw(self, part: list[Request], display: Display) -> tuple[list[Tensor], float, int]:
        """Waveforms [C, N], seconds spent and steps decoded."""
        prompts = [request.prompt for request in part]
        audio = sum(prompt.duration for prompt in prompts)
        begun = time.monotonic()
        steps = 0

        def step(done: int, total: int) -> None:
            nonlocal steps
            steps += 1
            display.advance(audio / total)

        options = self.options
        gone_before = display.done
        melodies, continuations = ([getattr(prompt, name) for prompt in prompts] for name in ("melody", "continuation"))
        try:
            with warnings.catch_warnings(record=True) as told:
                clips = self.model.generate(
                    [prompt.caption for prompt in prompts],
                    duration=[prompt.duration for prompt in prompts],
                    seed=[prompt.seed for prompt in prompts],
                    ids=[prompt.id for prompt in prompts],
                    melody=melodies if any(melodies) else None,
                    continuation=continuations if any(continuations) else None,
                    negative=options.negative,
                    guidance=options.guidance,
                    top_k=options.top_k,
                    temperature=options.temperature,
                    top_p=options.top_p,
                    stride=options.stride,
                    progress=step,
                )
        except BaseException:
            display.advance(gone_before - display.done)
            raise
        for line in {str(one.message): None for one in told if one.category is UserWarning}:
            if line not in self._told:
                self._told.add(line)
                display.say(line)
        return clips, time.monotonic() - begun, steps

    def _put(self, request: Request, wav: Tensor, spent: float, steps: float) -> None:
        """Writes a clip, and then its line in the journal."""
        rate = self.model.codec.sample_rate
        wav, facts = level(wav, rate, self.options.loudness)
        data = encode(wav, rate, self.options.format)
        digest = hashlib.sha256(data).hexdigest()
        entry = Entry(request.name, request.key, digest, wav.shape[-1] / rate, rate, facts, spent, steps)
        try:
            write_whole(self.folder / request.name, data)
            self.journal.add(entry)
        except (OSError, InputError) as error:
            full = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(full, OSError):
                raise
            remedy = "make room" if full.errno in NO_SPACE else "mend that"
            if full.errno == errno.EFBIG:
                remedy = "raise the limit on the size of files (ulimit -f)"
            raise InputError(
                f"{self.folder}: {full.strerror}; {self.progress()} are finished and stay; {remedy} and give the same "
                "command again"
            ) from full
        self.made += 1

    def finish(self, name: str, processes: int = 1, failed: Mapping[str, str] | None = None) -> None:
        """Writes manifest and ``system.json``, when every process has closed its journal.

        Args:
            name: of the model.
            processes: how many there were.
            failed: id -> why it could not be generated, of all of them; by default of this one.

        Raises:
            InputError: some could not be generated; the manifest holds the others.
        """
        ready = self.journal.finished(self.requests)
        tracks = [self._track(request, ready[request.key]) for request in self.requests if request.key in ready]
        if tracks:
            write_system(self.folder, self.model, name, self.journal.spent(), processes)
            names = {request.name for request in self.requests}
            self.journal.settle(names, lambda: write_manifest(self.folder / FILE_NAME, tracks))
        reasons = self.failed if failed is None else failed
        if reasons:
            listed = "; ".join(f"{name!r}: {reason}" for name, reason in list(reasons.items())[:_LISTED])
            more = ", ".join(map(repr, list(reasons)[_LISTED:_NAMED]))
            more += f" and {len(reasons) - _NAMED:,} more" if len(reasons) > _NAMED else ""
            more = f"; likewise {more}" if more else ""
            raise InputError(
                f"{len(reasons):,} of {len(self.requests):,} prompts could not be generated, the others are in "
                f"{self.folder}: {listed}{more}"
            )

    def _track(self, request: Request, entry: Entry) -> Track:
        prompt = request.prompt
        facts = {**request.facts, **manifest_facts(entry)}
        path = self.folder / request.name
        return Track(prompt.id, path, entry.seconds, entry.sample_rate, prompt.caption, facts=facts)


def batches(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """At most ``size`` requests at once, of lengths as alike as can be; the longest first.

    What does not fit into memory so shows at once, and processes that share the batches end at about the same time.
    """
    ordered = sorted(requests, key=lambda request: -request.prompt.duration)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
