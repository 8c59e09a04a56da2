import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from selfreg.analysis import report
from selfreg.analysis.browse import select
from selfreg.analysis.load import load_run
from selfreg.analysis.page import csp_hash, render, visible, words
from selfreg.analysis.report import examples, null_rows, selected, timings, write_report
from selfreg.analysis.verdict import judge_run
from selfreg.run import rundir
from selfreg.run.records import Answer

CHROMIUM = shutil.which("chromium")
VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags and text, and checks that every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._open = [], "", []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def is_self_contained(page):
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts in ([], [{"type": "text/plain", "id": "packed"}, {}])  # the data, and its reader
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "srcset", "data", "action"):
            assert attributes.get(name, "data:").startswith("data:")
        assert not attributes.get("href", "").startswith(("http", "//", "javascript"))
    return True


def test_a_report(write_run):
    folder = write_run("run", [[0.3, 0.5, 0.1], [0.1, 0.2, 0.1]])
    text = write_report(folder)
    assert "COLLAPSED beyond noise" in text
    assert text.endswith(f"Report: {folder / 'report.html'}")
    assert (folder / "trajectory.png").read_bytes().startswith(b"\x89PNG")
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert is_self_contained(page)
    assert not re.search(r"url\(|@import|https?://(?!evil)|fetch|XMLHttp|WebSocket|eval\(", html)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in (
        page.tags
    )
    for expected in ("COLLAPSED beyond noise", "tiny: A0, seed 7", "first campaign", "cpu:0"):
        assert expected in page.text
    assert "unfinished" not in page.text


def test_verdict_json_holds_the_numbers_and_the_text(write_run):
    folder = write_run()
    text = write_report(folder)
    verdict = json.loads((folder / "verdict.json").read_text(), parse_constant=pytest.fail)
    assert text.startswith(verdict["text"])
    (campaign,) = verdict["campaigns"]
    assert campaign["finding"] == "collapsed"
    assert campaign["drop"]["mean"] == pytest.approx(0.5)
    assert campaign["noise"]["gap"]["p"] <= 1
    assert verdict["chain"]["kept_place"] == "end"
    assert verdict["margin"] == 0.10


def test_programs_are_shown_but_never_run(write_run, hostile):
    folder = write_run(name="<b>name</b>")
    write_report(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert is_self_contained(page)
    assert html.count("<script") == 2
    _, script = re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)
    assert f"script-src '{csp_hash(script)}'" in html  # browsers run only this script
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", script)
    assert "evil" in page.text  # as text, and in no attribute
    assert visible(hostile) in page.text
    assert "\x00" not in html
    assert "<b>name" not in html
    assert "default-src 'none'" in html  # browsers load no other resource


@pytest.mark.parametrize("finished", [0, 1])
def test_an_unfinished_run_has_a_report_that_says_so(write_run, finished):
    folder = write_run("run", [[0.3, 0.5, 0.1], [0.1, 0.2, 0.1]], finished=finished)
    assert "unfinished" in write_report(folder).lower()
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert f"{finished} of 2 campaigns have ended" in re.sub(r"\s+", " ", page.text)


def test_a_run_with_only_pass_rate(write_run):
    folder = write_run("run", panel=False, control_metric="pass_rate", condition="ES")
    assert "pass_rate gap" in write_report(folder)


def test_a_run_without_completions_or_manifest(write_run):
    folder = write_run(completions=False)
    (folder / "manifest.json").unlink()
    write_report(folder)
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert "training completions not kept" in page.text
    assert "No manifest was written" in page.text
    assert "Programs from" not in page.text
    assert "No completions were kept." in page.text
    assert "script" not in {tag for tag, _ in page.tags}


def test_a_report_says_what_it_left_out(write_run, monkeypatch):
    folder = write_run("run", [[0.3, 0.5, 0.1]])
    run = load_run(folder)
    told = selected(select(run, 1_000_000))
    assert told.startswith("This page holds all 104 completions")  # 2 x 16 and 3 x 24
    few = selected(select(run, 500))
    assert "of the 104 completions" in few
    assert "of 72" in few
    assert "of 32" in few
    monkeypatch.setattr(report, "PAGE_BYTES", 0)  # the pictures alone exceed this
    monkeypatch.setattr(report, "LEAST_BYTES", 500)
    write_report(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert few in Page(html).text
    (packed,) = re.findall(r'id="packed">(.*?)<', html)
    assert len(packed) <= 500


def test_a_language_models_answer_is_shown_and_cannot_run(write_run, hostile):
    folder = write_run("run", [[0.3, 0.5, 0.1], [0.1, 0.2, 0.1]])
    answers = [None, Answer(hostile, question="how many steps?", model="<b>m</b>")]
    for summary, answer in zip(load_run(folder).summaries, answers, strict=True):
        rundir.append_line(
            folder / "plans.jsonl", rundir.Planned(summary.campaign, summary.plan, answer)
        )
    write_report(folder)
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert is_self_contained(page)
    for expected in ("how many steps?", "Campaign 2: <b>m</b>", visible(hostile)):
        assert expected in page.text


def test_no_run_no_report(tmp_path):
    with pytest.raises(ValueError, match="not a run folder"):
        write_report(tmp_path)


def test_examples_name_each_policy_once(write_run):
    run = load_run(write_run("run", [[0.3, 0.5, 0.1]]))
    shown = examples(run, judge_run(run).campaigns[0])
    assert [example["problem_id"] for example in shown] == ["main/0", "main/3", "main/7", "main/11"]
    assert [answer["place"] for answer in shown[0]["answers"]] == ["start", "peak", "end"]
    assert [answer["outcome"] for answer in shown[0]["answers"]] == [
        "compile_error", "passed", "compile_error",
    ]  # fmt: skip
    run = load_run(write_run("up", [[0.3, 0.5]]))
    places = [a["place"] for a in examples(run, judge_run(run).campaigns[0])[0]["answers"]]
    assert places == ["start", "peak and end"]
    run = load_run(write_run("down", [[0.5, 0.3]]))
    places = [a["place"] for a in examples(run, judge_run(run).campaigns[0])[0]["answers"]]
    assert places == ["start and peak", "end"]


def test_every_statistic_is_listed_with_its_nulls(write_run):
    levels = [[0.5, 0.75, 1.0, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0]]
    (campaign,) = judge_run(load_run(write_run("run", levels))).campaigns
    rows = {row["statistic"]: row for row in null_rows(campaign)}
    # Rolling means .5 .625 .75 .625 .5 .4 .25 .05: below 30% of the peak at step 7 of 7.
    assert {name: row["observed"] for name, row in rows.items()} == {
        "peak": "0.75", "end": "0.05", "peak - end": "0.70", "end / peak": "0.07",
        "largest drop / gap": "0.29", "steps after the onset": "0.00",
    }  # fmt: skip
    gap = campaign.permuted.gap
    assert rows["peak - end"]["permutation"].startswith(f"{gap.null_mean:.2f} [")
    assert "p = " in rows["peak - end"]["stationary"]
    (bare,) = judge_run(load_run(write_run("bare", levels, completions=False))).campaigns
    assert {row["stationary"] for row in null_rows(bare)} == {""}


def test_timings_account_for_every_second(write_run):
    # Three steps of 0.5 s, each with a panel of 0.2 s, two with an update of 0.2 s.
    rows = {row["stage"]: row for row in timings(load_run(write_run("run", [[0.3, 0.5, 0.1]])))}
    assert list(rows) == ["eval", "update", "other", "all"]
    assert rows["eval"] == {"stage": "eval", "total": "0.6 s", "median": "0.200 s", "share": "40%"}
    assert rows["other"]["total"] == "0.5 s"
    assert rows["all"]["total"] == "1.5 s"


def test_json_in_words():
    assert words({"a": [1, 2], "b": None, "c": []}) == "a 1, 2; b none; c none"


def test_templates_refuse_missing_values():
    with pytest.raises(Exception, match="undefined"):
        render("comparison.html.j2", title="x")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_renders_it(write_run, tmp_path, width):
    folder = write_run()
    write_report(folder)
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--window-size={width},900", f"--user-data-dir={tmp_path}/profile"]
    result = subprocess.run(
        [*command, f"file://{folder}/report.html"], capture_output=True, text=True, timeout=60
    )
    assert "COLLAPSED beyond noise" in result.stdout
