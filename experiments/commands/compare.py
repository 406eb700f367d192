"""`mgl compare`: results.json of one or more systems -> one page."""


def compare(results: list[str], out: str = "report.html", clips: int = 12) -> None:
    """Sets systems side by side on one self-contained page that opens from disk.

    Args:
        results: The results.json files of the systems, made with one protocol.
        out: Where the page goes.
        clips: How many prompts to listen to; audio of the references and of every system is embedded.
    """
    from rich.console import Console

    from evaluation.compare import read_results
    from evaluation.report import write_report
    from evaluation.tables import scores_table

    page = write_report(results, out, clips=clips)
    Console().print(scores_table([one.data for one in read_results(results)]))
    # Plain print: Rich would break a long path in the middle.
    print(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)")
