"""The page about patterns shows what the code does."""

import re
import runpy
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import yaml

from experiments.pattern_pictures import FRAMES, ROWS, draw_patterns, length_table, shown
from lightning_modules.lm.patterns import PATTERNS, build_pattern

DOCS = Path(__file__).parent.parent / "docs"
NAMES = [name for row in ROWS for name in row]
SVG = "{http://www.w3.org/2000/svg}"


def test_every_pattern_is_on_the_page():
    assert set(PATTERNS) < set(NAMES)
    page = (DOCS / "patterns.md").read_text(encoding="utf-8")
    assert "](patterns.svg)" in page
    for name in NAMES:
        assert f"`{name}`" in page


def test_the_pages_table_has_the_codes_numbers():
    assert length_table() in (DOCS / "patterns.md").read_text(encoding="utf-8")


def test_the_pages_picture_is_the_codes(tmp_path):
    draw_patterns(tmp_path / "drawn.svg")
    assert (tmp_path / "drawn.svg").read_bytes() == (DOCS / "patterns.svg").read_bytes()


def test_the_pages_delays_are_patterns():
    page = (DOCS / "patterns.md").read_text(encoding="utf-8")
    (layer,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert build_pattern(yaml.safe_load(layer)["model"]["init_args"]["lm"]["pattern"], 4).offsets == (0, 3, 3, 3)
    for example in re.findall(r"delay:[0-9,]+", page):
        build_pattern(example, example.count(",") + 1)
    for example in re.findall(r"lm\.pattern ([^\s\"]+)", page):
        build_pattern(example, 4)


def squares(panel, style):
    """[(step, codebook)] of the squares of a class."""
    side = 20
    outline = next(path.get("d") for path in panel.iter(f"{SVG}path") if path.get("class") == style)
    return {(int(x) // side, int(y) // side) for x, y in re.findall(r"M(\d+) (\d+)", outline)}


@pytest.mark.parametrize(("place", "name"), list(enumerate(NAMES)))
def test_a_panel_shows_the_sequence(tmp_path, place, name):
    draw_patterns(tmp_path / "drawn.svg")
    panel = ElementTree.parse(tmp_path / "drawn.svg").findall(f"{SVG}g")[place]
    assert panel.find(f"{SVG}text[@class='name']").text == name
    pattern = shown(name)
    # As a sequence, read off the squares and the numbers in them.
    read = torch.full((1, pattern.codebooks, pattern.length(FRAMES)), -2)
    for step, k in squares(panel, "none"):
        read[0, k, step] = -1
    for number in panel.findall(f"{SVG}text"):
        if number.get("class") is None:
            step, k = int(number.get("x")) // 20, int(number.get("y")) // 20
            assert (step, k) in squares(panel, f"b{k}")
            read[0, k, step] = int(number.text)
    assert torch.equal(read, pattern.build(torch.arange(FRAMES).expand(1, pattern.codebooks, FRAMES)))
    striped = [path.get("d") for path in panel.iter(f"{SVG}path") if path.get("fill") == "url(#cut)"]
    cut = pattern.length(FRAMES) - pattern.trimmed_length(FRAMES)
    assert striped == (
        [f"M{20 * pattern.trimmed_length(FRAMES)} 0h{20 * cut}v{20 * pattern.codebooks}h-{20 * cut}z"] if cut else []
    )


def test_as_a_command_it_draws_and_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pattern_pictures", str(tmp_path / "drawn.svg")])
    monkeypatch.delitem(sys.modules, "experiments.pattern_pictures")  # runpy warns of a module that is already there
    runpy.run_module("experiments.pattern_pictures", run_name="__main__")
    assert capsys.readouterr().out == length_table() + "\n"
    assert (tmp_path / "drawn.svg").read_bytes() == (DOCS / "patterns.svg").read_bytes()
