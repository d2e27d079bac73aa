"""The vital signs of gradients."""
from gradvitals._version import __version__
from gradvitals.frameworks.case import Case
