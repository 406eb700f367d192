"""``mgl model-card``: what a text-to-music model is worth, in tables."""


def model_card(
    out: str = "runs/model-card",
    model: str = "embedded",
    judge: str = "embedded",
    guidance: float | dict[str, float] = 3.0,
    temperature: float = 1.0,
    pieces: int = 2000,
) -> None:
    """Makes the tables on a language model's card, for models that were trained on `mgl corpus --seed 0`.

    Clips from held-out captions, and from held-out melodies if the model hears them, beside those of an untrained model
    and beside the references as its codec gives them back; whether what was asked for is heard; cross-entropy beside
    counted codes; what it has learnt by heart; and how long a clip takes. A finished stage is not done again.

    Args:
        out: folder for corpus, clips, results and table.md.
        model: "embedded", or a model folder.
        judge: "embedded", or a judge's folder.
        guidance: scale of classifier-free guidance, or one for each condition.
        temperature: below 1 more timid, above 1 bolder.
        pieces: of the corpus; a tenth of them are held out and give a clip of ten seconds each.
    """
    from experiments.console import require_folder
    from experiments.models.card import card_lines
    from experiments.pipeline import run_stages
    from experiments.recipes import model_card_stages

    folder = require_folder(out)
    stages = model_card_stages(model, judge, pieces, guidance, temperature)
    run_stages(stages, folder, stages[-1].name)
    table = "\n".join(card_lines(folder, stages))
    (folder / "table.md").write_text(table + "\n", encoding="utf-8")
    print(f"\n{table}\n\n{folder / 'table.md'}")
