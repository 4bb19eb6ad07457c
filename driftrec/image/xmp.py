"""XMP packets as bytes: the orientation reset, a record of the restoration added, all else as found.

What is not found by its usual spelling (another namespace prefix, UTF-16) is left alone.
"""

import re
from collections.abc import Mapping
from xml.sax.saxutils import escape

NAMESPACE = "urn:driftrec:1.0#"
# The packet's identification is that of the XMP specification, part 1, 7.3.2.
PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    "</rdf:RDF></x:xmpmeta>\n"
    '<?xpacket end="w"?>'
).encode()
ORIENTATION = re.compile(rb"""(\btiff:Orientation(?:\s*=\s*["']|\s*>)\s*)[2-8](?=\D)""")
HISTORY_END = re.compile(rb"</rdf:Seq>\s*</driftrec:history>")
RDF_END = b"</rdf:RDF>"
# What XMP says of pictures and videos that lie behind the image in its file, by namespace: names of its properties.
VIDEO = {
    b"http://ns.google.com/photos/1.0/camera/": rb"(?:MotionPhoto|MicroVideo)\w*",
    b"http://ns.google.com/photos/1.0/container/": rb"Directory",
}
GAIN_MAP = {b"http://ns.adobe.com/hdr-gain-map/1.0/": rb"\w+"}


def upright(xmp: bytes) -> bytes:
    """The same packet with an orientation of 1 in place of any other."""
    return ORIENTATION.sub(rb"\g<1>1", xmp)


def without_claims(xmp: bytes, of: Mapping[bytes, bytes] = VIDEO | GAIN_MAP) -> bytes:
    """The same packet without what it says of things behind the image: a motion photo's video, a gain map."""
    for namespace, name in of.items():
        for declared in set(re.findall(rb"xmlns:(\w+)\s*=\s*[\"']" + re.escape(namespace), xmp)):
            claim = rb"%b:%b" % (declared, name)
            xmp = _without_elements(xmp, re.compile(rb"<(%b)\b[^<>]*>" % claim))
            xmp = re.sub(rb"\s%b\s*=\s*(?:\"[^\"]*\"|'[^']*')" % claim, b"", xmp)
    return xmp


def _without_elements(xmp: bytes, opening: re.Pattern[bytes]) -> bytes:
    """Without the elements that begin so, and all in them; one that does not end stays."""
    parts, at = list[bytes](), 0
    while found := opening.search(xmp, at):
        end = found.end()
        if not found[0].endswith(b"/>"):
            closing = b"</" + found[1] + b">"
            if (end := xmp.find(closing, end)) < 0:
                break
            end += len(closing)
        parts.append(xmp[at : found.start()])
        at = end
    return b"".join([*parts, xmp[at:]])


def takes_record(xmp: bytes | None) -> bool:
    """Whether `with_record` finds the place to write to."""
    return xmp is None or RDF_END in xmp


def with_record(xmp: bytes | None, record: str) -> bytes | None:
    """A packet with one more entry in `driftrec:history`, a list; made anew if there is none, else left as it was."""
    if not takes_record(xmp):
        return xmp
    packet = PACKET if xmp is None else xmp
    entry = f"<rdf:li>{escape(record)}</rdf:li>".encode()
    if found := HISTORY_END.search(packet):
        return packet[: found.start()] + entry + packet[found.start() :]
    opening = f'<rdf:Description rdf:about="" xmlns:driftrec="{NAMESPACE}"><driftrec:history><rdf:Seq>'.encode()
    at = packet.rindex(RDF_END)
    closing = b"</rdf:Seq></driftrec:history></rdf:Description>"
    return packet[:at] + opening + entry + closing + packet[at:]
