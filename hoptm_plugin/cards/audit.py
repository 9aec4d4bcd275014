"""The audit's card: what was measured of what a set gives away, ``audit.json``, schema 1; aggregates alone.

All fractions lie in [0, 1].
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.record import Count, Digest, Fraction, Line, Record, read_record
from hoptm_plugin.cards.software import Software
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.storage.run_files import SYNTHETIC

FILE_NAME: Final = "audit.json"
LARGEST_BYTES: Final = 2**22
LEVEL: Final = 0.05
TOLD_AT: Final = 0.01  # false positive rate at which it is said who is told

Tier: TypeAlias = Literal["quick", "standard", "full"]
Verdict: TypeAlias = Literal["leak_found", "none_found", "invalid"]
Must: TypeAlias = Literal["be found", "be cleared"]


class Closeness(Record):
    """How close images lie to training images, as :class:`hoptm_plugin.privacy.distances.Distances` measures it.

    Attributes:
        share: nearer to a training image than to any that was held out.
        expected: that share where nothing leaked.
        p: of other splits of the real images, that give as much.
        ratio: median distance to the nearest training image by that to the second nearest.
        authenticity: no nearer to a training image than that is to its nearest fellow.
    """

    share: Fraction
    expected: Fraction
    p: Fraction
    ratio: NonNegativeFloat
    authenticity: Fraction


class Spaces(Record):
    """Closeness in pixels of 8 bits, and in features of a network that was trained on nothing."""

    pixels: Closeness
    features: Closeness | None


class Identity(Record):
    """Whether images point to the training image they began from.

    Attributes:
        images: that began as one; of mosaics their tiles.
        first: of them, to which their own is the nearest of its class.
        expected_first: that number by chance.
        mean_rank: mean of (rank - 1/2) / candidates; 1/2 by chance.
        p: of as many first ones by chance.
        correlation: median Pearson correlation with their own.
        correlation_of_others: median with others of its class.
        ssim: median structural similarity with their own.
        untested: other images of the set, which began as no training image as it is; as crops, say.
    """

    images: PositiveInt
    first: Count
    expected_first: NonNegativeFloat
    mean_rank: Fraction
    p: Fraction
    correlation: FiniteFloat
    correlation_of_others: FiniteFloat
    ssim: FiniteFloat
    untested: Count = 0


class Rate(Record):
    """Members that are told where few false positives are allowed; :class:`hoptm_plugin.privacy.membership.Rate`."""

    fpr: Fraction
    tpr: Fraction
    ci95: tuple[Fraction, Fraction]
    naive: tuple[Fraction, Fraction]
    p: Fraction


class Signal(Record):
    """How well members are told from others by one signal.

    Attributes:
        auc: area under the ROC curve, mean over shadows; 1/2 is guessing.
        auc_ci95: its 95 % interval, over pairs of shadows.
        p: of as much by chance.
        rates: at 1 % and 0.1 % false positives, where there are others enough.
        exposed_found: of the members that a synthetic image began from, those that are told at 1 % false positives;
            None where none are known, or there are too few others.
        roc: false and true positive rates, in ascending order.
    """

    auc: Fraction
    auc_ci95: tuple[Fraction, Fraction]
    p: Fraction
    rates: tuple[Rate, ...]
    exposed_found: Fraction | None
    roc: Annotated[tuple[tuple[Fraction, Fraction], ...], Field(max_length=100)] = ()


class Signals(Record):
    """What an attacker with data like these tells of who was among the training images.

    Attributes:
        images: that it is about.
        loss: by the loss of networks that are trained on a set.
        nearest: by the distance to the nearest synthetic image.
    """

    images: PositiveInt
    loss: Signal
    nearest: Signal

    @property
    def signals(self) -> dict[str, Signal]:
        """Both signals by what they are called in words."""
        return {"the loss of networks trained on the set": self.loss, "the nearest synthetic image": self.nearest}

    @property
    def best(self) -> tuple[str, Signal]:
        """The signal of the larger AUC, with its name."""
        return max(self.signals.items(), key=lambda each: each[1].auc)

    @property
    def told(self) -> tuple[str, Rate] | None:
        """The larger rate at 1 % false positives, with its signal's name; None where there are too few others."""
        rates = [(name, rate) for name, each in self.signals.items() for rate in each.rates if rate.fpr == TOLD_AT]
        return max(rates, key=lambda each: each[1].tpr, default=None)


class Membership(Signals):
    """The same of all images but the canaries, and of what it was told from.

    Attributes:
        shadows: distillations of halves of the images.
        networks: trained on each set, for the loss.
        canaries: the same of images that were given a class that is not theirs, in the shadows alone; None at tiers
            below the full one. They stand for images unlike all others, and are among those of no other figure.
    """

    shadows: PositiveInt
    networks: PositiveInt
    canaries: Signals | None = None


class Bound(Record):
    """A lower bound on epsilon from the run itself, as :class:`hoptm_plugin.privacy.one_run.OneRun` finds it."""

    pairs: PositiveInt
    guesses: tuple[Count, ...]
    correct: tuple[Count, ...]
    bounds: tuple[NonNegativeFloat, ...]
    epsilon: NonNegativeFloat
    ceiling: NonNegativeFloat
    delta: Fraction


class OneRun(Record):
    """What the run's own set refutes: no mechanism with a smaller epsilon makes such sets; each replaced image counts.

    Attributes:
        loss: by the loss of networks.
        nearest: by the distance to the nearest synthetic image.
    """

    loss: Bound
    nearest: Bound

    @property
    def epsilon(self) -> float:
        """The larger bound; the level was shared out between both."""
        return max(self.loss.epsilon, self.nearest.epsilon)

    @property
    def ceiling(self) -> float:
        """The most that could have been shown."""
        return max(self.loss.ceiling, self.nearest.ceiling)


class Control(Record):
    """A set of which it is known what an audit must say.

    Attributes:
        name: of what it is made of.
        must: what an audit must do with it.
        passed: whether it did.
        measured: what it measured, in words.
    """

    name: Line
    must: Must
    passed: bool
    measured: Line


class AuditCard(Record):
    """What an audit measured of one set.

    Attributes:
        schema_version: 1; called ``schema`` in JSON and as a keyword.
        config_sha256: of the settings of the run, as in its card.
        synthetic_sha256: of the file that holds its set.
        fingerprint: of its data.
        method: short name of its method.
        title: the method's name in tables.
        dataset: name of its data.
        ipc: images per class.
        tier: how much was measured.
        seed: of the audit's own draws.
        unit: what was put aside as a whole: images, or groups of them such as patients.
        members: training images.
        holdout: images put aside, to be compared with.
        reserve: images put aside, that must be cleared.
        synthetic: closeness of the set's images.
        real: closeness of the reserve.
        identity: whether images point to those they began from; None where they began from none, or it is not known.
        no_identity: why there is none.
        beside: what is handed out as well, and was not audited, in words.
        guarantee: what the method guarantees whoever attacks, in words; None: nothing.
        membership: whether members are told from others; None at the quick tier.
        one_run: what the set itself refutes; None at the quick tier, or where there are no pairs.
        controls: sets that must be found or cleared.
        verdict: "invalid" where a control did not pass; "leak_found"; or "none_found", by these tests.
        reasons: what was found, in words.
        seconds: that it took.
        software: it was made with.
        sha256: the checksum in a file.
    """

    schema_version: Literal[1] = Field(alias="schema")
    config_sha256: Digest
    synthetic_sha256: Digest
    fingerprint: Line
    method: Line
    title: Line
    dataset: Line
    ipc: PositiveInt
    tier: Tier
    seed: NonNegativeInt
    unit: Literal["image", "group"]
    members: PositiveInt
    holdout: PositiveInt
    reserve: PositiveInt
    synthetic: Spaces
    real: Spaces
    identity: Identity | None
    no_identity: Line | None
    beside: Line | None = None
    guarantee: Line | None = None
    membership: Membership | None = None
    one_run: OneRun | None = None
    controls: Annotated[tuple[Control, ...], Field(min_length=1)]
    verdict: Verdict
    reasons: tuple[Line, ...]
    seconds: NonNegativeFloat
    software: Software
    sha256: Digest | None = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> AuditCard:
        if (self.verdict == "invalid") == all(each.passed for each in self.controls):
            raise ValueError("the verdict is not that of the controls")
        if (self.verdict == "leak_found") != bool(self.reasons) and self.verdict != "invalid":
            raise ValueError("the verdict is not that of what was found")
        if (self.identity is None) == (self.no_identity is None):
            raise ValueError("there is either an identity or a reason why not")
        return self

    def sentences(self) -> list[str]:
        """Say what was measured, and what that does and does not mean, to somebody who knows nothing of attacks."""
        said = self.membership or self.verdict == "none_found"  # whose sentence says it first
        untested = [] if said else [NOT_MEMBERSHIP]
        untested += [f"Mind that {self.beside}."] if self.beside else []
        return [
            *self._verdict(),
            *([self.guarantee] if self.guarantee else []),
            *self._of_identity(),
            *self._of_membership(),
            *self._of_distances(),
            *untested,
            FOOTER,
        ]

    def _verdict(self) -> list[str]:
        if self.verdict == "invalid":
            failed = "; ".join(f"{each.name} had to {each.must}: {each.measured}" for each in self.controls
                               if not each.passed)  # fmt: skip
            found = f" What it would have found: {'; '.join(self.reasons)}." if self.reasons else ""
            return [f"This audit is not valid, and clears nothing: a set of which it is known what it gives away was "
                    f"not judged as it must be ({failed}).{found}"]  # fmt: skip
        if self.verdict == "leak_found":
            return [f"A leak was found: {'; '.join(self.reasons)}."]
        if self.membership is None:
            return ["No leak was found by these tests, which are the quick ones: whether it can be told who was "
                    "among the training images was not tested. That is not a proof that there is none.",
                    MISSED]  # fmt: skip
        return ["No leak was found by these tests. That is not a proof that there is none.", MISSED]

    def _of_identity(self) -> list[str]:
        found = self.identity
        if found is None:
            return [f"The test whether images can be traced to the training image they began from does not apply: "
                    f"{self.no_identity}. They may resemble training images all the same."]  # fmt: skip
        began = " that began as a training image as it is" if found.untested else ""
        rest = (f" The other {found.untested} began otherwise, as crops may, and were not tested for this."
                if found.untested else "")  # fmt: skip
        return [f"{found.first} of {found.images} synthetic images{began} can be traced to the training image they "
                f"began from; by chance it would be {found.expected_first:.1f} (p = {found.p:.2g} before correction). "
                f"Where more can be than by chance, whoever holds possible originals can tell which of them these are "
                f"of. A result no better than chance would not rule out other leaks.{rest}"]  # fmt: skip

    def _of_membership(self) -> list[str]:
        found, said = self.membership, list[str]()
        if found is not None:
            (by, best), told = found.best, ""
            if found.told is not None:
                name, rate = found.told
                told = (f" Where 1 in 100 others was accused wrongly, {100 * rate.tpr:.1f} % of the training images "
                        f"were recognised (by {name}; guessing recognises 1 %).")  # fmt: skip
            said.append(f"An attacker with similar data told training images from others with AUC {best.auc:.3f} by "
                        f"{by} (0.5 is guessing, 1 is certainty).{told} This describes these attacks on sets that are "
                        f"made as this one was, averaged over images. Better attacks may exist, and single patients "
                        f"may be far more exposed.")  # fmt: skip
        if found is not None and found.canaries is not None:
            by, best = found.canaries.best
            said.append(f"Of {found.canaries.images} images that were given a wrong class, to stand for unusual ones, "
                        f"the attacker told training images from others with AUC {best.auc:.3f} by {by}.")  # fmt: skip
        if self.one_run is not None:
            shown = ("nothing: a failed attempt, which neither confirms a claim of differential privacy nor says that "
                     "nothing leaks")  # fmt: skip
            if self.one_run.epsilon > 0:
                shown = (f"with 95 % confidence, that this procedure is not epsilon-differentially private for any "
                         f"epsilon below {self.one_run.epsilon:.2f}")  # fmt: skip
            said.append(f"Epsilon is a mathematical measure of what can leak at most: the larger, the more. What this "
                        f"set by itself proved of it: {shown}. However much leaks, this attempt cannot prove more than "
                        f"{self.one_run.ceiling:.2f}; the true epsilon may be far larger.")  # fmt: skip
        return said

    def _of_distances(self) -> list[str]:
        pixels = self.synthetic.pixels
        figures = (f"({100 * pixels.share:.0f} % are nearer to one, {100 * pixels.expected:.0f} % would be by chance, "
                   f"p = {pixels.p:.2g} before correction)")  # fmt: skip
        closer = f"The images are closer to training images than other real images are {figures}."
        if pixels.p > LEVEL:
            closer = (f"It was not shown that the images are closer to training images than other real images are, nor "
                      f"that they are not {figures}.")  # fmt: skip
        return [f"{closer} Such measures are no evidence of privacy: they find careless copying only."]


MISSED = (
    "What such tests miss was tried with leaks planted into sets of ten images of digits: where each was a training "
    "image, or one faded by half into another image, these tests noticed nearly all sets; where it was faded to a "
    "fifth, three in ten at most; to a twentieth, one in ten at most. Pictures of other kinds were not tried."
)
NOT_MEMBERSHIP = (
    "Not tested at this tier: whether it can be told who was among the training images (membership inference)."
)
FOOTER = (
    "Whether attributes of people, such as sex or disease, can be read off a set is not tested. To count an AI "
    "model as anonymous, EDPB Opinion 28/2024 asks that obtaining personal data be insignificantly likely by all means "
    "reasonably likely to be used. This audit does not decide that; whoever is responsible for the original data must."
)


def read_audit(path: Path) -> AuditCard:
    """Read an audit's card from its file or from the run folder that holds it.

    Raises:
        FileFormatError: missing, damaged, without a checksum, of another schema, or with values that cannot be.
    """
    path = path / FILE_NAME if path.is_dir() else path
    return read_record(path, AuditCard, "audit", "audit the run again", LARGEST_BYTES)


def audit_beside(folder: Path, card: Card) -> tuple[AuditCard | None, str | None]:
    """Return the audit of a run's set, or None; and why one that is there is left out, in words.

    Args:
        folder: of the run; an audit that is a link which leads out of it is not read.
        card: of the run.
    """
    path = folder / FILE_NAME
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        return None, None
    try:
        found = read_audit(path)
    except FileFormatError:
        return None, f"{FILE_NAME} cannot be read"
    if (found.config_sha256, found.synthetic_sha256) != (card.config_sha256, card.artefacts.get(SYNTHETIC)):
        return None, f"{FILE_NAME} is left out: it is of another set; audit the run again"
    return found, None
