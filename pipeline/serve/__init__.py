"""`driftrec serve`: a local web page, and the same over HTTP, for one picture at a time. Knows no Ray."""
