# mypy: ignore-errors
"""The literal design: FastAPI, a pydantic model, a forest loaded with joblib, `.predict` per request.

Twice: `/predict` as a plain function, which FastAPI runs in its pool of threads, as its documentation advises
for code that blocks; `/predict-async` as a coroutine, which blocks the event loop and saves the threads.
"""

import os
import sys

import joblib
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

MODEL = joblib.load(os.environ["MODEL"])
app = FastAPI()


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


@app.post("/predict")
def predict(record: Record):
    """One prediction, in a thread."""
    return {"prediction": float(MODEL.predict([list(record.model_dump().values())])[0])}


@app.post("/predict-async")
async def predict_async(record: Record):
    """One prediction, in the event loop."""
    return {"prediction": float(MODEL.predict([list(record.model_dump().values())])[0])}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False)
