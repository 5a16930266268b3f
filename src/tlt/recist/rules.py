"""The rules of RECIST 1.1, in our own words, with the section that each one is from.

Source: Eisenhauer et al., *New response evaluation criteria in solid tumours: revised RECIST
guideline (version 1.1)*, Eur J Cancer 45 (2009) 228-247. Where the RECIST group has made a rule
clearer since (recist.eortc.org, questions and clarifications), the text says so. Rules whose
section is ``tlt`` are ours: what software must leave to a reader.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "Eisenhauer et al., Eur J Cancer 45 (2009) 228-247"
OURS = "tlt"


@dataclass(frozen=True)
class Rule:
    """A rule: the section of the source, or ``tlt``, and what it says."""

    section: str
    text: str

    @property
    def cited(self) -> str:
        """The section as a table quotes it: ``RECIST 1.1, 4.3.1``."""
        return "rule of tlt" if self.section == OURS else f"RECIST 1.1, {self.section}"


MEASURABLE = Rule(
    "3.1.1",
    "On CT a lesion is measurable from a long axis of 10 mm, or of twice the slice thickness where "
    "slices are thicker than 5 mm (Appendix II).",
)
NODE_SIZE = Rule(
    "3.1.1, 4.2",
    "A lymph node is judged by its short axis: from 15 mm it can be a target, from 10 to below 15 "
    "mm it is non-target, below 10 mm it is normal and not followed.",
)
SELECTION = Rule(
    "4.2",
    "Targets are at most five measurable lesions, at most two of an organ: the largest ones that "
    "can be measured again reliably. All other disease is non-target. Nodes count as one organ, "
    "and so do paired organs (clarified by the RECIST group).",
)
SUM = Rule(
    "4.2",
    "The sum of diameters adds the long axis of every target, and the short axis of targets that "
    "are nodes; the sum at baseline is the reference.",
)
NODE_IN_SUM = Rule(
    "4.3.2",
    "A target node is measured by its short axis at every time point and counts in the sum even "
    "when it has become normal, so a complete response need not bring the sum to zero.",
)
TOO_SMALL = Rule(
    "4.3.2",
    "A target that is still seen but too small to measure counts as 5 mm; a diameter that can be "
    "measured is used even below 5 mm.",
)
GONE = Rule("4.3.2", "A target that a reader judges to have disappeared counts as 0 mm.")
SPLIT = Rule(
    "4.3.2", "When a target falls into parts, the longest diameters of the parts are added."
)
MERGED = Rule(
    "4.3.2",
    "When lesions have grown together and cannot be told apart, the longest diameter of the whole "
    "counts once.",
)
TARGET_CR = Rule(
    "4.3.1",
    "Complete response: every target that is no node has disappeared, and every node has a short "
    "axis below 10 mm.",
)
TARGET_PR = Rule(
    "4.3.1",
    "Partial response: the sum is at least 30 % below the sum at baseline.",
)
TARGET_PD = Rule(
    "4.3.1",
    "Progression: the sum is at least 20 %, and at least 5 mm, above the smallest sum on study, "
    "the one at baseline included.",
)
TARGET_SD = Rule(
    "4.3.1",
    "Stable disease: neither shrunk enough from baseline for a partial response nor grown enough "
    "from the smallest sum for progression.",
)
MISSING = Rule(
    "4.4.2",
    "When a target was not assessed, the time point cannot be evaluated, unless the missing lesion "
    "could not change the answer: the others alone already show progression.",
)
NO_BASELINE = Rule(
    "4.2", "Without the baseline diameter of every target there is no sum to compare with."
)
NO_TARGETS = Rule("4.2", "There are no target lesions, so there is no target response.")
PRESENCE = Rule(
    "4.2, 4.3.3",
    "A non-target lesion need not be measured: it is there, gone, or unequivocally worse; a node "
    "counts as gone below 10 mm.",
)
NON_TARGET_CR = Rule(
    "4.3.3",
    "Complete response of non-targets: all have disappeared, and all nodes have a short axis below "
    "10 mm. (Tumour markers, which must be normal too, are not known here.)",
)
NON_TARGET_NON_CR = Rule(
    "4.3.3", "Non-CR/Non-PD: at least one non-target lesion persists, and none progresses."
)
NON_TARGET_PD = Rule(
    "4.3.3, 4.3.4",
    "Progression of non-targets: a reader judges that they have progressed unequivocally.",
)
NON_TARGET_NE = Rule("4.3.3, 4.4.1", "Not every non-target lesion was evaluated.")
NO_NON_TARGETS = Rule("4.3.3", "There are no non-target lesions.")
NEW = Rule(
    "4.3.5",
    "An unequivocal new lesion is progression, whatever the others do.",
)
NEW_EQUIVOCAL = Rule(
    "4.3.5",
    "A new lesion that is equivocal changes nothing until a later scan decides.",
)
NEW_CONFIRMED = Rule(
    "4.3.5",
    "When a later scan shows that an equivocal lesion is new disease, progression is dated to the "
    "scan that showed it first.",
)
TABLE_1_CR = Rule(
    "4.4.1, Table 1",
    "Targets and non-targets in complete response, nothing new: complete response.",
)
TABLE_1_HELD = Rule(
    "4.4.1, Table 1",
    "Targets in complete response, but non-targets persist or were not all evaluated, nothing new: "
    "partial response.",
)
TABLE_1_PR = Rule(
    "4.4.1, Table 1",
    "Targets in partial response, non-targets without progression even if not all evaluated, "
    "nothing new: partial response.",
)
TABLE_1_SD = Rule(
    "4.4.1, Table 1",
    "Targets stable, non-targets without progression even if not all evaluated, nothing new: "
    "stable disease.",
)
TABLE_1_NE = Rule(
    "4.4.1, Table 1",
    "Targets not all evaluated, non-targets without progression, nothing new: not evaluable.",
)
TABLE_1_PD = Rule(
    "4.4.1, Table 1",
    "Progression of the targets, or of the non-targets, is progression whatever the others do.",
)
TABLE_2_CR = Rule(
    "4.4.1, Table 2",
    "No targets; non-targets in complete response, nothing new: complete response.",
)
TABLE_2_NON_CR = Rule(
    "4.4.1, Table 2",
    "No targets; non-targets persist without progression, nothing new: Non-CR/Non-PD. (Stable "
    "disease is a category of targets only.)",
)
TABLE_2_NE = Rule(
    "4.4.1, Table 2", "No targets; non-targets not all evaluated, nothing new: not evaluable."
)
TABLE_2_PD = Rule("4.4.1, Table 2", "No targets; unequivocal progression of non-targets.")
NO_DISEASE = Rule(
    OURS,
    "No lesion is followed, so only a new lesion can change the response; RECIST 1.1 has no "
    "category for it.",
)
REAPPEARED = Rule(
    "4.4.3, Table 3; App. III",
    "After a complete response, a lesion that is there again is progression. A node is there again "
    "from a short axis of 10 mm (clarified by the RECIST group).",
)
BEST = Rule(
    "4.4.3",
    "The best overall response is the best one from the start until progression; stable disease "
    "counts only after the minimum time from baseline that the protocol sets (often 6 to 8 weeks).",
)
CONFIRMED = Rule(
    "4.4.3, Table 3; 4.6.1",
    "Where response is the endpoint of a trial without randomisation, CR and PR count when they "
    "are seen again after the interval that the protocol sets (mostly at least 4 weeks).",
)
OUT_OF_VIEW = Rule(
    "4.4.2", "A lesion that the scan does not show is not evaluable; it is not taken as gone."
)
NOT_EVALUABLE = Rule("4.4.2", "The reader could not evaluate the lesion at this time point.")
REJECTED = Rule(
    OURS, "A reader has rejected the match; the lesion is not evaluable until it is placed again."
)
UNCONFIRMED = Rule(
    OURS,
    "Software does not decide that a lesion is gone, or back again after it was gone: a reader "
    "must say so, and until then it is not counted.",
)
UNMEASURED = Rule(
    OURS, "The lesion is there, but its diameter is not known: a reader must measure it."
)
MEASURED = Rule("4.2", "The long axis of the lesion in the axial plane.")
