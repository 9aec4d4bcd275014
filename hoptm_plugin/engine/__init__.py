"""The one loop: distillation, network training, evaluation protocol, checkpoints."""
