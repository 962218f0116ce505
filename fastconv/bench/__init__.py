"""Benchmarks: the suite of real layers, the rivals, the limits of the machine, and the runner that compares them.

Who calls whom (arrows point down only)::

    fastconv bench (command)      benchmarks/*.py (pytest-benchmark)
        |                              |
    report, plot, page                 |
        |                              |
    runner, beyond  -------------------+
        |
    peers    limits
        |      |
      cases (suite.toml)

:mod:`cases` holds the rows and their exact answers, :mod:`peers` one entry for each contender, :mod:`limits` what this
machine can do at most, :mod:`runner` times contenders in turn, :mod:`beyond` measures what is not speed of a row.
"""
