"""The report: one page without scripts that a browser draws, narrow and wide."""

import base64
import html.parser
import re
import subprocess

import pytest
from support import needs
from support.lab_results import measurement, results

from fastmlp.lab.measurements import STEP, PhaseTime, Wrong
from fastmlp.lab.report import colors_of, page, roofline, timed

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
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing():
    checked = Checked()
    checked.feed(page(GIVEN))
    assert checked.open == []
    assert all(address.startswith(("data:,", "data:image/svg+xml;base64,")) for address in checked.fetched)
    assert "script" not in checked.seen
    assert {link.removeprefix("#") for link in checked.links} <= checked.ids
    assert checked.links == ["#winners", "#steps", "#phases", "#roofline", "#slots", "#wrong"]


def pictures(text):
    """The page's pictures, as text."""
    return "".join(base64.b64decode(one).decode() for one in re.findall(r"svg\+xml;base64,([^\"]+)", text))


def test_whole_steps_come_first_and_ties_have_no_winner():
    slots = [
        measurement(name, seconds)._replace(shape=f"{rows}x64x64")
        for rows in (1, 2, 3)
        for name, seconds in (("mine", 6e-6), ("tiled", 6.05e-6 if rows < 3 else 8e-6))
    ]
    text = page(results(*slots, *STEPS))
    assert text.index('id="steps"') < text.index('id="slots"')
    assert "Whole steps that several variants compute, by the fastest of them: fused 1 of 1.</p>" in text
    assert "mine 1 of 3. 2 of 3 are tied: no variant is certainly the fastest." in text
    assert "affine: 3 rows, fastest mine, 2 tied" in text


def test_the_page_says_what_was_found():
    text = page(GIVEN)
    assert "tiled takes 6 us, 1.33 times as fast as blas." in text
    assert "<li>blas takes 1.33 times as long: it reaches 66% of the peak, where tiled reaches 87%." in text
    assert "off by &lt;3&gt; &amp; more" in text
    assert "The functions of tiled, the fastest of fastmlp&#x27;s backends here" in text
    drawn = pictures(text)
    assert "6.0 times NumPy" in drawn  # fused against the reference
    assert "6 us ±1%, 87.4 GF/s, 87%" in drawn
    assert "forward of layer 1: 30 us, 50%" in drawn
    assert "peak 100 GF/s" in drawn


def bars(ranked):
    (axes,) = timed(ranked, GIVEN, colors_of(results(*ranked))).axes
    return axes


def test_bars_are_medians_and_their_lines_the_intervals():
    axes = bars([measurement("tiled", 6e-6), measurement("blas", 8e-6)])
    assert [bar.get_width() for bar in axes.patches] == [6e-6, 8e-6]
    ends = [segment[:, 0] for segment in axes.collections[0].get_segments()]
    assert [pytest.approx(one) for one in ([5.94e-6, 6.06e-6], [7.92e-6, 8.08e-6])] == [
        [*one] for one in ends
    ]
    assert [one.get_text() for one in axes.get_yticklabels()] == ["tiled", "blas"]


def test_an_interval_without_end_does_not_shrink_the_bars():
    wild = measurement("blas", 8e-6)
    wild = wild._replace(time=wild.time._replace(high=8e-6 * 48, busy=True))
    axes = bars([measurement("tiled", 6e-6), wild])
    assert axes.get_xlim()[1] < 3 * 8e-6
    assert "8 us ±4700% busy" in axes.texts[1].get_text()


def test_twenty_variants_have_colours_of_their_own():
    colors = colors_of(results(*(measurement(f"v{number}", 1e-5) for number in range(20))))
    assert len({*colors.values()}) == 20


def test_a_step_that_is_mostly_calls_is_not_taken_apart():
    phased = [phase._replace(seconds=1e-3) for phase in PHASES]
    assert "mostly calls" in page(GIVEN._replace(phases=phased))


def test_waiting_is_what_several_threads_take_beyond_one():
    two = STEPS[2]._replace(threads=2, time=measurement("", 4e-5).time)
    reference = STEPS[0]._replace(threads=2)
    text = page(GIVEN._replace(measurements=[*GIVEN.measurements, two, reference]))
    assert "threads&#x27; time 38% is waiting" in text  # 1 - 50 / (2 * 40)


def test_the_roofline_has_points_of_one_thread_below_the_peak():
    (axes,) = roofline(GIVEN, "float32", colors_of(GIVEN)).axes
    assert {one.get_label() for one in axes.collections} == {"tiled", "blas", "reference", "fused"}
    (memory,) = (line for line in axes.lines if 5.0 in line.get_xdata())  # 100 GF/s over 20 GB/s
    assert memory.get_ydata()[1] == 100.0
    tiled = next(one for one in axes.collections if one.get_label() == "tiled")
    assert tiled.get_offsets()[0, 1] == pytest.approx(2 * 64**3 / 6e-6 / 1e9)
    assert roofline(GIVEN, "float64", colors_of(GIVEN)) is None


@pytest.mark.slow  # starts a browser, 2 to 6 s
@needs.browser
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_draws_it(width, tmp_path):
    from matplotlib import image

    (tmp_path / "report.html").write_text(page(GIVEN), encoding="utf-8")
    command = [
        *(needs.BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2400"),
        "--enable-logging=stderr",
        *(f"--screenshot={tmp_path / 'page.png'}", (tmp_path / "report.html").as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=needs.PATIENCE)
    assert "CONSOLE" not in done.stderr
    drawn = image.imread(tmp_path / "page.png")[..., :3]
    assert drawn.shape[1] == width
    # Bars and points: colours beside white and greys.
    assert (drawn.max(axis=2) - drawn.min(axis=2) > 0.25).mean() > 0.005
    # Nothing is cut off at the right: the page's margin is there, all the way down.
    assert drawn[:, -8:].min() > 0.98
