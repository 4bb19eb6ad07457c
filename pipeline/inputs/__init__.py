"""What INPUT holds: from a URL to the images of a shard.

`location` and `selection` say what is meant, `listing` cuts it into shards, `shards` reads one; `tars` and `parquet`
are the containers, `names` and `collisions` make output names, `partners` and `pairing` find the image of the same
key in another input. Must know nothing of Ray, ledgers or pixels. Start with `listing.list_input`.
"""
