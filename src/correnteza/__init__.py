"""Correnteza: continuous machine learning on streams.

The way of a record, in ten lines:

    generator.people, generator.replay, POST /records   make, replay or receive it
    log.sql                                             keeps it, in `raw`
    log.http                                            carries it on, at the reader's pace
    normalizer.stage                                    checks, encodes and standardises it: `normalized`, `rejected`
    trainer.prequential                                 predicts it before anything learns from it: `evaluations`
    trainer.window, trainer.process                     learn from it, in a process of its own
    trainer.onnx, trainer.registry                      make a model version of what was learned
    trainer.predict                                     answers from that version, and keeps the answer: `predictions`
    consumer.asking                                     asks, and compares with the truth: `results`
    stage.Runner                                        moves it from step to step, each one transaction
"""
