"""Verdicts in plain English, in a few lines for a terminal: first the finding, then the numbers."""

from collections import Counter
from math import hypot

from selfreg.analysis.finding import p_value
from selfreg.analysis.nullmodel import NullComparison
from selfreg.analysis.stats import Difference
from selfreg.analysis.trajectory import COLLAPSE_RATIO
from selfreg.analysis.verdict import CampaignVerdict, ChainVerdict, Finding, RunVerdict, Score

# Chains with more campaigns than this get a tally in place of a line per campaign.
TOLD = 3
# The one-sided 5% quantile of the normal distribution.
_ONE_SIDED_Z = 1.645

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
# The chain's finding, as a remark on the drop from the best peak to the kept policy.
_CHAIN_DROPS = {
    **_FINDINGS,
    Finding.IMPROVED: "below the margin",
    Finding.STABLE: "below the margin",
    Finding.NOISE: "not distinguishable from noise",
}
_HEADLINES = {
    Finding.DECLINED: "the kept policy is a little worse than the best peak",
    Finding.IMPROVED: "training made the policy better",
    Finding.STABLE: "the kept policy is about as good as the best peak",
    Finding.NOISE: "the panel is too small to tell a drop from noise",
    Finding.NO_DROP: "training did not improve the policy beyond noise",
    Finding.NOTHING_TO_LOSE: "even the best peak is too low to lose anything",
}


def describe(verdict: RunVerdict) -> str:
    """Describe a run in two to five lines: its chain, its campaigns, and the notation."""
    name = f"{verdict.condition} seed {verdict.seed}"
    if verdict.chain is None:
        at = f"{verdict.updates} updates into its first campaign"
        return f"{name}: unfinished, {at}; no verdict yet."
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
    """Describe one campaign in one sentence."""
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
    """Return the finding in words, with the drop behind it."""
    words = _FINDINGS[campaign.finding]
    if campaign.drop is not None:
        return f"{words} (drop {interval(campaign.drop)}, {p_value(campaign.drop.p_above())})"
    if campaign.finding is Finding.NO_DROP:
        return words
    return f"{words}, {_FINDINGS[Finding.NO_DROP]}"


def noise_words(noise: NullComparison) -> str:
    """Compare the gap of the per-step pass_rate with its null, in words."""
    steps = noise.reading.steps
    return (
        f"pass_rate gap {noise.gap.observed:.2f}, null {p_value(noise.gap.p)} (n = {steps} steps)"
    )


def largest_drop(campaigns: tuple[CampaignVerdict, ...]) -> CampaignVerdict:
    """Return the campaign with the largest drop from peak to end; the first among equals."""
    return max(campaigns, key=lambda c: c.drop.mean if c.drop else 0.0)


def score(value: Score) -> str:
    """Format a score as "0.31 ± 0.03"."""
    return f"{value.pass_at_1:.2f} ± {value.standard_error:.2f}"


def interval(value: Difference) -> str:
    """Format a difference as "0.43 [0.37, 0.49]".

    If all problems have the same difference, the interval is empty and left out.
    """
    if value.standard_error == 0:
        return f"{value.mean:.2f} on every problem"
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"


def change(value: Difference) -> str:
    """Format a difference with its sign, as "+0.14 [+0.10, +0.18]"."""
    if value.standard_error == 0:
        return f"{value.mean:+.2f} on every problem"
    return f"{value.mean:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"


def _chain(verdict: RunVerdict, chain: ChainVerdict) -> str:
    count = len(verdict.campaigns)
    best = verdict.campaigns[chain.best_campaign]
    peak = f" -> {score(chain.best)} at the best peak (campaign {best.campaign + 1}, "
    peak += f"step {best.peak_step})"
    if best.campaign == best.peak_step == 0:
        peak = " at the start (the best peak)"
    ended = (
        f"pass@1: {score(chain.start)}{peak} -> {score(chain.end)} at the end "
        f"({count} campaign{'s' * (count != 1)}, {verdict.updates} updates)"
    )
    if chain.kept_place == "end":
        kept = "the end"
    elif chain.kept_change is None:
        kept = "the start"
    else:
        kept = f"the last {chain.kept_place}, {score(chain.kept)}"
    if chain.kept_change is not None:
        kept += f" ({change(chain.kept_change)} from the start)"
    text = f"{_headline(chain)}. {ended}. Kept: {kept}."
    if count == 1:  # the campaign's own line states its finding
        return text
    if chain.drop is None:
        improved = "" if chain.finding is Finding.IMPROVED else "not "
        return f"{text} The best peak is kept: {improved}improved beyond noise."
    drop = f"{interval(chain.drop)}, {_CHAIN_DROPS[chain.finding]}"
    return f"{text} Drop from the best peak to the kept policy: {drop}."


def _headline(chain: ChainVerdict) -> str:
    """Return the finding on the kept policy as a statement about training."""
    if chain.finding is not Finding.COLLAPSED:
        return _HEADLINES[chain.finding]
    destroyed = chain.kept.pass_at_1 < COLLAPSE_RATIO * chain.best.pass_at_1
    if _rose(chain):
        return f"training made the policy better, then {'destroyed it' if destroyed else 'worse'}"
    return f"training {'destroyed the policy' if destroyed else 'made the policy worse'}"


def _rose(chain: ChainVerdict) -> bool:
    """Return whether the best peak lies above the start beyond noise.

    The scores are paired, so treating them as independent makes this test conservative.
    """
    error = hypot(chain.best.standard_error, chain.start.standard_error)
    return chain.best.pass_at_1 - chain.start.pass_at_1 > _ONE_SIDED_Z * error


def _tally(verdict: RunVerdict) -> str:
    counts = Counter(campaign.finding for campaign in verdict.campaigns)
    told = ", ".join(f"{counts[f]} {f.value}" for f in Finding if counts[f])
    return f"Of {len(verdict.campaigns)} campaigns: {told}. The largest drop:"
