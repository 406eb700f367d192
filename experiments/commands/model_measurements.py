"""Measurements of a language model that ``mgl model-card`` is made of, each a command."""


def untrained_model(model: str, out: str, seed: int = 0) -> None:
    """Writes a model folder like another one, with random weights: what training is to be better than.

    Codec and pretrained text encoder stay as they are.

    Args:
        model: a model folder, or "embedded".
        out: folder of the untrained model.
        seed: draws the weights.
    """
    from experiments.models.untrained import untrained_model as write

    write(model, out, seed)
    print(f"{out}: {model} with random weights")


def lend_ids(clips: str, references: str, out: str) -> None:
    """Copies clips under ids and captions of references, so that `mgl evaluate` scores music of other prompts.

    Args:
        clips: manifest of clips of other tracks.
        references: manifest in whose place they stand.
        out: folder for the copies and their manifest.
    """
    from datamodules.manifest import read_manifest
    from experiments.console import require_folder
    from experiments.models.strangers import lend_ids as write

    count = write(read_manifest(clips), read_manifest(references), require_folder(out))
    print(f"{out}: {count} clips under other ids")


def bigram(model: str, tokens: str, out: str, split: str = "valid", seconds: float = 10.0) -> None:
    """Scores a bigram model of each codebook, counted in training tokens, on the codes that `mgl perplexity` scores.

    Args:
        model: a model folder, or "embedded"; of it the pattern is taken, which says what codes are predicted.
        tokens: a token store written with the model's codec.
        out: JSON file for the figures.
        split: the split to score.
        seconds: length of the windows that the tracks are cut into.
    """
    from datamodules.tokens.store import TokenStore
    from evaluation.runner import write_json
    from experiments.models.bigram import bigram_record, bigram_scores
    from lightning_modules.checkpoints import load_model

    scores = bigram_scores(TokenStore(tokens), load_model(model).lm.pattern, split, seconds)
    record = bigram_record(scores, split, seconds)
    write_json(out, record)
    for row in record["cross_entropy"]:
        print(f"codebook {row['codebook']}: {row['value']:.3f} nats a code")
    print(f"{record['n']} tracks of {split!r}; wrote {out}")


def memorisation(
    model: str,
    tokens: str,
    out: str,
    split: str = "test",
    items: int = 100,
    given: float = 3.0,
    seconds: float = 5.0,
    device: str = "auto",
) -> None:
    """Continues training tracks greedily from their first seconds, and held-out ones, and counts what is as it was.

    Args:
        model: a model folder, or "embedded".
        tokens: a token store written with the model's codec, whose split "train" it was trained on.
        out: JSON file for the figures.
        split: of the held-out tracks.
        items: tracks of each side, at most.
        given: seconds that are given.
        seconds: that are continued.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
    """
    from datamodules.tokens.store import TokenStore
    from evaluation.runner import write_json
    from experiments.console import pick_device, progress
    from experiments.models.memorisation import Excerpts
    from experiments.models.memorisation import memorisation as measure
    from lightning_modules.checkpoints import load_model

    loaded = load_model(model, pick_device(device))
    with progress() as bar:
        task = bar.add_task("continuing", total=None)
        sides = measure(
            loaded,
            TokenStore(tokens),
            split,
            Excerpts(items, given, seconds),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_json(out, {"given": given, "seconds": seconds, "split": split, "sides": sides})
    for name, found in sides.items():
        print(
            f"{name}: {found['n']} tracks, {100 * found['equal']['value']:.1f} % of the first codebook's codes equal, "
            f"{found['exact']['count']} continued exactly"
        )
    print(f"wrote {out}")


def generation_time(
    model: str,
    out: str,
    prompt: str = "A calm waltz for piano and flute.",
    duration: float = 10.0,
    guidance: float | dict[str, float] = 3.0,
    threads: int = 2,
    repeats: int = 3,
) -> None:
    """Times one clip on the CPU: as a command, from its start to the file, and by the model once it is loaded.

    Args:
        model: a model folder, or "embedded".
        out: JSON file for the figures.
        prompt: the text.
        duration: seconds of the clip.
        guidance: scale of classifier-free guidance, or one for each condition.
        threads: that torch computes with.
        repeats: of the loaded model, after one that is not counted.
    """
    from evaluation.runner import write_json
    from experiments.models.timing import generation_seconds

    spent = generation_seconds(model, prompt, duration, guidance, threads, repeats)
    write_json(out, spent)
    print(f"{duration:g} s of audio: the command {spent['cold']:.1f} s, the loaded model {spent['warm']:.1f} s")
    print(f"{threads} threads; wrote {out}")
