"""The experiments that the command line runs, one module each: ``equivariance`` and ``worked_example``.

They stand on :mod:`fastconv.nn` and the public functions alone, as a user's own experiment would. ``data`` has the
images, ``statistics``, ``figures`` and ``report`` turn numbers into what a person reads.
"""
