"""``mgl codec-card``: a codec beside Opus and Vorbis, on scores and on recordings that it never heard."""


def codec_card(
    out: str = "runs/codec-card", codec: str = "embedded", recordings: str = "", twin: str = "", seconds: float = 20.0
) -> None:
    """Makes the table on the embedded codec's card: every codec on the same clips by the same measures.

    The clips are rendered scores that stand apart from those that it was trained on (30 of 300, rendered first) and,
    where they are given, recordings of artists that are in no training split. A finished stage is not done again.

    Args:
        out: folder for the clips, results, pages to listen to, and table.md.
        codec: "embedded", or the folder of another codec.
        recordings: folder of `mgl recordings`; without it the second table is left out.
        twin: folder of a further codec, for instance one that the same recipe trained on recordings.
        seconds: of each clip, from its track's middle.
    """
    from experiments.codecs.card import card_lines
    from experiments.console import require_folder
    from experiments.pipeline import run_stages
    from experiments.recipes import codec_card_stages

    folder = require_folder(out)
    stages = codec_card_stages(codec, recordings, twin, seconds)
    run_stages(stages, folder, stages[-1].name)
    titles = {"scores": "Rendered scores", "recordings": "Recordings"}
    results = {titles[stage.name]: folder / stage.result for stage in stages if stage.name in titles}
    table = "\n".join(card_lines(results))
    (folder / "table.md").write_text(table + "\n", encoding="utf-8")
    print(f"\n{table}\n\n{folder / 'table.md'}")
    if not recordings:
        print("no --recordings were given: `make recordings` fetches them")
