"""``mgl sampling-search``: guidance and temperature, chosen by measured results."""


def sampling_search(
    out: str = "runs/model-card",
    model: str = "embedded",
    judge: str = "embedded",
    guidances: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0),
    temperatures: tuple[float, ...] = (0.8, 1.0),
    clips: int = 100,
    pieces: int = 2000,
) -> None:
    """Generates from captions of the validation split with every guidance and every temperature, and prints a table.

    The test split stays unheard, so that `mgl model-card` with the best setting says what it is worth on new prompts;
    in the same folder the two share the corpus. A finished stage is not done again.

    Args:
        out: folder for corpus, clips, results and search.md.
        model: "embedded", or a model folder.
        judge: "embedded", or a judge's folder.
        guidances: scales of classifier-free guidance to try.
        temperatures: to try with each.
        clips: of ten seconds with every setting, at most a tenth of the pieces.
        pieces: of the corpus.
    """
    from experiments.console import require_folder
    from experiments.models.card import search_lines
    from experiments.pipeline import run_stages
    from experiments.recipes import sampling_search_stages

    folder = require_folder(out)
    stages = sampling_search_stages(model, judge, pieces, clips, guidances, temperatures)
    run_stages(stages, folder, stages[-1].name)
    table = "\n".join(search_lines(folder, stages))
    (folder / "search.md").write_text(table + "\n", encoding="utf-8")
    print(f"\n{table}\n\n{folder / 'search.md'}")
