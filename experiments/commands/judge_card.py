"""``mgl judge-card``: what a judge is worth, in tables."""


def judge_card(out: str = "runs/judge-card", judge: str = "embedded", recordings: str = "") -> None:
    """Makes the tables on the embedded judge's card.

    How well it hears and reads held-out scores, as they are and through the codec; and what every metric made with it
    does as noise, dullness, coarse codes, wrong captions and wrong notes are added, on scores and, where they are
    given, on recordings. A finished stage is not done again.

    Args:
        out: folder for clips, results and table.md.
        judge: "embedded", or a judge's folder.
        recordings: folder of `mgl recordings`; without it the last table is left out.
    """
    from experiments.console import require_folder
    from experiments.judges.card import card_lines
    from experiments.pipeline import run_stages
    from experiments.recipes import judge_card_stages

    folder = require_folder(out)
    stages = judge_card_stages(judge, recordings)
    run_stages(stages, folder, stages[-1].name)
    table = "\n".join(card_lines(folder, stages))
    (folder / "table.md").write_text(table + "\n", encoding="utf-8")
    print(f"\n{table}\n\n{folder / 'table.md'}")
    if not recordings:
        print("no --recordings were given: `make recordings` fetches them")
