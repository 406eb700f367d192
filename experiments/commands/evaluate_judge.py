"""``mgl evaluate-judge``: how well a judge hears and reads music whose facts are known."""


def evaluate_judge(manifest: str, out: str, judge: str = "embedded", device: str = "auto") -> None:
    """Measures a judge on clips of rendered scores: instruments, drums, tempo, captions, and what FAD makes of them.

    Args:
        manifest: clips that `mgl eval-set` cut from a corpus of `mgl corpus`, of 32 tracks at least.
        out: JSON file for the figures.
        judge: "embedded", or a judge's folder.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
    """
    from datamodules.errors import InputError
    from datamodules.manifest import read_manifest
    from evaluation.judges.contract import TextJudge
    from evaluation.judges.loading import resolve_judge
    from evaluation.runner import write_json
    from experiments.console import pick_device, progress
    from experiments.judges.accuracy import judge_accuracy
    from experiments.judges.card import accuracy_lines

    place = pick_device(device)
    heard = resolve_judge(judge, place)
    if not isinstance(heard, TextJudge):
        raise InputError(f"judge {heard.name} reads no captions; this is for judges that do")
    clips = read_manifest(manifest)
    with progress() as bar:
        task = bar.add_task("listening", total=len(clips))
        results = judge_accuracy(heard, clips, place, lambda count: bar.advance(task, count))
    write_json(out, results)
    print("\n".join(accuracy_lines({"clips": results})))
    print(f"wrote {out}")
