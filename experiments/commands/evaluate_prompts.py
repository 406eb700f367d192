"""``mgl evaluate-prompts``: whether clips are what their prompts ask for."""


def evaluate_prompts(
    generated: str, prompts: str, out: str, judge: str = "embedded", seed: int = 0, device: str = "auto"
) -> None:
    """Listens for what prompts ask for: instruments, drums, tempo, and the melody where one was given.

    Beside each figure stands the level of chance: the same clips held against other tracks' prompts. Real clips in the
    generated ones' place say what can be reached.

    Args:
        generated: folder that `mgl generate` wrote, or any folder with a manifest.jsonl.
        prompts: manifest with the same ids, of clips that `mgl eval-set` cut from a corpus of `mgl corpus`.
        out: JSON file for the figures.
        judge: "embedded", or a judge's folder.
        seed: draws whose prompt each clip is held against, and the intervals.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
    """
    from datamodules.manifest import read_manifest
    from evaluation.judges.loading import resolve_judge
    from evaluation.runner import write_json
    from evaluation.tables import number
    from experiments.console import pick_device, progress
    from experiments.models.following import prompts_followed

    where = pick_device(device)
    heard = resolve_judge(judge, where)
    with progress() as bar:
        task = bar.add_task("listening", total=None)
        results = prompts_followed(
            heard,
            read_manifest(generated),
            read_manifest(prompts),
            seed,
            where,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_json(out, results)
    for kind, score in results["followed"].items():
        bounds = "" if score["low"] is None else f" [{number(score['low'])}, {number(score['high'])}]"
        print(f"{kind}: {number(score['value'])}{bounds}, chance {number(results['chance'][kind]['value'])}")
    print(f"{results['n']} clips; wrote {out}")
