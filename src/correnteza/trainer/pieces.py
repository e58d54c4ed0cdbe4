"""Pieces of a version's ONNX graph: lines, trees, and how far targets lie apart.

Invariant: a row's answer does not depend on the rows beside it, bit for bit; so there are neither matrix products nor
ReduceSum, whose last bit depends on how many rows are computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from correnteza.features import Floats
from correnteza.trainer.linear import Linear
from correnteza.trainer.trees import Ensemble, attributes

ML = "ai.onnx.ml"
ML_OPSET_TREES = 5
"""The first with the operator TreeEnsemble."""
ML_OPSET_CONVERTED = 4
"""The first whose LabelEncoder gives doubles, and the last with the tree operator that skl2onnx writes."""
SUM = 1
"""Value of TreeEnsemble's `aggregate_function`."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the graph.

    Args:
        nodes: in an order in which they can run.
        constants: that they use.
        ml_opset: version of ai.onnx.ml that they need.
        agreeing: share of probe rows on which the answer must be the estimator's.
        by_row: whether each row is computed as if it were alone, to the last bit.
    """

    nodes: list[onnx.NodeProto]
    constants: list[onnx.TensorProto]
    ml_opset: int = ML_OPSET_CONVERTED
    agreeing: float = 1.0
    by_row: bool = True


def rounded() -> list[onnx.NodeProto]:
    """What scikit-learn's trees compare: single precision."""
    return [
        helper.make_node("Cast", ["prepared"], ["rounded"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["rounded"], ["compared"], to=TensorProto.DOUBLE),
    ]


def tree_node(ensemble: Ensemble, source: str, result: str) -> onnx.NodeProto:
    """The trees of an ensemble, added up."""
    node = helper.make_node("TreeEnsemble", [source], [result], domain=ML, n_targets=ensemble.targets, aggregate_function=SUM)
    integers, tensors = attributes(ensemble)
    for name, values in integers.items():
        # Not through `helper`, which looks at each number by itself.
        node.attribute.add(name=name, type=onnx.AttributeProto.INTS).ints.extend(values.tolist())
    node.attribute.extend(
        helper.make_attribute(name, numpy_helper.from_array(values, name)) for name, values in tensors.items()
    )
    return node


def lines(part: Linear, numbers: int) -> Part:
    """From `prepared` to `lines`, what `Linear.predict` computes, shape [rows, parts]."""
    nodes, constants, sums = [], [numpy_helper.from_array(part.intercepts[None, :], "intercepts")], ["intercepts"]
    if numbers:
        constants += [
            numpy_helper.from_array(np.arange(numbers), "number_columns"),
            numpy_helper.from_array(np.array(0.0), "mean_number"),
            numpy_helper.from_array(part.low[None], "low"),
            numpy_helper.from_array(part.high[None], "high"),
            numpy_helper.from_array(part.slopes[None], "slopes"),
            numpy_helper.from_array(part.curves[None], "curves"),
            numpy_helper.from_array(part.absent[None], "absent"),
            numpy_helper.from_array(np.array([1]), "parts_axis"),
        ]
        nodes += [
            helper.make_node("Gather", ["prepared", "number_columns"], ["seen_numbers"], axis=1),
            helper.make_node("IsNaN", ["seen_numbers"], ["missing_numbers"]),
            helper.make_node("Where", ["missing_numbers", "mean_number", "seen_numbers"], ["all_numbers"]),
            helper.make_node("Unsqueeze", ["all_numbers", "parts_axis"], ["each_part"]),
            helper.make_node("Max", ["each_part", "low"], ["raised"]),
            helper.make_node("Min", ["raised", "high"], ["within"]),
            helper.make_node("Mul", ["within", "curves"], ["curved"]),
            helper.make_node("Add", ["curved", "slopes"], ["steepness"]),
            helper.make_node("Mul", ["within", "steepness"], ["sloped"]),
            helper.make_node("Unsqueeze", ["missing_numbers", "parts_axis"], ["missing_of_parts"]),
            helper.make_node("Where", ["missing_of_parts", "absent", "mean_number"], ["said_of_missing"]),
            helper.make_node("Add", ["sloped", "said_of_missing"], ["said_of_numbers"]),
            *column_sum("said_of_numbers", numbers, axis=2, result="line_of_columns"),
            helper.make_node("Squeeze", ["line_of_columns", "last_axis"], ["line"]),
        ]
        sums.append("line")
    for place, effects in enumerate(part.effects):
        made = _effects(effects, place, numbers + place)
        nodes += made.nodes
        constants += made.constants
        sums.append(f"effect_{place}")
    nodes.append(helper.make_node("Sum", sums, ["lines"]))
    return Part(nodes, constants)


def column_sum(source: str, columns: int, axis: int, result: str) -> list[onnx.NodeProto]:
    """The sum along an axis, which stays; from the first column to the last, unlike ReduceSum, however many rows there are."""
    names = [f"{source}_{column}" for column in range(columns)]
    split = helper.make_node("Split", [source], names, axis=axis, num_outputs=columns)
    return [split, helper.make_node("Sum", names, [result])]


def _effects(effects: Floats, place: int, column: int) -> Part:
    """The effect of one category field: the row of its table that `linear.indices` names."""
    names = {name: f"{name}_{place}" for name in ("code_of", "table", "last", "zero")}
    last = len(effects) - 1
    constants = [
        numpy_helper.from_array(np.array(column), names["code_of"]),
        numpy_helper.from_array(effects, names["table"]),
        numpy_helper.from_array(np.array(float(last)), names["last"]),
        numpy_helper.from_array(np.array(0.0), names["zero"]),
    ]
    nodes = [
        helper.make_node("Gather", ["prepared", names["code_of"]], [f"seen_{place}"], axis=1),
        helper.make_node("GreaterOrEqual", [f"seen_{place}", names["zero"]], [f"real_{place}"]),  # False for NaN
        helper.make_node("Where", [f"real_{place}", f"seen_{place}", names["last"]], [f"counted_{place}"]),
        helper.make_node("Min", [f"counted_{place}", names["last"]], [f"bounded_{place}"]),
        helper.make_node("Cast", [f"bounded_{place}"], [f"index_{place}"], to=TensorProto.INT64),
        helper.make_node("Gather", [names["table"], f"index_{place}"], [f"effect_{place}"], axis=0),
    ]
    return Part(nodes, constants)


def spread(leaves: Ensemble, hidden: Floats, most: float) -> Part:
    """How far targets lie apart: in the leaves that a row falls into, and by what its missing fields would have said.

    Args:
        leaves: the deviation of the targets in each leaf, and the least there is.
        hidden: deviation of the answers that each field accounts for, in the target's unit, shape [features].
        most: deviation that all of them together may have: that of the targets, in the target's unit.

    The two are variances that add up. Of a row without missing fields the first one stands, to the last bit.
    """
    scale = float(hidden.max()) or 1.0  # keeps the squares finite whatever the unit
    constants = [
        numpy_helper.from_array(np.array(leaves.base), "least_spread"),
        numpy_helper.from_array((hidden / scale)[None, :] ** 2, "hidden"),
        numpy_helper.from_array(np.array(0.0), "nothing_hidden"),
        numpy_helper.from_array(np.array(scale), "hidden_scale"),
        numpy_helper.from_array(np.array([[(most / scale) ** 2]]), "hidden_most"),
        numpy_helper.from_array(np.array(1.0), "leaves_alone"),
    ]
    nodes = [
        tree_node(leaves, "compared", "deviations"),
        # Not Add: ONNX Runtime leaves out what it adds when that is 0 in single precision.
        helper.make_node("Sum", ["deviations", "least_spread"], ["in_leaves"]),
        helper.make_node("IsNaN", ["prepared"], ["missing_fields"]),
        helper.make_node("Where", ["missing_fields", "hidden", "nothing_hidden"], ["hidden_fields"]),
        *column_sum("hidden_fields", len(hidden), axis=1, result="hidden_sum"),
        helper.make_node("Min", ["hidden_sum", "hidden_most"], ["hidden_share"]),
        helper.make_node("Div", ["hidden_scale", "in_leaves"], ["hidden_unit"]),
        helper.make_node("Mul", ["hidden_unit", "hidden_unit"], ["hidden_square"]),
        helper.make_node("Mul", ["hidden_square", "hidden_share"], ["hidden_variance"]),
        helper.make_node("Add", ["hidden_variance", "leaves_alone"], ["variance"]),
        helper.make_node("Sqrt", ["variance"], ["widened"]),
        helper.make_node("Mul", ["in_leaves", "widened"], ["spread"]),
    ]
    return Part(nodes, constants)
