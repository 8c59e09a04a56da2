"""The waves: their chains are those of the paper, and their dependencies are consistent."""

import importlib
from collections import Counter
from pathlib import Path

import pytest

from configs import paper
from selfreg.control.find import find_between, find_within
from selfreg.control.protocol import base_of
from selfreg.run.validate import check_names, resolve

ROOT = Path(__file__).parent.parent
# Chains per condition, campaigns and steps, from the paper's sections 5.2 to 5.11 and appendix I.
WAVES = {
    "fig1": ({"A0": 1}, 1, 200),
    "table1": ({"A0": 3}, 3, 50),
    "table2": ({"A0": 3}, 1, 20),
    "w1": (dict.fromkeys(("A0", "A1", "A2v1", "A3v1"), 3), 3, 20),
    "w1v2": (dict.fromkeys(("A0", "A1", "A2", "A3"), 5), 3, 50),
    "w2": (dict.fromkeys(("B0", "B1", "B2", "B3", "B4"), 6), 3, 20),
    "w3": ({"A0": 5, "A3": 3}, 5, 20),
    "w4": ({"A0": 5, "A3": 5}, 10, 20),
    "w6": ({"B1": 1}, 10, 20),
    "w7": ({"A0": 5, "A3": 5}, 10, 20),
    "w8": ({"ES": 3}, 10, 20),
    "w12": ({"ES": 5}, 10, 20),
    "w14": ({"M1": 3}, 10, 20),
    "w15": ({"A4": 3}, 10, 20),
    "w17": ({"A0": 10, "A3": 10}, 10, 20),
    "w18": ({"ES": 3}, 10, 20),
    "gemma": ({"A0": 1}, 1, 20),
}
VARIANTS = [(wave, variant) for wave in WAVES for variant in ("", "tiny")]


def load(wave):
    return importlib.import_module(f"configs.{wave}")


def config_of(wave, chain):
    """Return the chain's config before its condition is set."""
    config = load(wave).get_config(*([chain.variant] if chain.variant else []))
    config.update_from_flattened_dict(dict(chain.changes))
    return config


def test_every_config_of_the_paper_is_a_wave():
    others = {"paper", "tiny", "smollm2", "comparison"}
    assert {file.stem for file in (ROOT / "configs").glob("*.py")} - others == WAVES.keys()


@pytest.mark.parametrize(("wave", "variant"), VARIANTS)
def test_a_wave_has_the_papers_chains(wave, variant):
    conditions, campaigns, steps = WAVES[wave]
    chains = load(wave).sweep(variant)
    assert Counter(chain.condition for chain in chains) == conditions
    assert len({chain.place for chain in chains}) == len(chains)
    seeds = {chain.seed for chain in chains}
    assert seeds in ({7}, set(paper.THREE_SEEDS), set(paper.FIVE_SEEDS))
    for chain in chains:
        check_names(chain.changes)
        resolved = resolve(config_of(wave, chain))
        if not resolved.campaign_budget_steps:
            assert resolved.campaigns == 1
            continue
        assert resolved.campaigns == campaigns
        if variant != "tiny":
            assert resolved.campaign_budget_steps == steps
            assert (resolved.rollout.group_size, resolved.rollout.temperature) == (16, 0.7)
            assert resolved.optimizer.lr == 1e-6
            assert resolved.control_metric == "pass_rate"
        else:
            assert resolved.model.path == "tiny"


@pytest.mark.parametrize(("wave", "variant"), VARIANTS)
def test_what_a_chain_needs_is_a_chain_that_fits(wave, variant):
    everything = {c.place: (name, c) for name in WAVES for c in load(name).sweep(variant)}
    for chain in load(wave).sweep(variant):
        if chain.shares:
            source, shared = everything[chain.shares]
            assert (shared.seed, shared.shares) == (chain.seed, "")
            ours, theirs = (config_of(*pair) for pair in ((wave, chain), (source, shared)))
            ours.name = theirs.name = ""
            assert ours == theirs
        if chain.starts_from:
            place, _, checkpoint = chain.starts_from.rpartition(":")
            source, first = everything[place]
            step = int(checkpoint.partition(".")[2])
            config = config_of(source, first)
            assert step <= config.campaign_budget_steps
            assert step % config.checkpoint.keep_every_steps == 0


def test_no_control_of_a_tiny_chain_refuses_to_begin():
    for wave in WAVES:
        for chain in load(wave).sweep("tiny"):
            config = config_of(wave, chain)
            config.condition = chain.condition
            resolved = resolve(config)
            base = base_of(resolved, {}, match_updates=(1,))
            within, between = find_within(resolved.within), find_between(resolved.between)
            within.start(base, base.plan(0, None, ""))
            between.start(base)


def test_tiny_chains_are_the_real_ones():
    for wave in WAVES:
        real, tiny = (load(wave).sweep(variant) for variant in ("", "tiny"))
        assert [(c.condition, c.seed, dict(c.changes)) for c in real] == [
            (c.condition, c.seed, dict(c.changes)) for c in tiny
        ]
        assert [bool(c.shares) for c in real] == [bool(c.shares) for c in tiny]
        assert [c.starts_from.rpartition(":")[2] for c in real] == [
            c.starts_from.rpartition(":")[2] for c in tiny
        ]


def test_one_scale_of_a_wave_is_its_part_of_the_whole():
    w17 = load("w17")
    assert (*w17.sweep("3b"), *w17.sweep("7b")) == w17.sweep()
    assert {chain.name for chain in w17.sweep("tiny")} == {"w17-3b-tiny", "w17-7b-tiny"}


def test_grpo_waves_differ_from_reinforces_in_the_update_alone():
    grpo, reinforce = resolve(load("w17").get_config("7b")), resolve(load("w8").get_config())
    assert (grpo.learn.algorithm, grpo.rollout.num_alter_tokens) == ("grpo", 4)
    assert grpo.learn.use_score_centering
    assert not grpo.learn.use_importance_sampling_ratio
    assert reinforce.learn.algorithm == "reinforce"
    assert grpo.problems == reinforce.problems


def test_an_unknown_variant_is_refused():
    with pytest.raises(
        ValueError, match=r"configs/w4\.py:13b: the variant must be one of 7b, tiny"
    ):
        load("w4").get_config("13b")
