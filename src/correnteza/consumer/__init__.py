"""The consumer: asks the trainer for predictions, records each answer and compares it with the truth.

The way of a record: `asking.py` reads it, asks and joins the answer; `stage.py` makes a row of
`results` or of `rejected` from it and keeps the rolling error; `service.py` runs one such pair per
mode over one store.
"""
