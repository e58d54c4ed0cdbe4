# mypy: ignore-errors
"""Running standardisation in Quix Streams' row processing, without a broker: `python quix_loop.py ROWS` prints JSON.

A message goes through what `Application` does with each: deserialise, run the stream in a context of its own,
serialise the result. Not counted, because they need a broker: consumer, producer, changelog. The statistics are a
Python object, not Quix Streams' own state. `chain_records_per_s` is the stream alone, from object to object.
"""

import json
import math
import random
import sys
import time
from contextvars import copy_context

from quixstreams.context import message_context, set_message_context
from quixstreams.core.stream import Stream
from quixstreams.models import Row, Topic

FIELDS = [f"x{i}" for i in range(10)]


class Scaler:
    """Welford's running mean and variance."""

    def __init__(self):
        self.rows, self.means, self.squares = 0, dict.fromkeys(FIELDS, 0.0), dict.fromkeys(FIELDS, 0.0)

    def normalize(self, record):
        """Learn the record, and express it in the statistics so far."""
        self.rows += 1
        out = {}
        for name in FIELDS:
            value = record[name]
            delta = value - self.means[name]
            self.means[name] += delta / self.rows
            self.squares[name] += delta * (value - self.means[name])
            deviation = math.sqrt(self.squares[name] / self.rows)
            out[name] = (value - self.means[name]) / deviation if deviation else 0.0
        return out


class Message:
    """A message of confluent_kafka, as far as Quix Streams looks at it."""

    def __init__(self, value, offset):
        self.fields = {"value": value, "offset": offset, "topic": "raw", "partition": 0, "key": b"key", "headers": None}
        self.fields |= {"timestamp": (1, 1_700_000_000_000), "leader_epoch": 0, "error": None}

    def __getattr__(self, name):
        return lambda: self.fields[name]

    def __len__(self):
        return len(self.fields["value"])


def whole(records):
    """Records per second with what surrounds the stream."""
    source, sink, made = Topic("raw"), Topic("normalized"), []

    def produce(value, key, timestamp, headers):
        row = Row(value=value, key=key, timestamp=timestamp, context=message_context(), headers=headers)
        made.append(sink.row_serialize(row, key))

    run = Stream().add_apply(Scaler().normalize).compose_single(sink=produce)
    messages = [Message(json.dumps(record).encode(), offset) for offset, record in enumerate(records)]
    began = time.perf_counter()
    for message in messages:
        row = source.row_deserialize(message)
        context = copy_context()
        context.run(set_message_context, row.context)
        context.run(run, row.value, row.key, row.timestamp, row.headers)
    took_s = time.perf_counter() - began
    assert len(made) == len(records)
    return len(records) / took_s


def chain(records):
    """Records per second of the stream alone."""
    made = []
    run = Stream().add_apply(Scaler().normalize).compose_single(sink=lambda value, *_: made.append(value))
    began = time.perf_counter()
    for record in records:
        run(record, b"key", 0, [])
    took_s = time.perf_counter() - began
    assert len(made) == len(records)
    return len(records) / took_s


draw = random.Random(1)
rows = [{name: draw.gauss(10.0, 3.0) for name in FIELDS} for _ in range(int(sys.argv[1]))]
print(json.dumps({"records_per_s": whole(rows), "chain_records_per_s": chain(rows)}))
