"""The examples of docs/generation.md run, and print what stands beside them."""

import re
from pathlib import Path

DOCS = (Path(__file__).parent.parent / "docs" / "generation.md").read_text(encoding="utf-8")


def test_the_examples_print_what_they_say(capsys):
    lengths, streaming = (
        re.search(rf"## {section}\n\n```python\n(.*?)```", DOCS, re.DOTALL)[1] for section in ("Length", "Streaming")
    )
    exec(lengths + streaming, {})
    promised = re.findall(r"^ *print\(.*\)  # ([^\n]*)$", lengths + streaming, re.MULTILINE)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(promised) == 5
    for said, line in zip(promised, printed, strict=True):
        assert re.match(re.escape(line) + r"(?![\w.])", said)
