"""Is a challenger not worse than the champion? A test that may be looked at after every row.

Invariants:
- If the challenger is worse by the margin, it is ever called "better" or "not_worse" with a probability of at most
  `alpha`; if it is not, it is ever called "worse" with a probability of at most `alpha`. There is no last row.
- The state and the row of the verdict do not depend on how the rows are cut into calls: whatever is summed, is
  summed within blocks whose ends depend only on the count of rows, and the rows of the unfinished block are kept.
- The first verdict stays.

The test bets against a hypothesis (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", Journal of the Royal Statistical Society B 86, 2024). With the losses c of the challenger and h of the
champion, x = (c - (1 + margin) h) / scale, clipped to [-1, 1]. If the challenger is worse by the margin or more,
the expectation of x given the past is not negative, so the wealth prod(1 - bet x) is a supermartingale, whatever
the losses depend on. By Ville's inequality it ever reaches 1 / alpha with a probability of at most alpha
(Ville, "Étude critique de la notion de collectif", 1939; Ramdas et al., "Game-theoretic statistics and safe
anytime-valid inference", Statistical Science 38, 2023). The same holds of the mean of the wealths of several bets.

The scale is *predictable*, that is, made of rows before the block: it is a multiple of the winsorised running mean
of |c - h| + margin h. Two versions of a model have much the same losses, so this is far smaller than the losses are,
and some tens of rows are enough. What is tested is the expectation of the *clipped* difference: a single row
counts at most as much as `REACH` usual ones. An outlier therefore cannot decide, and nor can a challenger
that is a little better on nearly all rows be refused for being much worse on very few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from correnteza.features import Floats

BETS = np.array([0.06, 0.15, 0.4, 0.9])
"""Shares of the wealth that are staked; the wealths are averaged, so that none has to be the best."""
REACH = 6.0
"""A difference of so many usual ones is clipped. Less decides sooner, and says less about the mean."""
BETTER_REACH = 3.0
"""The same for the word "better", which tells more than "not_worse" and decides nothing more."""
FIRST_ROWS = 8
"""Rows from which the first scale is taken; nothing is staked on them. Blocks then end at twice the rows."""
BLOCK_ROWS = 64
"""Most rows of a block, and of the unfinished block in the state."""
MEMORY_ROWS = 256
"""Rows that the scale's running mean remembers, about."""
WINSORISED = 0.15
"""Share of the rows of a block that may be outliers without any part in the scale."""
LARGEST = 1e300
"""Losses above it, infinite and unknown ones count as this."""
SMALLEST = 1e-300

VERDICTS = ("better", "not_worse", "worse")


@dataclass(frozen=True, slots=True)
class Duel:
    """A test between the same rows' losses of two models; start with `Duel(margin, alpha)`.

    Args:
        margin: by which share of the champion's mean loss the challenger may be worse, at least 0.
        alpha: the probability of a wrong verdict that is allowed, between 0 and 1.
        verdict: None as long as it is open; "not_worse": the challenger has at most margin more loss; "better": the same,
            and at that row there was as much evidence that it has less loss; "worse": it has more than margin more.
        rows: rows of the finished blocks.
        scale: of the usual difference, in the target's unit.
        champion: mean loss of the champion over these rows, in the target's unit.
        challenger: mean loss of the challenger over these rows, in the target's unit.
        logs: logarithms of the wealths that were won of "worse by the margin", "not worse by the margin" and
            "not better", for each bet, shape [3][bets].
        pending: losses of champion and challenger in the unfinished block, shape [2][rows].

    >>> losses = np.linspace(1.0, 2.0, 100)
    >>> Duel().extend(losses, losses * 0.7).verdict
    'better'
    >>> Duel().extend(losses, losses).verdict
    'not_worse'
    >>> Duel().extend(losses, losses * 1.1).verdict
    'worse'
    """

    margin: float = 0.02
    alpha: float = 0.05
    verdict: str | None = None
    rows: int = 0
    scale: float = 0.0
    champion: float = 0.0
    challenger: float = 0.0
    logs: tuple[tuple[float, ...], ...] = ((0.0,) * len(BETS),) * len(VERDICTS)
    pending: tuple[tuple[float, ...], ...] = ((), ())

    def extend(self, champion_losses: Floats, challenger_losses: Floats) -> Duel:
        """Go on by some rows; after a verdict nothing changes any more.

        Args:
            champion_losses: absolute errors in the order of the rows, in the target's unit, shape [rows].
            challenger_losses: of the same rows, shape [rows].
        """
        if self.verdict is not None or not len(champion_losses):
            return self
        fresh = [_bounded(champion_losses), _bounded(challenger_losses)]
        losses = np.concatenate([np.array(self.pending), np.stack(fresh)], axis=1)
        duel, start = self, 0
        while duel.verdict is None and start < losses.shape[1]:
            end = min(start + duel._block_rows(), losses.shape[1])
            duel = duel._over(losses[:, start:end], known=max(0, len(self.pending[0]) - start))
            start = end
        return duel

    def numbers(self) -> dict[str, Any]:
        """What it stands on, for an event: rows, mean losses in the target's unit, natural logarithms of the wealths.

        A verdict needs a log-wealth of `log_threshold`; "not_worse" and "better" need that of `log_not_worse`.
        """
        rows, champion, challenger, logs = self._totals()
        names = ("log_not_worse", "log_worse", "log_better")
        return {
            "verdict": self.verdict,
            "rows": rows,
            "margin": self.margin,
            "champion_loss": champion,
            "challenger_loss": challenger,
            "log_threshold": -math.log(self.alpha),
            **{name: _log_mean(of_bets) for name, of_bets in zip(names, logs, strict=True)},
        }

    def words(self) -> str:
        """The verdict in words, without its numbers.

        >>> Duel().extend(np.ones(100), np.ones(100)).words()
        'not worse by more than 2 %'
        """
        share = f"{100 * self.margin:g} %"
        known = {"better": "better", "not_worse": f"not worse by more than {share}", "worse": f"worse by more than {share}"}
        return known.get(self.verdict or "", "no verdict")

    def plain(self) -> dict[str, Any]:
        """As values that JSON has; at most 2 * `BLOCK_ROWS` losses are among them."""
        return {**asdict(self), "logs": [list(of) for of in self.logs], "pending": [list(of) for of in self.pending]}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Duel:
        """What `plain` was made of, exactly."""
        tuples = {name: tuple(tuple(of) for of in plain[name]) for name in ("logs", "pending")}
        return cls(**{**plain, **tuples})

    def _block_rows(self) -> int:
        return min(max(self.rows, FIRST_ROWS), BLOCK_ROWS)

    def _over(self, losses: Floats, known: int) -> Duel:
        """The duel after the next block, or what there is of it; `known` of its rows have brought no verdict."""
        wealths = self._wealths(losses)
        row, verdict = self._first_verdict(wealths, known)
        if verdict is not None:
            losses = losses[:, : row + 1]
        if verdict is not None or losses.shape[1] < self._block_rows():
            return replace(self, verdict=verdict, pending=tuple(tuple(of.tolist()) for of in losses))
        rows, champion, challenger, logs = replace(self, pending=tuple(tuple(of.tolist()) for of in losses))._totals()
        return replace(
            self,
            rows=rows,
            scale=self._next_scale(losses),
            champion=champion,
            challenger=challenger,
            logs=logs,
            pending=((), ()),
        )

    def _wealths(self, losses: Floats) -> Floats:
        """The wealth of each bet since the block began, after each of its rows, shape [3, bets, rows]."""
        if not self.rows:
            return np.ones((len(VERDICTS), len(BETS), losses.shape[1]))
        champion, challenger = losses
        with np.errstate(over="ignore"):
            unit = REACH * max(self.scale, SMALLEST)
            beyond = np.clip((challenger - (1.0 + self.margin) * champion) / unit, -1.0, 1.0)
            plainly = np.clip((challenger - champion) / (unit * BETTER_REACH / REACH), -1.0, 1.0)
        evidence = np.stack([-beyond, beyond, -plainly])
        wealths: Floats = np.cumprod(1.0 + BETS[:, None] * evidence[:, None, :], axis=2)
        return wealths

    def _first_verdict(self, wealths: Floats, known: int) -> tuple[int, str | None]:
        """The first row of the block that decides, and how."""
        enough = np.stack([_reached(log, of, self.alpha) for log, of in zip(self.logs, wealths, strict=True)])
        deciding = np.flatnonzero(enough[0, known:] | enough[1, known:])
        if not len(deciding):
            return 0, None
        row = known + int(deciding[0])
        not_worse, _, better = enough[:, row]
        return row, ("better" if better else "not_worse") if not_worse else "worse"

    def _totals(self) -> tuple[int, float, float, tuple[tuple[float, ...], ...]]:
        """Rows, mean losses and log-wealths with the unfinished block."""
        losses = np.array(self.pending)
        fresh = losses.shape[1]
        if not fresh:
            return self.rows, self.champion, self.challenger, self.logs
        rows = self.rows + fresh
        means = np.cumsum(losses, axis=1)[:, -1] / fresh
        champion, challenger = (
            old + (float(new) - old) * (fresh / rows) for old, new in zip((self.champion, self.challenger), means, strict=True)
        )
        won = self._wealths(losses)[:, :, -1].tolist()
        logs = tuple(
            tuple(log + math.log(by) for log, by in zip(of, block, strict=True))
            for of, block in zip(self.logs, won, strict=True)
        )
        return rows, champion, challenger, logs

    def _next_scale(self, losses: Floats) -> float:
        """The scale with a finished block, shape [2, rows]."""
        champion, challenger = losses
        usual = np.sort(np.abs(challenger - champion) + self.margin * champion)
        rows = len(usual)
        usual = np.minimum(usual, usual[rows - 1 - math.ceil(WINSORISED * rows)])
        return self.scale + (float(np.mean(usual)) - self.scale) * (rows / (min(self.rows, MEMORY_ROWS) + rows))


def _bounded(losses: Floats) -> Floats:
    known = np.nan_to_num(np.asarray(losses, dtype=np.float64), nan=LARGEST, posinf=LARGEST, neginf=0.0)
    return np.clip(known, 0.0, LARGEST)


def _reached(logs: tuple[float, ...], wealths: Floats, alpha: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """After which rows the mean wealth is 1 / alpha or more, shape [rows]."""
    most = max(logs)
    weights = np.array([math.exp(log - most) for log in logs])
    needed = math.exp(min(math.log(len(logs) / alpha) - most, 700.0))
    reached: np.ndarray[Any, np.dtype[np.bool_]] = (weights[:, None] * wealths).sum(axis=0) >= needed
    return reached


def _log_mean(logs: tuple[float, ...]) -> float:
    most = max(logs)
    return most + math.log(sum(math.exp(log - most) for log in logs) / len(logs))
