"""Imports every module of this library that registers parts; third parties do the same in their plug-in module."""

import hoptm_plugin.augment
import hoptm_plugin.data
import hoptm_plugin.exchange.imported
import hoptm_plugin.loggers
import hoptm_plugin.matchers
import hoptm_plugin.networks
import hoptm_plugin.schedulers
import hoptm_plugin.trajectory  # noqa: F401
