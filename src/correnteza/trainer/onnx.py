"""A model version as one ONNX graph: raw fields in, prediction out.

    numbers ----> (x - mean) / scale --+
                                       +--> features --> clip, fill --> estimator --> prediction
    categories --> code of each value -+

Invariants:
- Encoder, scaler and estimator are in one graph, so an answer cannot mix two versions.
- The graph computes what `estimators.prepared` and the fitted estimator's `predict` compute, in
  double precision where ONNX Runtime can; an export that answers otherwise is refused.
- Equal input gives equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from correnteza.errors import TrainingFailedError
from correnteza.features import OTHER, Codes, Floats, Scaler
from correnteza.records import Schema
from correnteza.trainer.estimators import FEATURE_LIMIT, allows_missing, limited, prepared
from correnteza.trainer.forest import SPREAD_FLOOR, SPREAD_LEAST, SPREAD_TREES, Mixture
from correnteza.trainer.pieces import (
    ML,
    ML_OPSET_CONVERTED,
    ML_OPSET_TREES,
    Part,
    column_sum,
    lines,
    rounded,
    spread,
    tree_node,
)
from correnteza.trainer.predictor import Predictor
from correnteza.trainer.probe import raw
from correnteza.trainer.trees import Ensemble, flatten, hidden, of_mixture, of_spread

IR_VERSION = 10
OPSET = 18
TOLERANCE = 1e-4
"""How far an export may be from the estimator, as a share of the prediction and of the predictions' spread."""
OUTPUTS = (("prediction", 1), ("spread", 1), ("experts", "E"), ("features", "F"))
"""Names of the graph's outputs, and their widths."""


def export(fitted: Any, scaler: Scaler, codes: Codes, schema: Schema, probe: Floats | None = None) -> bytes:
    """The model as serialized ONNX.

    Inputs: `numbers` double [N, numeric fields] in their own units, NaN is missing; `categories` string
    [N, category fields], "" is missing; an input without fields is left out. Output: `prediction` double
    [N, 1] in the target's unit. In between stands the tensor `features`, double [N, features]. Metadata:
    `numbers` and `categories` (JSON lists of names), `derived` (JSON list of the definitions of the numbers that are
    derived), `target`, `schema_sha256`, `scaler_version`, `experts` (JSON list of the ids in a recipe), and `by_row`
    (JSON; see `Part.by_row`).

    Args:
        fitted: a scikit-learn regressor, or a `Mixture`, fitted on columns in the order of `schema.features`.
        scaler: the version that its numbers are standardised in.
        codes: of the category fields, as far as they are known.
        schema: of the records.
        probe: features that the export must answer as the estimator does, shape [rows, features], NaN is
            missing; by default one row of zeros.

    Raises:
        TrainingFailedError: the estimator cannot be converted, or the export answers otherwise.
    """
    return exported(fitted, scaler, codes, schema, probe)[0]


def exported(fitted: Any, scaler: Scaler, codes: Codes, schema: Schema, probe: Floats | None = None) -> tuple[bytes, Predictor]:
    """As `export`; and the model, loaded, as it has answered the probe rows."""
    rows = np.zeros((1, len(schema.features))) if probe is None else probe
    asked = raw(rows, scaler, codes, schema)
    experts = fitted.recipe.numbers if isinstance(fitted, Mixture) else (1,)
    reasons = []
    for estimator in _estimator_parts(fitted, len(schema.features)):
        try:
            behind = _behind_features(fitted, estimator())
            model = _model(_encoder(scaler, codes, schema), behind, schema, scaler, experts)
            predictor = Predictor(model)
            _check_answers(predictor, asked, fitted, behind.agreeing)
        except Exception as error:  # converters and ONNX Runtime raise what they like
            reasons.append(_line(error))
        else:
            return model, predictor
    raise TrainingFailedError(
        f"{type(fitted).__name__} cannot be served with ONNX: {'; '.join(dict.fromkeys(reasons))}; "
        "use another trainer.estimator, as sklearn.ensemble.RandomForestRegressor"
    )


def _model(front: Part, behind: Part, schema: Schema, scaler: Scaler, experts: tuple[int, ...]) -> bytes:
    inputs = [
        helper.make_tensor_value_info(name, kind, ["N", len(fields)])
        for name, kind, fields in (
            ("numbers", TensorProto.DOUBLE, schema.numeric),
            ("categories", TensorProto.STRING, schema.categories),
        )
        if fields
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["N", width]) for name, width in OUTPUTS]
    graph = helper.make_graph(front.nodes + behind.nodes, "correnteza", inputs, outputs, front.constants + behind.constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML, behind.ml_opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="correnteza")
    metadata = {
        "numbers": json.dumps(schema.numeric),
        "categories": json.dumps(schema.categories),
        "derived": json.dumps([one.as_dict() for one in schema.derived]),
        "target": schema.target,
        "schema_sha256": schema.fingerprint,
        "scaler_version": str(scaler.version),
        "experts": json.dumps(experts),
        "by_row": json.dumps(behind.by_row),
    }
    helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString(deterministic=True))


def _encoder(scaler: Scaler, codes: Codes, schema: Schema) -> Part:
    """From the raw fields to `features`."""
    nodes, constants, columns = [], [], []
    if schema.numeric:
        constants += [numpy_helper.from_array(scaler.mean, "mean"), numpy_helper.from_array(scaler.scale, "scale")]
        nodes += [
            helper.make_node("Sub", ["numbers", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "scale"], ["standardised"]),
        ]
        columns.append("standardised")
    for i, name in enumerate(schema.categories):
        constants.append(numpy_helper.from_array(np.array([i]), f"column_{i}"))
        nodes += [
            helper.make_node("Gather", ["categories", f"column_{i}"], [f"category_{i}"], axis=1),
            _label_encoder(codes.get(name, ()), f"category_{i}", f"code_{i}"),
        ]
        columns.append(f"code_{i}")
    nodes.append(helper.make_node("Concat", columns, ["features"], axis=1))
    return Part(nodes, constants)


def _label_encoder(values: Sequence[str], source: str, result: str) -> onnx.NodeProto:
    """Text to code: unknown is OTHER, the empty text is missing."""
    keys = [value.encode() for value in ("", *values)]
    numbers = np.array([np.nan, *range(1, len(values) + 1)])
    return helper.make_node(
        "LabelEncoder",
        [source],
        [result],
        domain=ML,
        keys_tensor=helper.make_tensor("keys", TensorProto.STRING, [len(keys)], keys),
        values_tensor=numpy_helper.from_array(numbers, "values"),
        default_tensor=numpy_helper.from_array(np.array([float(OTHER)]), "default"),
    )


def _mixture(mixture: Mixture) -> Part:
    """The experts of an adaptive forest and their mixture; see `forest`."""
    part, members = mixture.linear(), len(mixture.members)
    counted = np.array([*range(members), *([0] if mixture.recipe.local is not None else [])])
    steps = lines(part, mixture.n_numeric)
    apart = spread(of_spread(mixture, SPREAD_TREES, SPREAD_FLOOR, SPREAD_LEAST), *hidden(mixture, SPREAD_TREES))
    nodes = [
        *rounded(),
        tree_node(of_mixture(mixture), "compared", "leaves"),
        *steps.nodes,
        helper.make_node("Gather", ["leaves", "counted"], ["forests"], axis=1),
        helper.make_node("Add", ["forests", "lines"], ["experts"]),
        helper.make_node("Mul", ["experts", "weights"], ["shares"]),
        *column_sum("shares", len(counted), axis=1, result="prediction"),
        *apart.nodes,
    ]
    constants = [
        *steps.constants,
        *apart.constants,
        numpy_helper.from_array(counted, "counted"),
        numpy_helper.from_array(np.array([-1]), "last_axis"),
        numpy_helper.from_array(np.array(mixture.recipe.weights)[None, :], "weights"),
    ]
    return Part(nodes, constants, ML_OPSET_TREES)


def _alone(part: Part) -> Part:
    """The part with the outputs of a model whose rows are as hard as each other, and that has one expert: itself."""
    nodes = [
        *part.nodes,
        helper.make_node("Identity", ["prediction"], ["experts"]),
        helper.make_node("Mul", ["prediction", "nothing"], ["none"]),
        helper.make_node("Add", ["none", "everything"], ["spread"]),
    ]
    constants = [numpy_helper.from_array(np.array(v), name) for name, v in (("nothing", 0.0), ("everything", 1.0))]
    return replace(part, nodes=nodes, constants=[*part.constants, *constants])


def _alone_converted(fitted: Any, width: int, kind: int) -> Part:
    return _alone(_converted(fitted, width, kind))


def _behind_features(fitted: Any, estimator: Part) -> Part:
    """From `features` over `prepared` to `prediction`: what `estimators.prepared` does, then the estimator."""
    constants = [
        numpy_helper.from_array(np.array(-FEATURE_LIMIT), "feature_min"),
        numpy_helper.from_array(np.array(FEATURE_LIMIT), "feature_max"),
    ]
    if isinstance(fitted, Mixture) or allows_missing(fitted):
        nodes = [helper.make_node("Clip", ["features", "feature_min", "feature_max"], ["prepared"])]
    else:
        constants.append(numpy_helper.from_array(np.array(0.0), "filling"))
        nodes = [
            helper.make_node("Clip", ["features", "feature_min", "feature_max"], ["clipped"]),
            helper.make_node("IsNaN", ["clipped"], ["missing"]),
            helper.make_node("Where", ["missing", "filling", "clipped"], ["prepared"]),
        ]
    return replace(estimator, nodes=nodes + estimator.nodes, constants=constants + estimator.constants)


def _estimator_parts(fitted: Any, width: int) -> list[Callable[[], Part]]:
    """Ways to compute the estimator from `prepared`, the most exact first."""
    if isinstance(fitted, Mixture):
        return [partial(_mixture, fitted)]
    ensemble = flatten(fitted)
    if ensemble is not None:
        return [lambda: _alone(_trees(ensemble))]
    kinds = (TensorProto.DOUBLE, TensorProto.FLOAT)
    return [partial(_alone_converted, fitted, width, kind) for kind in kinds]


def _trees(ensemble: Ensemble) -> Part:
    nodes, source = [], "prepared"
    if ensemble.float32:
        nodes, source = rounded(), "compared"
    nodes.append(tree_node(ensemble, source, "leaves"))
    nodes.append(helper.make_node("Add", ["leaves", "base"], ["sum"]))
    nodes.append(helper.make_node("Exp" if ensemble.exponential else "Identity", ["sum"], ["prediction"]))
    base = numpy_helper.from_array(np.array(ensemble.base), "base")
    return Part(nodes, [base], ML_OPSET_TREES, by_row=not ensemble.exponential)  # Exp has another last bit for several rows


def _converted(fitted: Any, width: int, kind: int) -> Part:
    """The estimator through skl2onnx, in double or float precision."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    tensor = DoubleTensorType if kind == TensorProto.DOUBLE else FloatTensorType
    made = to_onnx(fitted, initial_types=[("x", tensor([None, width]))], target_opset={"": OPSET, ML: ML_OPSET_CONVERTED - 1})
    if made.functions:
        raise TrainingFailedError("its conversion needs functions of its own")
    graph = made.graph
    _rename(graph, {})
    nodes = [
        helper.make_node("Cast", ["prepared"], [graph.input[0].name], to=kind),
        *graph.node,
        helper.make_node("Cast", [graph.output[0].name], ["answer"], to=TensorProto.DOUBLE),
        helper.make_node("Reshape", ["answer", "column"], ["prediction"]),
    ]
    constants = [*graph.initializer, numpy_helper.from_array(np.array([-1, 1]), "column")]
    # Which of several neighbours at the same distance is taken is open, in scikit-learn too.
    # And matrix products round as the number of rows has it.
    return Part(nodes, constants, agreeing=0.5, by_row=False)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Number all names in their order: skl2onnx draws some of them anew each time, and none must meet ours."""

    def new(old: str) -> str:
        return names.setdefault(old, f"estimator_{len(names)}") if old else ""

    graph.name, graph.doc_string = "estimator", ""
    del graph.value_info[:]
    for value in (*graph.input, *graph.initializer, *graph.output):
        value.name = new(value.name)
    for node in graph.node:
        node.name, node.doc_string = "", ""
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g, names)


def _check_answers(predictor: Predictor, asked: tuple[Floats, npt.NDArray[Any]], fitted: Any, agreeing: float) -> None:
    """Refuse an export that answers otherwise than the estimator does behind the graph's own encoder and scaler."""
    given, features = predictor.predict(*asked), predictor.features(*asked)
    ready = limited(features) if isinstance(fitted, Mixture) else prepared(fitted, features)
    expected = np.ravel(fitted.predict(ready))
    allowed = TOLERANCE * (np.abs(expected) + np.std(expected)) + 1e-9
    wrong = ~(np.abs(given - expected) <= allowed)
    if 1.0 - wrong.mean() < agreeing or not np.isfinite(given).all():
        i = int(np.argmax(wrong))
        raise TrainingFailedError(f"it answers {float(given[i])!r} where scikit-learn answers {float(expected[i])!r}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
