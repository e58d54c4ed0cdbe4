# mypy: ignore-errors
"""A Ray Serve deployment of the forest: one replica behind its HTTP proxy."""

import os
import signal
import sys

import joblib
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment(num_replicas=1, max_ongoing_requests=100, logging_config={"enable_access_log": False})
class Forest:
    """The deployment."""

    def __init__(self, path: str) -> None:
        self.model = joblib.load(path)

    async def __call__(self, request: Request):
        """One prediction."""
        return JSONResponse({"predictions": self.model.predict((await request.json())["rows"]).tolist()})


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, logging_config={"enable_access_log": False})
    serve.run(Forest.bind(os.environ["MODEL"]))
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    ray.shutdown()
