"""Makes the embedded model from photographs, in one process: no Ray, no store."""
