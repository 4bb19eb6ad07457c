"""Weights in files: our own, the embedded model, the authors', FBCNN's; nothing read here can run code.

`source` says what a model's text names, `loading` opens it, `interpolation` goes between two. `checkpoint` reads and
writes our format and finds the embedded models; `lightning`, `fbcnn`, `qgac` and `unconditional` read those of others;
`pickles` and `tensors` refuse what is no plain tensor; `download` fetches what a URL names. Must know nothing of
images or sampling. Start with `checkpoint.load`.
"""

from driftrec.models.checkpoint import import_authors, load, save

__all__ = ["import_authors", "load", "save"]
