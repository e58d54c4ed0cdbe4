"""Real streams, end to end: every record is accounted for, and the model is better than the running mean."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from tests.tools import PATIENCE_S

from .conftest import Pipeline

DATA = Path(__file__).parents[3] / "shared" / "data"

STREAMS = {
    "bike_sharing_hour.csv.gz": """
[schema]
target = "cnt"
timestamp = "dteday"
[schema.fields]
season = "category"
yr = "integer"
mnth = "integer"
hr = "integer"
holiday = "integer"
weekday = "category"
workingday = "integer"
weathersit = "category"
temp = "float"
atemp = "float"
hum = "float"
windspeed = "float"
""",
    "metro_interstate_traffic_volume.csv.gz": """
[schema]
target = "traffic_volume"
timestamp = "date_time"
[schema.fields]
holiday = "category"
temp = "float"
rain_1h = "float"
snow_1h = "float"
clouds_all = "float"
weather_main = "category"
weather_description = "category"
""",
    "trump_approval.csv.gz": """
[schema]
target = "five_thirty_eight"
[schema.fields]
ordinal_date = "integer"
gallup = "float"
ipsos = "float"
morning_consult = "float"
rasmussen = "float"
you_gov = "float"
""",
}

LEARNING = """
[generator]
source = "replay"
path = "{path}"
records_per_second = inf

[trainer]
params = {{ n_estimators = 20, min_samples_leaf = 3 }}
min_rows = 50
window_rows = 10000
retrain_every_rows = {every}

[consumer]
requests_per_second = inf
records_per_request = 1000
modes = ["records"]
"""


@pytest.mark.parametrize("name", STREAMS)
def test_a_real_stream_is_learned(pipelines: Callable[[str, str], Pipeline], name: str) -> None:
    """All rows pass all stages; over the last quarter the error is below that of predicting the running mean."""
    path = data(name)
    rows = gzip.decompress(path.read_bytes()).count(b"\n") - 1
    pipeline = pipelines("replay", STREAMS[name] + LEARNING.format(path=path, every=max(50, rows // 12)))
    pipeline.start()
    pipeline.wait(lambda: (pipeline.get("trainer", "/status") or {}).get("learned_rows") == rows, "the learner")
    pipeline.wait(lambda: (pipeline.get("consumer", "/status") or {}).get("answers") == rows, "the consumer")
    assert pipeline.get("normalizer", "/status")["rejected_rows"] == 0
    rolling = requests.get(pipeline.url("trainer", "/evaluation"), timeout=PATIENCE_S).json()["rolling"]
    assert rolling["mae"] < rolling["baseline_mae"]
    assert set(pipeline.stop().values()) == {0}
    model, mean = errors(pipeline, rows)
    assert model < mean, f"MAE {model:.2f} over the last quarter, {mean:.2f} by predicting the running mean"
    assert pipeline.query("consumer", "select count(*), count(distinct raw_offset) from results") == [(rows, rows)]


def data(name: str) -> Path:
    """A data set beside the repository; without it the test is skipped, but not in CI."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there; put the data sets into shared/data beside the repository")
    return path


def errors(pipeline: Pipeline, rows: int) -> tuple[float, float]:
    """MAE of the model and of the running mean over the last quarter of the stream."""
    statement = (
        "select avg(abs(target - prediction)), avg(abs(target - baseline)), count(*) from evaluations "
        f"where normalized_offset > {rows - rows // 4}"
    )
    model, mean, scored = pipeline.query("trainer", statement)[0]
    assert scored == rows // 4, "a row was not evaluated"
    return float(model), float(mean)
