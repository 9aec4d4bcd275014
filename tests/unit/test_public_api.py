"""The public names exist, and the command line's help does not wait for torch."""

import subprocess
import sys

import hoptm_plugin


def test_every_public_name_resolves():
    assert len(hoptm_plugin.__all__) > 20
    for name in hoptm_plugin.__all__:
        assert getattr(hoptm_plugin, name).__doc__ or name.islower(), name
        assert name in dir(hoptm_plugin)


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom hoptm_plugin.cli.entry import main\nmain(['--help'])\nmain(['run', '--help'])\n"
        "assert not {'torch', 'hydra', 'kornia'} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "hoptm-bench run method=hoptm dataset=digits ipc=1" in done.stdout


def test_registries_register_whatever_was_imported_before():
    """`hoptm_plugin.matchers` is a registry, or the package of that name once that was imported: both must do."""
    code = (
        "import sys\n"
        "if sys.argv[1] == 'late': import hoptm_plugin.builtin\n"
        "from hoptm_plugin import matchers, schedulers, networks, Matcher, Scheduler\n"
        "@matchers.register('m')\nclass M(Matcher):\n    def loss(self, pair): return 0\n"
        "@schedulers.register('s')\nclass S(Scheduler): pass\n"
        "assert networks.register\n"
        "from hoptm_plugin.core import interfaces\n"
        "assert 'm' in interfaces.matchers and 's' in interfaces.schedulers\n"
    )
    for order in ("early", "late"):
        done = subprocess.run([sys.executable, "-c", code, order], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
