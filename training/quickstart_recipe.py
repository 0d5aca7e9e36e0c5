"""The purchase model as the quickstart trains it, so that ours can be compared with it on the same rows.

Reproduces the training cells of Snowflake's quickstart "Build ML Models for Customer Conversions"
(github.com/Snowflake-Labs/sfguide-build-ml-models-for-customer-conversions, ``notebook.ipynb`` at commit 7424d66; the
recipe is the same in all twelve versions of the file). Our own model is ``customer_insights.purchase_model``; what
measures both is not here.

The recipe:

* Inputs, in this order: review quality, product layout, page load time, review sentiment, product rating. The quality
  and the layout are label-encoded, that is, each category becomes its position in alphabetical order. Product type,
  language and review length are not used.
* ``reg:squarederror``, a regression on the 0/1 purchase: 50 rounds of trees of depth 8 by histograms, learning rate
  0.1, minimum child weight 100; everything else is XGBoost's default. Its prediction is a number near the purchase
  rate, not a probability, and may leave 0..1; nothing here clips it.
* No split, no early stopping, no evaluation: the notebook fits the encoders and the model on every row it has.

What differs here:

* Open-source XGBoost on one machine in place of ``XGBEstimator`` of Snowflake's Container Runtime, which trains the
  same booster on two nodes.
* The encoders are fitted on the training rows only. A category that only the tested rows have becomes -1, before all
  others; the notebook never meets one, its own encoder would refuse it.
* Its sentiment is one of -1, 0, 0.5 and 1, with 0 where none was found. Ours is passed on as PURCHASE_FEATURES has it,
  a number in -1..1; NULL goes to XGBoost as missing.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OrdinalEncoder

from customer_insights.tables import TARGET

LABEL_ENCODED = ("REVIEW_QUALITY", "PRODUCT_LAYOUT")
AS_THEY_ARE = ("PAGE_LOAD_TIME", "REVIEW_SENTIMENT", "PRODUCT_RATING")
UNSEEN_CATEGORY = -1

ROUNDS = 50
PARAMETERS = {
    "objective": "reg:squarederror",
    "eta": 0.1,
    "max_depth": 8,
    "min_child_weight": 100,
    "tree_method": "hist",
}


def fit_predict(training: pd.DataFrame, tested: pd.DataFrame) -> np.ndarray:
    """The recipe's raw predictions for ``tested``, (n_tested,), from a model trained on ``training``.

    Both have the columns of PURCHASE_FEATURES; every row of ``training`` needs its PURCHASE_DECISION.
    """
    encoders = ColumnTransformer(
        [
            (
                "label encoded",
                OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=UNSEEN_CATEGORY),
                list(LABEL_ENCODED),
            ),
            ("as they are", "passthrough", list(AS_THEY_ARE)),
        ]
    )
    rows = xgboost.DMatrix(encoders.fit_transform(_model_input(training)), label=training[TARGET].astype(float))
    booster = xgboost.train(PARAMETERS, rows, num_boost_round=ROUNDS)
    return booster.predict(xgboost.DMatrix(encoders.transform(_model_input(tested))))


def _model_input(features: pd.DataFrame) -> pd.DataFrame:
    types = dict.fromkeys(LABEL_ENCODED, "str") | dict.fromkeys(AS_THEY_ARE, "float64")
    return features[list(types)].astype(types)
