"""The report: one page without scripts that a browser draws, narrow and wide, light and dark."""

import html.parser
import re
import subprocess

import numpy as np
import pytest
from support import needs
from support.lab_results import MACHINE, measurement, results

from fastmlp.lab import report
from fastmlp.lab.measurements import STEP, PhaseTime, Wrong
from fastmlp.lab.report import page

STEPS = [
    measurement(name, seconds, STEP, 5.2e6, 1 << 16)._replace(case="adam", shape="64-128-10 b32")
    for name, seconds in (("reference", 3e-4), ("tiled", 6e-5), ("fused", 5e-5))
]
PHASES = [
    PhaseTime("64-128-10 b32", "float32", "tiled", phase, layer, seconds)
    for phase, layer, seconds in zip(
        ("gather", "forward", "forward", "loss"), (0, 1, 2, 0), (1e-5, 3e-5, 1e-5, 1e-5), strict=True
    )
]
GIVEN = results(
    measurement("tiled", 6e-6), measurement("blas", 8e-6), measurement("baseline", 2e-5, "gather", None),
    *STEPS, wrong=[Wrong("drop", "p=0.5", "1x1x1", "float32", "mine", "off by <3> & more")], phased=PHASES,
)  # fmt: skip


class Checked(html.parser.HTMLParser):
    """Keeps the tags that are open, and what the page fetches."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.fetched, self.ids, self.links = [], [], [], set(), []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.seen.append(tag)
        self.ids.add(given.get("id"))
        self.links += [given["href"]] if tag == "a" else []
        self.fetched += [given[name] for name in ("src", "href") if name in given and tag != "a"]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing():
    checked = Checked()
    checked.feed(page(GIVEN))
    assert checked.open == []
    assert checked.fetched == ["data:,"]
    assert "script" not in checked.seen
    assert {link.removeprefix("#") for link in checked.links} <= checked.ids
    assert checked.links == ["#winners", "#steps", "#phases", "#roofline", "#slots", "#wrong"]


def test_whole_steps_come_first_and_ties_have_no_winner():
    slots = [
        measurement(name, seconds)._replace(shape=f"{rows}x64x64")
        for rows in (1, 2, 3)
        for name, seconds in (("mine", 6e-6), ("tiled", 6.05e-6 if rows < 3 else 8e-6))
    ]
    text = page(results(*slots, *STEPS))
    steps, slots = (text.index(said) for said in ("<p>Whole steps that several", "<p>Slots that several"))
    assert steps < slots
    assert text.index('id="steps"') < text.index('id="slots"')
    assert '<div>fused</div><div class="track"><div class="fill"' in text[steps:slots]
    assert "1 of 1</div>" in text[steps:slots]
    assert "2 of 3 are tied: no variant is certainly the fastest." in text[slots:]
    assert "1 of 3</div>" in text[slots : text.index('id="steps"')]
    assert "affine: 3 rows, fastest mine, 2 tied" in text


def test_the_page_says_what_was_found():
    text = page(GIVEN)
    assert "tiled takes 6 us, 1.33 times as fast as blas." in text
    assert "6.0 times" in text  # fused against the reference
    assert "forward of layer 1: 30 us, 50%" in text
    assert "off by &lt;3&gt; &amp; more" in text
    assert "peak 100 GF/s" in text
    assert "6 us ±1%, 87.4 GF/s" in text
    # blas's 8 us are the longest; tiled's 5.94 to 6.06 us are 73.5 % to 75.0 % of its 8.08.
    assert 'class="interval" style="left:73.5%;width:1.5%"' in text
    assert text.count('class="interval"') == 9  # of six times, and of three speed-ups
    assert "<li>blas takes 1.33 times as long: it reaches 66% of the peak, where tiled reaches 87%." in text
    assert "The functions of tiled, the fastest of fastmlp&#x27;s backends here" in text


def things(text):
    """What has a colour on the page: a set of names for each."""
    found = {}
    bar = r'>([^<]+)</div><div class="track"><div class="fill" style="width:[\d.]+%;background:([^"]+)"'
    for name, color in re.findall(bar, text):
        found.setdefault(color, set()).add(name)
    for color, name in re.findall(r'<span style="background:([^"]+)"></span>(\w+)', text):
        found.setdefault(color, set()).add(name)
    return found


def test_a_colour_is_of_one_thing_and_a_thing_of_one_colour():
    """Twenty variants, and the parts of a step."""
    many = [measurement(f"v{number}", 1e-5 + 1e-6 * number) for number in range(20)]
    text = page(GIVEN._replace(measurements=[*GIVEN.measurements, *many]))
    found = things(text)
    assert all(len(names) == 1 for names in found.values())
    names = [name for one in found.values() for name in one]
    assert len(names) == len(set(names))
    assert {"tiled", "v19", "gather", "forward", "loss"} <= {*names}
    defined = set(re.findall(r"--([cp]\d+):", text))
    assert {color[6:-1] for color in found if color.startswith("var")} <= defined


def test_an_interval_without_end_does_not_shrink_the_bars():
    wild = measurement("blas", 8e-6)
    wild = wild._replace(time=wild.time._replace(high=8e-6 * 48, busy=True))
    text = page(results(measurement("tiled", 6e-6), wild))
    assert "8 us ±4700% busy" in text
    assert 'style="width:80.0%' in text  # of a track that is a quarter longer than the longest bar


def test_a_step_that_is_mostly_calls_is_not_taken_apart():
    phased = [phase._replace(seconds=1e-3) for phase in PHASES]
    assert "mostly calls" in page(GIVEN._replace(phases=phased))


def test_waiting_is_what_several_threads_take_beyond_one():
    two = STEPS[2]._replace(threads=2, time=STEPS[2].time._replace(median=4e-5))
    reference = STEPS[0]._replace(threads=2)
    text = page(GIVEN._replace(measurements=[*GIVEN.measurements, two, reference]))
    assert "threads&#x27; time 38% is waiting" in text  # 1 - 50 / (2 * 40)


def test_every_variant_has_a_marker_of_its_own():
    paths = [report.marker(number, 0, 0, 5) for number in range(len(report.MARKERS))]
    assert len({*paths}) == len(paths)
    assert all(re.fullmatch(r"[MahvlzA-Z0-9.,\- ]+", path) for path in paths)


def test_the_roofline_has_its_points_below_the_peak():
    point = 10.0, 50e9, 0, "half of the peak"
    text = report.roofline(MACHINE, "float32", [point])
    y = {float(m[1]) for m in re.finditer(r'<polyline class="roof" points="\S+ \S+,([\d.]+) ', text)}
    assert len(y) == 1
    at = float(re.search(r'<path d="M[\d.]+,([\d.]+)a', text)[1])
    assert at > y.pop()


@pytest.mark.slow  # starts a browser, 2 to 6 s
@needs.browser
@pytest.mark.parametrize(("width", "mode"), [(500, "dark"), (500, "light"), (1200, "light"), (1200, "dark")])
def test_a_browser_draws_it(width, mode, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    (tmp_path / "report.html").write_text(page(GIVEN), encoding="utf-8")
    command = [
        *(needs.BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2400"),
        "--enable-logging=stderr",
        f"--blink-settings=preferredColorScheme={0 if mode == 'dark' else 1}",
        *(f"--screenshot={tmp_path / 'page.png'}", (tmp_path / "report.html").as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=needs.PATIENCE)
    assert "CONSOLE" not in done.stderr
    drawn = image.imread(tmp_path / "page.png")[..., :3]
    assert drawn.shape[1] == width
    ground = drawn[5, 5]
    assert (ground.mean() < 0.3) == (mode == "dark")
    # Bars, points and text: colours beside the ground's and greys.
    colourful = (drawn.max(axis=2) - drawn.min(axis=2)) > 0.25
    assert colourful.mean() > 0.005
    # Nothing is cut off at the right: the page's margin is there, all the way down.
    assert np.abs(drawn[:, -8:] - ground).max() < 0.02
