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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from correnteza.errors import TrainingFailedError
from correnteza.features import OTHER, Codes, Floats, Scaler
from correnteza.records import Schema
from correnteza.trainer.estimators import FEATURE_LIMIT, allows_missing, prepared
from correnteza.trainer.predictor import FeaturePredictor
from correnteza.trainer.trees import Ensemble, attributes, flatten

ML = "ai.onnx.ml"
IR_VERSION = 10
OPSET = 18
ML_OPSET_TREES = 5
"""The first with the operator TreeEnsemble."""
ML_OPSET_CONVERTED = 4
"""The first whose LabelEncoder gives doubles, and the last with the tree operator that skl2onnx writes."""
TOLERANCE = 1e-4
"""How far an export may be from the estimator, as a share of the prediction and of the predictions' spread."""
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
    """

    nodes: list[onnx.NodeProto]
    constants: list[onnx.TensorProto]
    ml_opset: int = ML_OPSET_CONVERTED
    agreeing: float = 1.0


def export(fitted: Any, scaler: Scaler, codes: Codes, schema: Schema, probe: Floats | None = None) -> bytes:
    """The model as serialized ONNX.

    Inputs: `numbers` double [N, numeric fields] in their own units, NaN is missing; `categories` string
    [N, category fields], "" is missing; an input without fields is left out. Output: `prediction` double
    [N, 1] in the target's unit. In between stands the tensor `features`, double [N, features]. Metadata:
    `numbers` and `categories` (JSON lists of names), `target`, `schema_sha256`, `scaler_version`.

    Args:
        fitted: a scikit-learn regressor fitted on columns in the order of `schema.features`.
        scaler: the version that its numbers are standardised in.
        codes: of the category fields, as far as they are known.
        schema: of the records.
        probe: features that the export must answer as the estimator does, shape [rows, features], NaN is
            missing; by default one row of zeros.

    Raises:
        TrainingFailedError: the estimator cannot be converted, or the export answers otherwise.
    """
    rows = np.zeros((1, len(schema.features))) if probe is None else probe
    expected = np.ravel(fitted.predict(prepared(fitted, rows)))
    reasons = []
    for estimator in _estimator_parts(fitted, len(schema.features)):
        try:
            behind = _behind_features(fitted, estimator())
            model = _model(_encoder(scaler, codes, schema), behind, schema, scaler)
            _check_answers(model, rows, expected, behind.agreeing)
        except Exception as error:  # converters and ONNX Runtime raise what they like
            reasons.append(_line(error))
        else:
            return model
    raise TrainingFailedError(
        f"{type(fitted).__name__} cannot be served with ONNX: {'; '.join(dict.fromkeys(reasons))}; "
        "use another trainer.estimator, as sklearn.ensemble.RandomForestRegressor"
    )


def feature_model(model: bytes) -> bytes:
    """The part behind the tensor `features`: input `features` double [N, features], output `prediction` double [N, 1].

    Args:
        model: what `export` returned.
    """
    whole = onnx.load_model_from_string(model)
    graph = whole.graph
    cut = next(i for i, node in enumerate(graph.node) if "features" in node.output) + 1
    del graph.node[:cut]
    used = {name for node in graph.node for name in node.input}
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in used:
            del graph.initializer[i]
    width = sum(len(json.loads(p.value)) for p in whole.metadata_props if p.key in ("numbers", "categories"))
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("features", TensorProto.DOUBLE, ["N", width]))
    return bytes(whole.SerializeToString(deterministic=True))


def _model(front: Part, behind: Part, schema: Schema, scaler: Scaler) -> bytes:
    inputs = [
        helper.make_tensor_value_info(name, kind, ["N", len(fields)])
        for name, kind, fields in (
            ("numbers", TensorProto.DOUBLE, schema.numeric),
            ("categories", TensorProto.STRING, schema.categories),
        )
        if fields
    ]
    output = helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, ["N", 1])
    graph = helper.make_graph(front.nodes + behind.nodes, "correnteza", inputs, [output], front.constants + behind.constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML, behind.ml_opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="correnteza")
    metadata = {
        "numbers": json.dumps(schema.numeric),
        "categories": json.dumps(schema.categories),
        "target": schema.target,
        "schema_sha256": schema.fingerprint,
        "scaler_version": str(scaler.version),
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


def _behind_features(fitted: Any, estimator: Part) -> Part:
    """From `features` over `prepared` to `prediction`: what `estimators.prepared` does, then the estimator."""
    constants = [
        numpy_helper.from_array(np.array(-FEATURE_LIMIT), "feature_min"),
        numpy_helper.from_array(np.array(FEATURE_LIMIT), "feature_max"),
    ]
    if allows_missing(fitted):
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
    ensemble = flatten(fitted)
    if ensemble is not None:
        return [partial(_trees, ensemble)]
    return [partial(_converted, fitted, width, kind) for kind in (TensorProto.DOUBLE, TensorProto.FLOAT)]


def _trees(ensemble: Ensemble) -> Part:
    nodes, source = [], "prepared"
    if ensemble.float32:
        nodes = [
            helper.make_node("Cast", [source], ["rounded"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["rounded"], ["compared"], to=TensorProto.DOUBLE),
        ]
        source = "compared"
    nodes.append(_tree_node(ensemble, source, "leaves"))
    nodes.append(helper.make_node("Add", ["leaves", "base"], ["sum"]))
    nodes.append(helper.make_node("Exp" if ensemble.exponential else "Identity", ["sum"], ["prediction"]))
    return Part(nodes, [numpy_helper.from_array(np.array(ensemble.base), "base")], ML_OPSET_TREES)


def _tree_node(ensemble: Ensemble, source: str, result: str) -> onnx.NodeProto:
    node = helper.make_node("TreeEnsemble", [source], [result], domain=ML, n_targets=1, aggregate_function=SUM)
    integers, tensors = attributes(ensemble)
    for name, values in integers.items():
        # Not through `helper`, which looks at each number by itself.
        node.attribute.add(name=name, type=onnx.AttributeProto.INTS).ints.extend(values.tolist())
    node.attribute.extend(
        helper.make_attribute(name, numpy_helper.from_array(values, name)) for name, values in tensors.items()
    )
    return node


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
    return Part(nodes, constants, agreeing=0.5)


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


def _check_answers(model: bytes, rows: Floats, expected: Floats, agreeing: float) -> None:
    """Refuse an export that answers otherwise than the estimator."""
    given = FeaturePredictor(feature_model(model)).predict(rows)
    allowed = TOLERANCE * (np.abs(expected) + np.std(expected)) + 1e-9
    wrong = ~(np.abs(given - expected) <= allowed)
    if 1.0 - wrong.mean() < agreeing or not np.isfinite(given).all():
        i = int(np.argmax(wrong))
        raise TrainingFailedError(f"it answers {float(given[i])!r} where scikit-learn answers {float(expected[i])!r}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
