"""Pictures in, pictures out: the model applied as a photograph needs it.

`restorer` is the face; `options` says what may be asked for; `opening` reads what is given, `tiling` cuts it,
`coefficients` is what QGAC sees in place of pixels, `adaptive` takes less where less is lost, `finishing` merges and
projects, `guard` refuses what is no restoration. Must know nothing of archives, Ray or stores. Start with
`restorer.Restorer`.
"""

from driftrec.restoration.options import Sampling
from driftrec.restoration.restorer import Restorer

__all__ = ["Restorer", "Sampling"]
