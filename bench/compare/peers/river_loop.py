# mypy: ignore-errors
"""River's StandardScaler per record, results into SQLite: `python river_loop.py ROWS DATABASE` prints JSON.

The records are in memory; the database commits every 10,000 rows with WAL and synchronous=FULL, as ours does.
"""

import json
import random
import sqlite3
import sys
import time

from river.preprocessing import StandardScaler

FIELDS = [f"x{i}" for i in range(10)]
COMMIT_ROWS = 10_000

rows = int(sys.argv[1])
draw = random.Random(1)
records = [{name: draw.gauss(10.0, 3.0) for name in FIELDS} for _ in range(rows)]
database = sqlite3.connect(sys.argv[2])
database.execute("pragma journal_mode = wal")
database.execute("pragma synchronous = full")
database.execute(f"create table normalized(id integer primary key, {', '.join(f'{name} real' for name in FIELDS)})")
insert = f"insert into normalized({', '.join(FIELDS)}) values ({', '.join('?' * len(FIELDS))})"
scaler = StandardScaler()
began = time.perf_counter()
for first in range(0, rows, COMMIT_ROWS):
    made = []
    for record in records[first : first + COMMIT_ROWS]:
        scaler.learn_one(record)
        made.append(tuple(scaler.transform_one(record).values()))
    database.executemany(insert, made)
    database.commit()
took_s = time.perf_counter() - began
print(json.dumps({"records_per_s": rows / took_s}))
