"""Every recorded operation that can be bounded, by its ATen name."""

from wassertight.certificates.propagation.affine_words import AFFINE
from wassertight.certificates.propagation.image_words import IMAGES
from wassertight.certificates.propagation.other_words import OTHERS
from wassertight.certificates.propagation.reading import Handler

HANDLERS: dict[str, Handler] = {**AFFINE, **IMAGES, **OTHERS}
