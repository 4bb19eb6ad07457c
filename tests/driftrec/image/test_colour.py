"""CMYK to sRGB, against a press whose inks are known."""

import io
import itertools

import numpy as np
from PIL import Image, ImageCms

from driftrec.image import cmyk
from tests.corpus.profiles import cmyk_profile, srgb

OVERPRINTS = np.array(list(itertools.product((0, 1), repeat=4)))
INKS = Image.fromarray((OVERPRINTS * 255).astype(np.uint8)[None], "CMYK")


def test_overprints_come_out_as_the_profile_has_them():
    way = cmyk.to_srgb(cmyk_profile())
    found = np.asarray(way.convert(INKS))[0]
    assert np.abs(found - srgb(OVERPRINTS.astype(float))).max() <= 4  # of Lab in 8 bits
    assert "relative colorimetric" in way.note
    assert (found[0] == 255).all()


def test_without_a_usable_profile_a_formula_serves():
    expected = 255 * (1 - OVERPRINTS[:, :3]) * (1 - OVERPRINTS[:, 3:])
    of_rgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (None, b"", b"x" * 200, of_rgb):
        way = cmyk.to_srgb(icc)
        assert ("without" if icc is None else "cannot be used") in way.note
        assert way.icc is None
        assert np.array_equal(np.asarray(way.convert(INKS))[0], expected)


def test_the_profile_of_the_result_is_one_and_the_same():
    made = cmyk.srgb_profile()
    cmyk.srgb_profile.cache_clear()
    assert cmyk.srgb_profile() == made == cmyk.to_srgb(cmyk_profile()).icc
    profile = ImageCms.ImageCmsProfile(io.BytesIO(made)).profile
    assert (profile.xcolor_space, profile.creation_date.year) == ("RGB ", 2000)
    assert "sRGB" in profile.profile_description
