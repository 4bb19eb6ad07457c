"""What INPUT holds: from a URL to the images of a shard.

`location` and `selection` say what is meant, `listing` cuts it into shards; `shards` says what a shard is and reads it,
`loose`, `tars` and `parquet` are its kinds, `containers` the table of the files that hold many images; `names` and
`collisions` make output names, `partners` and `pairing` find the image of the same key in another input. Must know
nothing of Ray, ledgers or pixels. Start with `listing.list_input`.
"""
