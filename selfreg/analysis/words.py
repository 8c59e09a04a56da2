"""Verdicts in plain English: a line or two for a terminal, each number with what it rests on."""

from collections import Counter

from selfreg.analysis.finding import p_value
from selfreg.analysis.nullmodel import NullComparison
from selfreg.analysis.stats import Difference
from selfreg.analysis.verdict import CampaignVerdict, ChainVerdict, Finding, RunVerdict, Score

# More campaigns than this are counted instead of told one by one.
TOLD = 3

_FINDINGS = {
    Finding.COLLAPSED: "COLLAPSED beyond noise",
    Finding.DECLINED: "declined beyond noise, by less than the margin",
    Finding.IMPROVED: "improved beyond noise",
    Finding.STABLE: "stable",
    Finding.NOISE: "drop not distinguishable from noise",
    Finding.NO_DROP: "no drop, the end is the peak",
    Finding.NOTHING_TO_LOSE: "nothing to lose, the peak is below the margin",
    Finding.FAILED: "FAILED",
}
# Of a chain: from the best peak of its campaigns to what it keeps.
_CHAIN_FINDINGS = {**_FINDINGS, Finding.NO_DROP: "no drop, the best peak is kept"}


def describe(verdict: RunVerdict) -> str:
    """Two to five lines: the chain, its campaigns, and what the numbers mean."""
    name = f"{verdict.condition} seed {verdict.seed}"
    if verdict.chain is None:
        at = f"{verdict.updates} updates into its first campaign"
        return f"{name}: unfinished, {at}: no verdict yet."
    done, planned = len(verdict.campaigns), verdict.planned_campaigns
    state = "" if verdict.finished else f"UNFINISHED, {done} of {planned} campaigns; "
    lines = [f"{name}: {state}{_chain(verdict, verdict.chain)}"]
    if done <= TOLD:
        lines += [campaign_line(campaign) for campaign in verdict.campaigns]
    else:
        lines += [_tally(verdict), campaign_line(largest_drop(verdict.campaigns))]
    score = verdict.chain.start
    lines.append(
        f"Report panel: n = {score.problems} problems x {score.samples} samples; "
        "± one standard error, [95% interval], one-sided p, paired and clustered by problem."
    )
    return "\n".join(lines)


def campaign_line(campaign: CampaignVerdict) -> str:
    """One campaign, one sentence."""
    name = f"Campaign {campaign.campaign + 1}"
    finding = finding_words(campaign)
    if campaign.finding is Finding.NOTHING_TO_LOSE:
        return f"{name}: peak {score(campaign.peak)}, end {score(campaign.end)}: {finding}."
    if campaign.rise is None:
        rose = f"peaked at its start with {score(campaign.peak)}"
    else:
        rose = (
            f"from {score(campaign.start)} to a peak of {score(campaign.peak)} at step "
            f"{campaign.peak_step} ({change(campaign.rise)})"
        )
    fell = "" if campaign.drop is None else f", ended at {score(campaign.end)}"
    noise = "" if campaign.noise is None else f"; {noise_words(campaign.noise)}"
    return f"{name}: {rose}{fell}: {finding}{noise}."


def finding_words(campaign: CampaignVerdict) -> str:
    """The finding with the drop it rests on."""
    words = _FINDINGS[campaign.finding]
    if campaign.drop is not None:
        return f"{words} (drop {interval(campaign.drop)}, {p_value(campaign.drop.p_above())})"
    if campaign.finding is Finding.NO_DROP:
        return words
    return f"{words}, {_FINDINGS[Finding.NO_DROP]}"


def noise_words(noise: NullComparison) -> str:
    """The gap of the per-step metric against the null."""
    steps = noise.reading.steps
    return (
        f"pass_rate gap {noise.gap.observed:.2f}, null {p_value(noise.gap.p)} (n = {steps} steps)"
    )


def largest_drop(campaigns: tuple[CampaignVerdict, ...]) -> CampaignVerdict:
    """The campaign that lost most from peak to end; the first of equals."""
    return max(campaigns, key=lambda c: c.drop.mean if c.drop else 0.0)


def score(value: Score) -> str:
    """0.31 ± 0.03."""
    return f"{value.pass_at_1:.2f} ± {value.standard_error:.2f}"


def interval(value: Difference) -> str:
    """0.43 [0.37, 0.49]; without an interval when all problems agree, which makes it empty."""
    if value.standard_error == 0:
        return f"{value.mean:.2f} on every problem"
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"


def change(value: Difference) -> str:
    """+0.14 [+0.10, +0.18], for what can go either way."""
    if value.standard_error == 0:
        return f"{value.mean:+.2f} on every problem"
    return f"{value.mean:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"


def _chain(verdict: RunVerdict, chain: ChainVerdict) -> str:
    count = len(verdict.campaigns)
    ended = (
        f"pass@1 went from {score(chain.start)} to {score(chain.end)} at the end of "
        f"{count} campaign{'s' * (count != 1)} and {verdict.updates} updates"
    )
    if chain.end_change is not None:
        ended += f" ({change(chain.end_change)})"
    if chain.kept_place == "end":
        kept = f"that end is what {verdict.condition} keeps"
    elif chain.kept_change is None:
        kept = f"{verdict.condition} keeps the policy it started from"
    else:
        kept = (
            f"{verdict.condition} keeps the last {chain.kept_place}: {score(chain.kept)} "
            f"({change(chain.kept_change)})"
        )
    if count == 1:  # the campaign's own line says it
        return f"{ended}; {kept}."
    fell = "" if chain.drop is None else f" (drop {interval(chain.drop)})"
    return f"{ended}; {kept}; from the best peak to that: {_CHAIN_FINDINGS[chain.finding]}{fell}."


def _tally(verdict: RunVerdict) -> str:
    counts = Counter(campaign.finding for campaign in verdict.campaigns)
    told = ", ".join(f"{counts[f]} {f.value}" for f in Finding if counts[f])
    return f"Of {len(verdict.campaigns)} campaigns: {told}. The largest drop:"
