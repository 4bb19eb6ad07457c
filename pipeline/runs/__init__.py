"""The life of a run in OUTPUT: claimed, attempted, resumed, verified, finished.

`run` opens and ends a run, `ledger` is the record that everything is read from, `stage` is what all stages share,
`crashes` blames the image that ends its worker, `redo` does again what lacks, `settling` what has a name of another,
`verify` and `integrity` look whether all is there, `documents` reads run.json and _RESULT.json whatever they hold,
`reporter` writes status.json. Must know nothing of Ray, models or reports. Start with `run.open_run`.
"""
