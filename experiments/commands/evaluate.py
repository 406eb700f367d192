"""`mgl evaluate`: a folder of generated clips -> results.json."""


def evaluate(
    generated: str,
    reference: str,
    judge: str | dict[str, str] = "embedded",
    out: str = "results.json",
    seed: int = 0,
) -> None:
    """Scores generated clips: FAD, KL divergence, CLAP score and chroma similarity, each with an interval.

    Args:
        generated: Folder that `mgl generate` wrote, or any folder with a manifest.jsonl.
        reference: Manifest of the references, or a folder that holds one; clips are paired by id.
        judge: The network that listens: "embedded", a judge's folder, or a published network that is on this machine
            (vggish, passt, pann, clap, encodec; `make weights` fetches them); for each metric its own:
            "{fad: vggish, kld: passt, clap: clap}".
        out: Where the results go.
        seed: Seed of everything random: bootstrap, groups of the jackknife, shuffled rows.
    """
    from rich.console import Console

    from evaluation.runner import evaluate as run
    from evaluation.tables import failures_text, scores_table

    results = run(generated, reference, judge, out, seed)
    Console().print(scores_table([results]))
    for line in failures_text(results):
        print(line)
    print(f"wrote {out}")
