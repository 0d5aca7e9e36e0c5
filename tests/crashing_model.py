"""A model that goes wrong in both ways that a server survives. (The client reads its annotations as objects.)"""

import os

import pandas as pd
from snowflake.ml.model import custom_model


class Crashing(custom_model.CustomModel):
    """Ends its process for ratings above four, as a fault in native code does, and raises for those below two."""

    @custom_model.inference_api
    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        if (frame["RATING"] > 4).any():
            os._exit(3)
        if (frame["RATING"] < 2).any():
            raise ValueError("no such rating")
        return pd.DataFrame({"TWICE": frame["RATING"] * 2})
