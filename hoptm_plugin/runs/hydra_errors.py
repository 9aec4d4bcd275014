"""What Hydra, OmegaConf and launchers complain of, in the user's words."""

from __future__ import annotations

from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.text import unknown_name

# whose errors may come out of a sweep; and the extras that bring launchers
LAUNCHER_PACKAGES = ("joblib", "submitit", "ray")
LAUNCHERS = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}


def of_a_launcher(error: Exception) -> bool:
    """Tell whether an error comes out of a launcher's package: such as that a worker was killed."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return any(name.partition(".")[0] in LAUNCHER_PACKAGES for name in (type(error).__module__, raised_in))


def explain(error: Exception) -> str:
    """Say in the user's words what Hydra or OmegaConf found wrong."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    if isinstance(error, OverrideParseException):
        fault = error.message.splitlines()[0]
        return f"{error.override}: not a setting of the form KEY=VALUE ({fault}); quote values with special characters"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group == "hydra/launcher" and name in LAUNCHERS:
            return f'hydra/launcher: {name} is not installed; pip install "hoptm-plugin[{LAUNCHERS[name]}]"'
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        return unknown_name(f"{group}={name}: no such choice", name, error.options)
    cause = error.__cause__ or error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key and cause.parent_node is not None:
        unknown = unknown_name(f"{cause.full_key}: unknown setting", str(cause.key), map(str, cause.parent_node))
        return f"{unknown}; a keyword that its YAML does not list is given as +{cause.full_key}=VALUE"
    return "\n".join(line for line in str(cause).splitlines() if line.strip() and not line.startswith("    "))


def group_error(error: ValueError) -> Exception:
    """Return the error to raise for Hydra's complaint about method=null or =3; another one as it is."""
    if "Config group override must be" not in str(error):
        return error
    groups = "method=, dataset=, network= and the other groups of settings"
    return ConfigurationError(f"{groups} take one of the names that hoptm-bench list settings shows")
