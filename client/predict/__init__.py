"""Whose photos are to be looked at, and what does the model say? From files to answers; nothing leaves the machine."""

from client.predict.cases import Case, cases_of
from client.predict.run import Result, predict_cases
from client.predict.words import describe, table

__all__ = ["Case", "Result", "cases_of", "describe", "predict_cases", "table"]
