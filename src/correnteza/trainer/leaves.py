"""Trees whose leaves go on learning: what a leaf says is the mean of all rows that fell into it, later ones among them.

A tree is grown once; then each version takes the rows that are new to it into the leaves, in the order of the rows.
So the whole forest knows the newest rows, and not only the few trees that were grown on them. (Leaves whose
statistics are updated in place are those of Domingos and Hulten, "Mining High-Speed Data Streams", KDD 2000; the splits
here are scikit-learn's.)

Invariant: rows are added one after the other, so in whatever portions they come, the sums are the same, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from correnteza.features import Floats

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Grown:
    """A fitted tree, and what its leaves have learned.

    Args:
        tree: scikit-learn's `Tree`, with its splits.
        sums: of the targets in each leaf, in the target's unit, shape [nodes].
        counts: how many rows they are of, by weight, shape [nodes].
    """

    tree: Any
    sums: Floats
    counts: Floats

    @classmethod
    def of(cls, fitted: Any) -> Grown:
        """A tree as it was fitted.

        Args:
            fitted: a tree estimator of scikit-learn.
        """
        counts = fitted.tree_.weighted_n_node_samples
        return cls(fitted.tree_, fitted.tree_.value[:, 0, 0] * counts, counts)

    @classmethod
    def filled(cls, fitted: Any, rounded: Singles, targets: Floats) -> Grown:
        """A tree whose splits are the fitted ones, and whose leaves say the mean of all rows instead of a sample of them.

        Args:
            fitted: a tree estimator of scikit-learn.
            rounded: features as trees compare them, those of its sample among them, shape [rows, features].
            targets: in the target's unit, shape [rows].
        """
        leaves, nodes = fitted.tree_.apply(rounded), fitted.tree_.node_count
        counts = np.bincount(leaves, minlength=nodes).astype(np.float64)
        sums = np.bincount(leaves, targets, nodes).astype(np.float64)
        empty = counts == 0.0  # all nodes but the leaves
        sums[empty], counts[empty] = fitted.tree_.value[empty, 0, 0], 1.0
        return cls(fitted.tree_, sums, counts)

    @property
    def values(self) -> Floats:
        """What each leaf says, in the target's unit, shape [nodes]."""
        values: Floats = self.sums / self.counts
        return values

    def learned(self, rounded: Singles, targets: Floats) -> Grown:
        """The tree with further rows in its leaves.

        Args:
            rounded: features as trees compare them, shape [rows, features].
            targets: in the target's unit, shape [rows].
        """
        leaves, sums, counts = self.tree.apply(rounded), self.sums.copy(), self.counts.copy()
        np.add.at(sums, leaves, targets)
        np.add.at(counts, leaves, 1.0)
        return Grown(self.tree, sums, counts)

    def predict(self, rounded: Singles) -> Floats:
        """What the leaves say of some rows, in the target's unit, shape [rows].

        Args:
            rounded: features as trees compare them, shape [rows, features].
        """
        answer: Floats = self.values[self.tree.apply(rounded)]
        return answer
