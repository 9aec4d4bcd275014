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
        "import sys\nfrom hoptm_plugin.cli import main\nmain(['--help'])\nmain(['run', '--help'])\n"
        "assert not {'torch', 'hydra', 'kornia'} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "hoptm-bench run method=hoptm dataset=digits ipc=1" in done.stdout
