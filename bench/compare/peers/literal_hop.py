# mypy: ignore-errors
"""The literal design's normalizer: FastAPI, `StandardScaler.partial_fit` per record, a row in SQLite.

`python literal_hop.py PORT DATABASE` serves `POST /normalize`; `python literal_hop.py loop ROWS DATABASE`
runs the same without HTTP and prints JSON. WAL and synchronous=FULL; over HTTP each record is committed
before it is answered, in the loop every 10,000 records are.
"""

import json
import random
import sqlite3
import sys
import time

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sklearn.preprocessing import StandardScaler

FIELDS = [f"x{i}" for i in range(10)]
COMMIT_ROWS = 10_000
INSERT = f"insert into normalized({', '.join(FIELDS)}) values ({', '.join('?' * len(FIELDS))})"
app = FastAPI()
scaler = StandardScaler()
database = sqlite3.connect(sys.argv[-1], check_same_thread=False)
database.execute("pragma journal_mode = wal")
database.execute("pragma synchronous = full")
database.execute(f"create table normalized(id integer primary key, {', '.join(f'{name} real' for name in FIELDS)})")


class Record(BaseModel):
    """The features."""

    x0: float
    x1: float
    x2: float
    x3: float
    x4: float
    x5: float
    x6: float
    x7: float
    x8: float
    x9: float


def normalized(values):
    """Learn a record, express it, store it."""
    row = [values]
    scaler.partial_fit(row)
    result = scaler.transform(row)[0].tolist()
    database.execute(INSERT, result)
    return result


@app.post("/normalize")
async def normalize(record: Record):
    """One record."""
    result = normalized(list(record.model_dump().values()))
    database.commit()
    return dict(zip(FIELDS, result, strict=True))


if __name__ == "__main__":
    if sys.argv[1] == "loop":
        draw = random.Random(1)
        rows = [[draw.gauss(10.0, 3.0) for _ in FIELDS] for _ in range(int(sys.argv[2]))]
        began = time.perf_counter()
        for number, row in enumerate(rows, 1):
            normalized(row)
            if number % COMMIT_ROWS == 0:
                database.commit()
        database.commit()
        print(json.dumps({"records_per_s": len(rows) / (time.perf_counter() - began)}))
    else:
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False)
