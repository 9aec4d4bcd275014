"""What Hydra and launchers complain of, in the user's words."""

import pytest
from hydra.errors import MissingConfigException

from hoptm_plugin.runs.hydra_errors import explain, of_a_launcher


@pytest.mark.parametrize(("name", "extra"), [("joblib", "joblib"), ("submitit_slurm", "slurm"), ("ray", "ray")])
def test_a_launcher_that_is_not_installed_is_named_with_its_extra(name, extra):
    error = MissingConfigException("", missing_cfg_file=f"hydra/launcher/{name}", options=["basic"])
    assert explain(error) == f'hydra/launcher: {name} is not installed; pip install "hoptm-plugin[{extra}]"'


def test_errors_of_launchers_are_told_from_ours():
    with pytest.raises(RuntimeError) as ours:
        raise RuntimeError("a bug")
    assert not of_a_launcher(ours.value)
    submitit = pytest.importorskip("submitit")
    with pytest.raises(ValueError, match="nowhere") as theirs:
        submitit.AutoExecutor("folder", cluster="nowhere")
    assert of_a_launcher(theirs.value)
