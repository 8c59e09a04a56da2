import csv

import pytest

from selfreg.analysis.compare import Judged
from selfreg.analysis.load import load_run
from selfreg.analysis.sheets import write_sheets
from selfreg.analysis.verdict import judge_run

FALL, RISE = (0.5, 0.25, 0.0, 0.0, 0.1), (0.25, 0.5, 0.75, 0.6)


@pytest.fixture
def sheets(write_run, tmp_path):
    """Return a function that writes runs, and reads the rows of campaigns.csv and chains.csv."""

    def write(*wanted):
        runs = [
            load_run(write_run(f"{i}", levels, seed=i, **kwargs))
            for i, (levels, kwargs) in enumerate(wanted)
        ]
        write_sheets([Judged(run, judge_run(run)) for run in runs], tmp_path)
        read = []
        for name in ("campaigns.csv", "chains.csv"):
            with (tmp_path / name).open(newline="", encoding="utf-8") as file:
                read.append(list(csv.DictReader(file)))
        return read

    return write


def test_chains_and_campaigns_by_hand(sheets):
    pass_rate = {"control_metric": "pass_rate", "panel": False}
    campaigns, chains = sheets(([FALL, RISE], pass_rate), ([RISE], {}))
    assert [(row["seed"], row["campaign"]) for row in campaigns] == [
        ("0", "0"), ("0", "1"), ("1", "0"),
    ]  # fmt: skip
    # Means of 5 of FALL: 0.5, 0.375, 0.25, 0.1875; of RISE: 0.25, 0.375, 0.5.
    shape = {k[6:]: v for k, v in campaigns[0].items() if k.startswith("shape.")}
    assert (shape["peak"], shape["end"], shape["gap"]) == ("0.5", "0.1875", "0.3125")
    assert float(shape["phase_transition"]) == pytest.approx(0.125 / 0.3125)
    assert shape["onset_step"] == shape["latency_steps"] == ""
    assert campaigns[0]["finding"] == "collapsed"
    assert 0 < float(campaigns[0]["noise.gap.p"]) <= 1

    first, second = chains
    assert first["metric.name"] == "pass_rate, mean of 5 steps"
    assert (first["metric.end.observed"], first["metric.total_steps.observed"]) == ("0.5", "7.0")
    assert float(first["metric.per_100_steps.observed"]) == pytest.approx(50 / 7)
    assert (first["metric.collapses.observed"], first["metric.hindsight_oracle.observed"]) == (
        "0.0",
        "0.5",
    )
    assert float(first["metric.end.null_low"]) < float(first["metric.end.null_high"])
    assert 0 < float(first["metric.end.p"]) <= 1
    assert second["metric.name"] == "panel_pass_at_1"
    assert second["metric.end.p"] == ""  # the stationary null exists only for pass_rate
    assert float(second["kept.standard_error"]) > 0


def test_an_unfinished_first_campaign_is_in_neither(write_run, tmp_path):
    run = load_run(write_run("run", [FALL], finished=0))
    write_sheets([Judged(run, judge_run(run))], tmp_path)
    for name in ("campaigns.csv", "chains.csv"):
        assert len((tmp_path / name).read_text().splitlines()) <= 1
