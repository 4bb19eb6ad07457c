"""One step of training, and the patches that it takes.

`learner` holds a run's whole state and does a step, on the `loss`; `patches` draws pairs of clean and damaged patches
from keys; `qgac` is the loss of that network, and what it takes. Must know nothing of Ray, epochs or where images come
from. Start with `learner.Learner`.
"""
