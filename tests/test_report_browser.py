"""The report's page as a browser shows it: every player plays, nothing is amiss, nothing is fetched, it fits."""

import json
import re

import pytest
import torch
from browser import Browser
from evaluation_clips import random_judge, sine, write_clips

from evaluation.report import write_report
from evaluation.runner import evaluate

pytestmark = pytest.mark.browser

LENGTHS = {f"clip{index}": 1.0 + index / 4 for index in range(6)}
WIDTHS = (1280, 390)

# A player must decode both ways: as the element's own source, and into samples.
PLAYERS = """
Promise.all([...document.querySelectorAll('audio')].map(async player => {
  const prompt = player.closest('.prompt')?.querySelector('h3 small').textContent;
  const found = {name: player.getAttribute('aria-label'), prompt: prompt?.match(/^\\w+/)[0]};
  if (!player.src) return {...found, ready: 'no source'};
  found.ready = await new Promise(done => {
    player.addEventListener('canplaythrough', () => done(''));
    player.addEventListener('error', () => done(player.error.message || 'error ' + player.error.code));
    player.preload = 'auto';
    player.load();
  });
  found.duration = player.duration;
  try {
    const content = await (await fetch(player.src)).arrayBuffer();
    const sound = await new OfflineAudioContext(1, 1, 32000).decodeAudioData(content);
    found.decoded = sound.duration;
    found.peak = sound.getChannelData(0).reduce((top, one) => Math.max(top, Math.abs(one)), 0);
  } catch (error) { found.ready ||= String(error); }
  return found;
}))
"""
PICTURES = """
Promise.all([...document.images].map(picture => {
  picture.loading = 'eager';
  return picture.decode().then(() => '', error => picture.alt + ': ' + error);
})).then(found => [document.images.length, found.filter(one => one)])
"""
# What stands out of the window; a box that scrolls by itself may hold more than it shows.
OVERFLOW = """
[...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll, .wide, pre, svg')
  && one.getBoundingClientRect().right > WIDTH + 1).map(one => one.outerHTML.slice(0, 80))
  .concat(document.documentElement.scrollWidth > WIDTH ? ['the page'] : [])
"""
LINKS = """
[...document.querySelectorAll('a[href]')].map(one => one.getAttribute('href'))
  .filter(to => !to.startsWith('#') || !document.getElementById(to.slice(1)))
"""
FOCUSED = "[...document.querySelectorAll('audio')].indexOf(document.activeElement)"
# Which players run, as soon as that is what is hoped for, or after five seconds.
PLAYING = """
new Promise(done => {
  const until = performance.now() + 5000;
  const look = () => {
    const found = [...document.querySelectorAll('audio')].flatMap((one, index) => one.paused ? [] : [index]);
    if (String(found) === 'HOPED' || performance.now() > until) done(found); else setTimeout(look, 20);
  };
  look();
})
"""


def systems(root):
    """Results of two systems on six prompts, with one clip that cannot be read."""
    judge = random_judge(root / "judge")
    captions = {name: f"prompt <{name}> & co" for name in LENGTHS}
    sounds = {name: sine(50 + 3 * k, seconds) for k, (name, seconds) in enumerate(LENGTHS.items())}
    reference = write_clips(root / "reference", sounds, captions)
    generator = torch.Generator().manual_seed(0)
    for name, level in (("nano", 0.3), ("a long and winding name of a system", 0.01)):
        clips = {one: wav + level * torch.randn(wav.shape, generator=generator) for one, wav in sounds.items()}
        folder = write_clips(root / name, clips, captions)
        (folder / "system.json").write_text(json.dumps({"name": name, "parameters": {"lm": 1000 * len(name)}}))
        if name == "nano":
            (folder / "clip3.wav").write_bytes(b"broken")
        evaluate(folder, reference, judge, root / f"{name}.json")
        yield root / f"{name}.json"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return list(systems(tmp_path_factory.mktemp("systems")))


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    return write_report(results, tmp_path_factory.mktemp("page") / "report.html", clips=len(LENGTHS))


@pytest.fixture(scope="module")
def small(results, tmp_path_factory):
    """The text of a page of two prompts, to be broken."""
    path = write_report(results, tmp_path_factory.mktemp("small") / "report.html", clips=2)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def faults(browser, path, width=WIDTHS[0]):
    """Everything that is wrong with a page, by kind; empty for a good one."""
    browser.open(path, width)
    players = browser.evaluate(PLAYERS)
    pictures, undrawn = browser.evaluate(PICTURES)
    found = {
        "players": [one for one in players if not plays(one)] + ["no players"] * (not players),
        "pictures": undrawn + ["no pictures"] * (not pictures),
        "overflow": browser.evaluate(OVERFLOW.replace("WIDTH", str(width))),
        "links": browser.evaluate(LINKS),
        "keyboard": sorted(set(range(len(players))) - reached(browser)),
        "requests": requests(browser, path),
        "console": console(browser),
    }
    return {kind: what for kind, what in found.items() if what}


def plays(player):
    lasts = LENGTHS.get(player["prompt"], 0.0)
    right = [abs((player.get(key) or 0.0) - lasts) < 0.01 for key in ("duration", "decoded")]
    return not player["ready"] and all(right) and player["peak"] > 0.1


def reached(browser):
    """Which players get the focus while Tab is pressed from the head of the page to its end."""
    browser.evaluate("document.activeElement.blur(), getSelection().removeAllRanges(), scrollTo(0, 0)")
    found = set()
    for _ in range(1000):
        browser.press("Tab")
        if browser.evaluate("document.activeElement === document.body"):
            return found
        found.add(browser.evaluate(FOCUSED))
    raise AssertionError("Tab never came to the end of the page")


def requests(browser, path):
    """Addresses that were asked for, but for the page and what lies within it."""
    asked = [one["request"]["url"] for one in browser.seen("Network.requestWillBeSent")]
    assert path.as_uri() in asked, "requests are not seen at all"
    asked += browser.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
    asked += [one["url"] for one in browser.seen("Network.webSocketCreated")]
    return sorted({url for url in asked if url != path.as_uri() and not url.startswith("data:")})


def console(browser):
    thrown = [one["exceptionDetails"]["text"] for one in browser.seen("Runtime.exceptionThrown")]
    logged = [one["type"] for one in browser.seen("Runtime.consoleAPICalled") if one["type"] in ("error", "assert")]
    entries = [one["entry"]["text"] for one in browser.seen("Log.entryAdded") if one["entry"]["level"] == "error"]
    return thrown + logged + entries


@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_finds_nothing_wrong(browser, page, width):
    assert faults(browser, page, width) == {}
    # A reference and two systems a prompt, but for the clip that is no audio.
    assert browser.evaluate("document.querySelectorAll('#listen audio').length") == 3 * len(LENGTHS) - 1
    assert browser.evaluate("innerWidth") == width


def test_the_space_key_starts_a_player_and_that_stops_the_others(browser, page):
    browser.open(page, WIDTHS[0])
    browser.evaluate(
        "document.querySelectorAll('audio').forEach(one => { one.loop = true })"
    )  # else one ends by itself
    for player in (0, 1):
        while browser.evaluate(FOCUSED) != player:
            browser.press("Tab")
        browser.press(" ", text=" ")
        assert browser.evaluate(PLAYING.replace("HOPED", str(player))) == [player]


@pytest.mark.parametrize(
    ("pattern", "put", "kinds"),
    [
        ("</main>", '<img src="http://example.org/logo.png"></main>', {"requests", "pictures", "console"}),
        ("</main>", '<link rel="stylesheet" href="https://example.org/font.css"></main>', {"requests", "console"}),
        ("</main>", "<script>fetch('http://example.org').catch(() => 0)</script></main>", {"requests", "console"}),
        ("</main>", "<script>console.error('amiss')</script></main>", {"console"}),
        ("</main>", "<script>setTimeout(() => { throw new Error('late') })</script></main>", {"console"}),
        (r"(data:audio/ogg;base64,)", r"\1AAAA", {"players"}),
        (r' src="data:audio/ogg[^"]+"', "", {"players"}),
        (r"(data:image/png;base64,)", r"\1AAAA", {"pictures"}),
        ("<audio controls", "<audio inert controls", {"keyboard"}),
        ('<a href="#systems">', '<a href="#nowhere">', {"links"}),
        ("<main>", '<main><div style="width: 2000px">wide</div>', {"overflow"}),
    ],
)
def test_what_is_wrong_is_found(browser, small, tmp_path, pattern, put, kinds):
    text, count = re.subn(pattern, put, small, count=1)
    assert count == 1
    broken = tmp_path / "broken.html"
    broken.write_text(text, encoding="utf-8")
    assert faults(browser, broken, WIDTHS[1]).keys() == kinds


def test_a_player_of_another_length_is_found(browser, small, tmp_path):
    players = re.findall(r'data:audio/ogg;base64,[^"]+', small)
    swapped = tmp_path / "swapped.html"
    swapped.write_text(small.replace(players[0], players[-1]), encoding="utf-8")
    first = re.search(r"<h3>.*?<small>(\w+)", small)[1]
    assert [one["prompt"] for one in faults(browser, swapped)["players"]] == [first]
