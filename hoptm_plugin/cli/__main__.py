"""``python -m hoptm_plugin.cli``: the command line without its script."""

from hoptm_plugin.cli.entry import main

main()
