"""For learners: checks a convolution that one has written oneself, and names the term that is wrong.

::

    from fastconv.testing import check_conv

    print(check_conv(my_conv1d, my_conv1d_backward))  # in words
    check_conv(my_conv1d, raise_on_error=True)  # in a test

``trials`` holds the cases and the right answers, ``mistakes`` the catalogue of wrong ones, ``calls`` reads signatures,
``check`` runs and judges, ``diagnosis`` finds the mistake, ``report`` tells it.
"""

from .check import check_conv
from .report import Finding, Report

__all__ = ["Finding", "Report", "check_conv"]
