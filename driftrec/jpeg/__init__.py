"""What JPEG does to an image, and what a JPEG file says of what was done.

`codec` damages images, `headers` reads a file's tables without decoding it, `constraint` holds a restoration to what
its file allows, `older_blocks` and `double_compression` look for earlier compressions. Must know nothing of other file
formats, of processes or of networks. Start with `codec.degrade`.
"""

from driftrec.jpeg.codec import degrade, encode_jpeg, shift
from driftrec.jpeg.headers import inspect

__all__ = ["degrade", "encode_jpeg", "inspect", "shift"]
