"""The browser of completions, run in Chromium. Its content is a function of the page's address."""

import re
from html import unescape
from urllib.parse import urlencode

import numpy as np
import pytest

from selfreg.analysis.report import write_report
from tests.analysis.browsing import CHROMIUM, dump, keep

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")

ATTACK = (
    "ok</script><script>document.documentElement.dataset.hit = 1</script>"
    '<img src="x" onerror="document.documentElement.dataset.hit = 1">'
)
# The samples of one problem at the first, the second and the third step.
PROGRAMS = {
    "p/0": ["ok\na\nb\nc\nd", "a\nc\nx\nd\ny", "a\nc\nx\nd\ny"],
    "p/1": ["one\ntwo", "three", ATTACK],
    "p/2": ["y\x00" + "x" * 50_000] * 3,
}


@pytest.fixture
def look(write_run, tmp_path):
    """Return look(name=value, ...), which opens the report's page at that address."""
    folder = write_run("run", [[0.3, 0.5, 0.1]])
    for step in range(3):
        keep(folder, step, "panel", {name: [own[step]] for name, own in PROGRAMS.items()})
    write_report(folder)
    report = folder / "report.html"

    def at(**state):
        return dump(report, f"#{urlencode(state)}", tmp_path / "profile")

    at.report = report
    return at


def keys(page):
    """Return the keys of the listed completions."""
    return re.findall(r'data-key="([^"]*)"', page)


def shown(page, kind):
    """Return the text of the <pre> with this class in an opened completion."""
    (found,) = re.findall(rf'<pre class="{kind}">(.*?)</pre>', page, re.DOTALL)
    lines = re.findall(r"<span[^>]*>(.*?)</span>", found) or [found]
    return unescape("\n".join(lines))


def test_the_address_filters(look):
    page = look(campaign=0, step=1, stream="panel")
    assert keys(page) == ["panel.0.1.0.p/0", "panel.0.1.0.p/1", "panel.0.1.0.p/2"]
    assert "3 of 113 completions" in page  # 9 of the panel, 32 of training, 72 of the report panel
    assert keys(look(stream="panel", outcome="passed")) == ["panel.0.0.0.p/0", "panel.0.2.0.p/1"]
    assert len(keys(look(stream="panel", outcome="!passed"))) == 7
    assert keys(look(stream="panel", change="lost")) == ["panel.0.1.0.p/0"]
    assert keys(look(stream="panel", change="gained")) == ["panel.0.2.0.p/1"]
    assert keys(look(problem="p/1", step=0)) == ["panel.0.0.0.p/1"]
    assert keys(look(problem="nowhere")) == []


def test_without_a_filter_the_list_begins_and_can_grow(look):
    page = look()
    assert len(keys(page)) == 30
    assert "113 of 113 completions" in page
    assert not re.search(r'<button id="more"[^>]*hidden', page)


def test_one_completion_with_its_changes(look):
    page = look(stream="panel", open="panel.0.1.0.p/0")
    assert shown(page, "program") == PROGRAMS["p/0"][1]
    # Between ok a b c d and a c x d y the longest common subsequence is a c d.
    diff = shown(page, "diff")
    assert diff.split("\n") == ["- ok", "  a", "- b", "  c", "+ x", "  d", "+ y"]
    assert "Changes since campaign 1, step 0" in page
    assert "line 1" in page
    assert "solve p/0" in page
    assert unescape(page).count("open=panel.0.0.0.p%2F0") == 1  # the step before
    assert unescape(page).count("open=panel.0.2.0.p%2F0") == 1  # the step after


def test_a_long_diff_keeps_as_many_lines_as_can_be_kept(look):
    rng = np.random.default_rng(0)
    old, new = (list(rng.choice(list("abcd"), 40)) for _ in range(2))
    for step, lines in enumerate((old, new)):
        keep(look.report.parent, step, "panel", {"p/0": ["\n".join(lines)]})
    write_report(look.report.parent)
    diff = shown(look(open="panel.0.1.0.p/0"), "diff").split("\n")
    assert [line[2:] for line in diff if line[0] in " -"] == old
    assert [line[2:] for line in diff if line[0] in " +"] == new
    longest = np.zeros((41, 41), int)
    for i, x in enumerate(old, 1):
        for j, y in enumerate(new, 1):
            best = max(longest[i - 1, j], longest[i, j - 1])
            longest[i, j] = longest[i - 1, j - 1] + 1 if x == y else best
    assert sum(line[0] == " " for line in diff) == longest[-1, -1]


def test_an_unchanged_program_is_labelled_as_unchanged(look):
    page = look(open="panel.0.2.0.p/0")
    assert "The same program as at campaign 1, step 1." in page
    assert 'class="diff"' not in page
    assert keys(page)[0] == "panel.0.2.0.p/0"


def test_an_address_without_a_completion_is_reported(look):
    assert "The completion that the link names is not on this page" in look(open="panel.9.9.9.p/0")


def test_training_samples_are_compared_with_the_last_time_they_were_drawn(look):
    page = look(open="train.0.1.3.train/0")
    assert "The same program as at campaign 1, step 0." in page


def test_a_huge_line_is_cut_and_a_nul_is_spelled_out(look):
    program = shown(look(open="panel.0.0.0.p/2"), "program")
    assert program.startswith("y<U+0000>xxx")
    assert "[... 44,002 characters left out of this page ...]" in program
    assert len(program) < 6_100


def test_the_address_holds_the_filter_and_the_open_completion(look):
    hand = """<script>
    const wait = () => new Promise(done => setTimeout(done, 500));
    (async () => {
      await wait();
      for (const [name, value] of [["stream", "panel"], ["change", "lost"]]) {
        const select = document.getElementById("by-" + name);
        select.value = value;
        select.dispatchEvent(new Event("change"));
      }
      document.querySelector("#list summary").click();
      await wait();
      document.body.dataset.opened = location.hash;
      document.querySelector("#list .steps a:last-child").click();
      await wait();
      document.body.dataset.followed = location.hash;
      document.querySelector("#list details[open] summary").click();
      await wait();
      document.body.dataset.closed = location.hash;
    })();
    </script></body>"""
    html = re.sub(r"<meta http-equiv[^>]*>", "", look.report.read_text())
    look.report.write_text(html.replace("</body>", hand))
    page = look()
    found = dict(re.findall(r'data-(opened|followed|closed)="([^"]*)"', page))
    assert unescape(found["opened"]) == "#stream=panel&change=lost&open=panel.0.1.0.p%2F0"
    assert found["followed"] == "#open=panel.0.2.0.p%2F0"
    assert found["closed"] == ""


def test_hostile_programs_do_nothing(look):
    page = look(open="panel.0.2.0.p/1")
    assert "data-hit" not in page.split("<head>")[0]
    assert shown(page, "program") == ATTACK
    # Even unescaped they would not run, because the page's policy allows only its own script.
    html = look.report.read_text()
    look.report.write_text(html.replace("<h1>", ATTACK + "<h1>"))
    assert "data-hit" not in look().split("<head>")[0]
    # Check that this test can detect a script that runs:
    look.report.write_text(
        re.sub(r"<meta http-equiv[^>]*>", "", html).replace("<h1>", ATTACK + "<h1>")
    )
    assert "data-hit" in look().split("<head>")[0]


def test_without_scripts_the_rest_of_the_page_works(look):
    html = look.report.read_text()
    look.report.write_text(re.sub(r"; script-src [^;\"]*", "", html))
    page = look()
    assert "COLLAPSED" in page
    assert "Browsing completions needs JavaScript" in page
    assert re.search(r'<div id="browser" hidden', page)
    assert keys(page) == []


@pytest.mark.parametrize("opened", ["", "#open=panel.0.2.0.p%2F1", "#open=panel.0.2.0.p%2F2"])
def test_nothing_is_wider_than_a_phone(look, tmp_path, opened):
    frame = tmp_path / "phone.html"
    frame.write_text(
        f'<iframe id="f" style="width: 400px" src="{look.report}{opened}"></iframe><script>'
        'onload = () => setTimeout(() => { const r = document.getElementById("f").contentDocument'
        ".documentElement; document.body.dataset.widths = r.clientWidth + ' ' + r.scrollWidth; },"
        "3000)</script>"
    )
    page = dump(frame, "", tmp_path / "profile", "--allow-file-access-from-files")
    visible, needed = re.search(r'data-widths="(\d+) (\d+)"', page).groups()
    assert int(visible) <= 400
    assert int(needed) <= int(visible)
