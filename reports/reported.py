"""What Malach et al. (arXiv 2510.14826) reported, as data to stand beside ours.

Their accuracy is exact recovery of the whole trajectory; best of up to 48 recipes and 2 seeds (Hanoi: 10 seeds for
Mamba and Pythia, 3 for the others), problems per point not stated. Where the paper has only a plot there is no number
here, but what the plot shows, in words. What stands in the camera-ready version alone is known to us second-hand.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """One cell of a table, or one curve of a figure."""

    label: str
    """The column or curve, as in the paper."""
    architecture: str
    """Ours; the paper's name of it is in NAMES."""
    task: str
    trained: int
    """Up to which length."""
    at: int
    """The length that the claim is about: accuracy is `share` there."""
    share: float | None = None
    """None: only a plot, see `said`."""
    said: str = ""
    setting: str = "interactive"
    stress: str = "random"
    """The problem set of ours that is theirs."""
    steps: int | None = None
    """Training steps, where the claim is about them."""
    measure: str = "accuracy"
    """accuracy: exact whole trajectories; or token_accuracy."""


@dataclass(frozen=True)
class Exhibit:
    """A table or figure of the paper."""

    title: str
    claims: tuple[Claim, ...]
    note: str = ""


NAMES = {"mamba1": "Mamba", "lstm": "LSTM", "gru": "GRU", "transformer": "Pythia", "sliding": "Mistral"}
NAMES |= {"hybrid": "hybrid Mamba", "rmt": "RMT"}


def _column(
    label: str, task: str, trained: int, cells: dict[str, tuple[int, float]], stress: str = "random"
) -> list[Claim]:
    return [Claim(label, name, task, trained, at, share, stress=stress) for name, (at, share) in cells.items()]


_TABLE = (
    *_column(
        "n × 1",
        "multiplication",
        10,
        stress="x1",
        cells={
            "mamba1": (1000, 1.0),
            "lstm": (500, 1.0),
            "gru": (500, 1.0),
            "transformer": (20, 0.79),
            "sliding": (13, 0.25),
        },
    ),
    *_column(
        "n × 2",
        "multiplication",
        10,
        stress="x2",
        cells={
            "mamba1": (1000, 1.0),
            "lstm": (100, 1.0),
            "gru": (100, 1.0),
            "transformer": (14, 0.12),
            "sliding": (20, 0.33),
        },
    ),
    *_column(
        "logical graph",
        "logical_graph",
        10,
        cells={
            "mamba1": (1000, 0.98),
            "lstm": (1000, 1.0),
            "gru": (1000, 1.0),
            "transformer": (1000, 0.05),
            "sliding": (500, 0.09),
        },
    ),
    *_column(
        "Hanoi",
        "hanoi",
        8,
        cells={"mamba1": (12, 0.49), "lstm": (8, 1.0), "gru": (8, 1.0), "transformer": (8, 1.0), "sliding": (8, 1.0)},
    ),
    *_column(
        "Hanoi recursive",
        "hanoi_recursive",
        7,
        cells={"mamba1": (8, 1.0), "lstm": (9, 0.83), "gru": (8, 1.0), "transformer": (7, 1.0), "sliding": (8, 0.87)},
    ),
)

_PLOT = "near 0 soon after 5 digits"

EXHIBITS = (
    Exhibit(
        "Tables 1 and 2: accuracy at the last length with at least 5%",
        _TABLE,
        "Theirs: the largest tested length with an accuracy of at least 5%, best recipe and seed.",
    ),
    Exhibit(
        "Hanoi at 12 disks: tokens right",
        (
            Claim("tokens", "mamba1", "hanoi", 8, 12, 0.9975, "at least, every seed", measure="token_accuracy"),
            Claim("tokens", "transformer", "hanoi", 8, 12, said="under 93%", measure="token_accuracy"),
        ),
        "Mean share of the model's own tokens that are right under teacher forcing; theirs of every seed, ten of them.",
    ),
    Exhibit(
        "Figure 2: addition",
        (
            Claim("addition", "mamba1", "addition", 5, 1000, 1.0),
            Claim("addition", "lstm", "addition", 5, 1000, 1.0),
            Claim("addition", "transformer", "addition", 5, 10, said=_PLOT),
            Claim("addition", "sliding", "addition", 5, 10, said=_PLOT),
        ),
        "Where theirs is words, the paper has a plot and no number.",
    ),
    Exhibit(
        "Appendix D.9: hybrid and Recurrent Memory Transformer",
        (
            Claim("addition", "hybrid", "addition", 5, 1000, 1.0),
            Claim("addition", "rmt", "addition", 5, 10, said="no extrapolation, with two segment lengths"),
        ),
        "In the camera-ready version only, known to us second-hand; sizes are not stated there.",
    ),
    Exhibit(
        "Appendix D.7: what the model may do, Mamba on addition",
        tuple(
            Claim(label, "mamba1", "addition", 5, at, share, said, setting)
            for label, setting, at, share, said in (
                ("single-turn", "single_turn", 5, 1.0, "then little or no extrapolation"),
                ("no CoT", "direct", 5, 1.0, "then little or no extrapolation"),
                ("no CoT, reversed", "direct_reversed", 5, 1.0, "then little or no extrapolation"),
                ("CoT without tool", "cot", 5, None, "fails even at 5 digits"),
            )
        ),
        "A plot in the paper; of its numbers only that three settings are perfect at 5 digits.",
    ),
    Exhibit(
        "Appendix D.6: digits and steps of training, Mamba on multiplication",
        tuple(
            Claim(
                f"{digits} digits, {steps} steps, {where}",
                "mamba1",
                "multiplication",
                digits,
                1000,
                None,
                "a plot: perfect to 1,000" if digits == 20 else "a plot: steadier with more digits and steps",
                stress=stress,
                steps=steps,
            )
            for digits in (5, 10, 20)
            for steps in (250, 500, 800)
            for stress, where in (("x1", "n × 1"), ("x2", "n × 2"))
        ),
        "Five runs each, learning rate 3e-3. 20 digits are said to be perfect to 1,000, not after how many steps.",
    ),
    Exhibit(
        "Appendix D.8: co-training on addition, Mamba on multiplication n × 2",
        tuple(
            Claim(f"{steps} steps", "mamba1", "multiplication", 20, 1000, None, said, stress="x2", steps=steps)
            for steps, said in (
                (250, "a plot: a small gain"),
                (500, "a plot: a clear gain for some weights"),
                (800, "a plot: no gain"),
            )
        ),
        "Weights of the mixture are not stated; every weight of ours is a line of its own.",
    ),
)
